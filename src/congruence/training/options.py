"""The options of a run, and the events that it reports: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import nn

from congruence.core import check
from congruence.training.saving.identity import options_identity

Precision = Literal["float32", "bf16", "fp16"]
HALF: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
TeacherSpeed = Literal["auto", "exact"]
Shard = Literal["student", "both"]
Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Event(NamedTuple):
    """The argument of a callback: `kind` is "start", "step", "log", "diagnostics", "epoch" or "end".

    `metrics` holds values at "log" (every `log_every` steps), "diagnostics" (where `diagnose` gave some), "epoch"
    (after validation) and "end"; a "step" has none, since reading them would make the device wait.
    """

    kind: str
    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: Mapping[str, Any]
    distiller: nn.Module


Callback = Callable[[Event], None]


class Diagnose(Protocol):
    """Measures more than validation at an epoch's end: `congruence.evaluation.Diagnostics`, or your own class."""

    def rehearse(self, distiller: nn.Module) -> None:
        """Raise a `ValueError` before the first step if something cannot be measured."""

    def __call__(self, distiller: nn.Module, epoch: int) -> Mapping[str, float]:
        """Return numbers by name, none if the epoch is skipped."""


@dataclass(frozen=True)
class OptimizerOptions:
    """SGD with momentum, or AdamW.

    Args:
        name: "sgd" or "adamw".
        lr: the base learning rate, which the schedule scales.
        momentum: momentum of SGD.
        nesterov: use Nesterov momentum in SGD.
        weight_decay: added to the gradient by SGD, decoupled in AdamW.
        betas: the two decay rates of AdamW.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        checks: dict[str, check.Constraint] = {
            "name": check.Choice(("sgd", "adamw")),
            "lr": check.POSITIVE,
            "momentum": check.Real(0, 1, closed="low"),
            "nesterov": check.Flag(),
            "weight_decay": check.NOT_NEGATIVE,
        }
        check.hyperparameters("OptimizerOptions", checks, **{name: getattr(self, name) for name in checks})
        if len(self.betas) != 2 or not all(check.Real(0, 1, closed="low").accepts(beta) for beta in self.betas):
            check.fail("OptimizerOptions", "betas", "two numbers >= 0 and < 1", repr(self.betas))
        if self.nesterov and not self.momentum:
            check.fail("OptimizerOptions", "momentum", "a number > 0 with nesterov", self.momentum)


@dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate schedule, a pure function of the position in epochs.

    Args:
        name: "constant"; "step": multiplied by `factor` at every milestone; "cosine": to 0 at the run's end.
        milestones: positions in epochs, for "step".
        factor: the factor at each milestone, for "step".
        warmup_epochs: number of epochs over which the rate grows linearly from 0.
    """

    name: Literal["constant", "step", "cosine"] = "cosine"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        checks: dict[str, check.Constraint] = {
            "name": check.Choice(("constant", "step", "cosine")),
            "factor": check.POSITIVE,
            "warmup_epochs": check.NOT_NEGATIVE,
        }
        check.hyperparameters("ScheduleOptions", checks, **{name: getattr(self, name) for name in checks})
        if not all(check.NOT_NEGATIVE.accepts(m) for m in self.milestones):
            check.fail("ScheduleOptions", "milestones", "numbers >= 0", repr(self.milestones))
        if list(self.milestones) != sorted(self.milestones):
            check.fail("ScheduleOptions", "milestones", "in rising order", self.milestones)

    def at(self, position: float, epochs: float) -> float:
        """Return the factor on the learning rate at a position in epochs.

        Example:
            >>> ScheduleOptions("step", milestones=(80, 120)).at(100, 200)
            0.1
        """
        warm = min(1.0, position / self.warmup_epochs) if self.warmup_epochs else 1.0
        if self.name == "step":
            return warm * self.factor ** sum(position >= milestone for milestone in self.milestones)
        if self.name == "cosine":
            done = (position - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-12)
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        return warm


@dataclass(frozen=True)
class FitOptions:
    """How `fit` runs.

    Args:
        epochs: passes over the training data; None if only `max_steps` ends the run.
        max_steps: optimizer steps after which to stop, even within an epoch.
        out: the run directory; None keeps everything in memory (no checkpoints, no resuming).
        device: "auto" (a GPU if there is one), or a torch device.
        precision: "float32"; "bf16" or "fp16" for autocast. With "fp16" the loss is scaled against underflow: a step
            whose scaled gradient overflows is skipped and the scale halved, which is not an error. On a processor that
            has no instructions for it a step takes several times as long as in float32; `fit` warns about this.
        gradient_clip: largest norm of the gradient; None for no clipping.
        accumulate: batches whose gradients are averaged into one step. A relational term then sees `accumulate` small
            batches, not one large one; `fit` warns about this.
        micro_batch: number of samples that a process runs through the models at once, for batches that do not fit in
            memory: a pass without gradient, the terms on all rows, and a second pass with gradient. This is exact, for
            relational terms too, except for batch norms in training mode, which use and track the statistics of each
            chunk. The batch size need not be a multiple: chunks are as equal as possible. None runs the whole batch at
            once.
        teacher_speed: "auto" runs a faster copy of the teacher: batch norms folded into the layers before them if this
            provably changes only rounding, channels last, and bfloat16 in convolutions and linear layers if the device
            has it in hardware. A step that would change the layers that are read by more than 2 % on the distiller's
            example is left out. The log and summary.json list what was used. "exact" runs the teacher as it is.
        channels_last: store the weights of the students' convolutions, and so their feature maps, with channels last
            while `fit` runs: most convolutions are then faster, and rounding differs. "auto" decides by the device and
            the kinds of layers (`congruence.models.memory_order`), provided that the students' outputs for the
            distiller's example stay the same; a resumed run keeps its choice.
        compile: run the students in training and the teacher through torch.compile, each as one graph (a model that
            cannot be one graph runs uncompiled, with a warning). Each new input shape costs about half a minute.
            Rounding differs.
        resume: continue from the last checkpoint in `out`; an absent run is started, a finished one returned. `epochs`
            may be larger than before if the schedule is "constant", "step" or your own scheduler.
        seed: seed of the process's random generators (dropout), set at the start.
        optimizer: the optimizer, unless `fit` is given one.
        schedule: the schedule, unless `fit` is given a scheduler.
        evaluate: your own validation, a function from the student (a module in evaluation mode) to named numbers.
        monitor: the number by which the best epoch is chosen: the smallest if its name contains "loss" or "error", else
            the largest. None: "accuracy" if a term trains a classifier, else "loss". Ties are broken by the smaller
            loss. A run that has chosen by one number cannot be resumed with another.
        one_standard_error: choose the last epoch whose validation accuracy is not more than one standard error below
            the highest, instead of the highest: the highest of many epochs on a few samples is mostly luck. Only where
            the accuracy of `val_loader` is the number that chooses.
        callbacks: functions called with every `Event`.
        diagnose: called at every epoch's end for numbers that go to metrics.jsonl and do not affect the choice of the
            best epoch; only called on the first rank.
        log_every: steps between two lines of metrics.jsonl.
        checkpoint_seconds: seconds between two checkpoints; there is always one at every epoch's end.
        tensorboard: also write TensorBoard event files (the extra `congruence[tensorboard]`).
        gradient_norms: measure the norm of each term's gradient at the first step and every 500th, as "gradient_norms"
            in metrics.jsonl. It costs one backward for each term and does not change the training. A term whose second
            backward could have side effects (hooks, custom autograd functions, re-entrant checkpointing) is left out,
            with a line in the log.
        sync_batch_norm: on several ranks, let batch norms use the statistics of the whole batch instead of each rank's
            part of it. It costs two exchanges a layer. Not with `micro_batch` or `compile`.
        rank_timeout: seconds after which an exchange with a rank that does not answer ends the run with its name. It
            must be longer than what only the first rank does, such as diagnostics. None: the process group's own, 30
            minutes with gloo and 10 with nccl.
        shard: None; "student" to divide the students' parameters, gradients and optimizer state over the ranks by
            FSDP2, each repeated block on its own; "both" to divide the teachers' parameters, too. On a single process
            nothing is divided. The students stay sharded after the run; their files are whole.

    Raises:
        ValueError: for a value out of its range.
    """

    epochs: int | None = None
    max_steps: int | None = None
    out: str | Path | None = None
    device: str = "auto"
    precision: Precision = "float32"
    gradient_clip: float | None = None
    accumulate: int = 1
    micro_batch: int | None = None
    teacher_speed: TeacherSpeed = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False
    resume: bool = False
    seed: int = 0
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    evaluate: Evaluate | None = None
    monitor: str | None = None
    one_standard_error: bool = False
    callbacks: tuple[Callback, ...] = ()
    diagnose: Diagnose | None = None
    log_every: int = 50
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    gradient_norms: bool = True
    sync_batch_norm: bool = False
    rank_timeout: float | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        count = check.COUNT
        maybe_count = check.Real(low=1, closed="low", integer=True, optional=True)
        checks: dict[str, check.Constraint] = {
            "epochs": maybe_count,
            "max_steps": maybe_count,
            "precision": check.Choice(get_args(Precision)),
            "gradient_clip": check.Real(low=0, optional=True),
            "accumulate": count,
            "micro_batch": maybe_count,
            "teacher_speed": check.Choice(get_args(TeacherSpeed)),
            "channels_last": check.Flag(auto=True),
            "compile": check.Flag(),
            "resume": check.Flag(),
            "seed": check.Real(low=0, closed="low", integer=True),
            "log_every": count,
            "checkpoint_seconds": check.NOT_NEGATIVE,
            "tensorboard": check.Flag(),
            "gradient_norms": check.Flag(),
            "one_standard_error": check.Flag(),
            "sync_batch_norm": check.Flag(),
            "rank_timeout": check.Real(low=0, optional=True),
            "shard": check.Choice(get_args(Shard), optional=True),
        }
        check.hyperparameters("FitOptions", checks, **{name: getattr(self, name) for name in checks})
        if self.epochs is None and self.max_steps is None:
            check.fail("FitOptions", "epochs", "given, or `max_steps`", "neither")
        self._check_parts()
        for name in ("micro_batch", "compile"):
            if self.sync_batch_norm and getattr(self, name):
                check.fail("FitOptions", "sync_batch_norm", f"False with `{name}`", True)
        if self.resume and self.out is None:
            check.fail("FitOptions", "resume", "used with a run directory `out`", "out=None")

    def _check_parts(self) -> None:
        for name, kind in (("optimizer", OptimizerOptions), ("schedule", ScheduleOptions)):
            if not isinstance(getattr(self, name), kind):
                check.fail("FitOptions", name, f"{kind.__name__}(...)", repr(getattr(self, name)))
        if not isinstance(self.device, (str, torch.device)):
            check.fail("FitOptions", "device", "a device's name", repr(self.device))
        if not (self.out is None or isinstance(self.out, (str, Path))):
            check.fail("FitOptions", "out", "a path or None", repr(self.out))
        if not (self.evaluate is None or callable(self.evaluate)):
            check.fail("FitOptions", "evaluate", "a function or None", repr(self.evaluate))
        if not (self.monitor is None or isinstance(self.monitor, str)):
            check.fail("FitOptions", "monitor", "a name or None", repr(self.monitor))
        if not (self.diagnose is None or (callable(self.diagnose) and hasattr(self.diagnose, "rehearse"))):
            check.fail("FitOptions", "diagnose", "Diagnostics(...), what is like it, or None", repr(self.diagnose))
        if not isinstance(self.callbacks, (tuple, list)) or not all(map(callable, self.callbacks)):
            check.fail("FitOptions", "callbacks", "functions in a tuple", repr(self.callbacks))

    def describe(self) -> dict[str, Any]:
        """Return the options that identify a run, as plain values: a run can be resumed only if these are equal."""
        return options_identity(self)

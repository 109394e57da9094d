"""What a run is told, and what it tells in return: frozen, checked when made."""

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
TeacherSpeed = Literal["auto", "exact"]
Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Event(NamedTuple):
    """What a callback is told: `kind` is "start", "step", "log", "diagnostics", "epoch" or "end".

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
    """What an epoch's end is to tell beyond validation: `congruence.evaluation.Diagnostics`, or one's own."""

    def rehearse(self, distiller: nn.Module) -> None:
        """Raise a `ValueError` before the first step for what cannot be measured."""

    def __call__(self, distiller: nn.Module, epoch: int) -> Mapping[str, float]:
        """Return numbers by name, none where the epoch is passed over."""


@dataclass(frozen=True)
class OptimizerOptions:
    """SGD with momentum, or AdamW.

    Args:
        name: "sgd" or "adamw".
        lr: learning rate at its full height.
        momentum: of SGD.
        nesterov: of SGD.
        weight_decay: added to the gradient by SGD, decoupled in AdamW.
        betas: of AdamW.
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
    """The learning rate's course, a pure function of the position in epochs.

    Args:
        name: "constant"; "step": multiplied by `factor` at every milestone; "cosine": to 0 at the run's end.
        milestones: in epochs.
        factor: at a milestone.
        warmup_epochs: over which the rate grows linearly from 0.
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
        epochs: passes over the training data; None where `max_steps` says when to stop.
        max_steps: optimizer steps after which to stop, whatever the epoch.
        out: the run directory; None keeps everything in memory (no checkpoints, no resuming).
        device: "auto" (cuda where there is one), or a torch device.
        precision: "float32"; "bf16" or "fp16" for autocast, the latter with the loss scaled against underflow: a step
            whose scaled gradient overflows is skipped and the scale halved, which is no error.
        gradient_clip: largest norm of the gradient; None for no clipping.
        accumulate: batches whose gradients are averaged into one step. A relational term then sees `accumulate` small
            batches, not one large one: `fit` warns with the size.
        micro_batch: samples of a batch that a process runs through the models at a time, where the whole does not fit:
            a pass without gradient, the terms on all rows, and a second pass with gradient. Exact, for relational
            terms too, but for batch norms in training mode: they use and track the statistics of each chunk. A batch
            need not divide: it is cut into parts as equal as can be. None: all at once.
        teacher_speed: "auto" runs a quicker copy of the teacher: batch norms folded into the layers before them where
            that is proved to change rounding alone, channels last, and bfloat16 in convolutions and linear layers where
            the device has it in hardware. The layers that are read may move by 2 % on the distiller's example, else it
            is left out. The log and summary.json say what ran. "exact" runs the teacher as it is.
        channels_last: hold the weights of the students' convolutions, and with them the maps between, with the channels
            last while `fit` runs: most convolutions are faster so, and rounding differs. "auto" decides by a rule from
            the device and the kinds of layers (`congruence.models.memory_order`), if the students say the same of the
            distiller's example so, and takes the choice of the run that it goes on with.
        compile: run the students in training and the teacher by torch.compile, each as one graph (with a warning and
            as it is where it cannot be one). Each new shape of inputs costs half a minute or so. Rounding differs.
        resume: go on from the last checkpoint in `out`; an absent run is started, a finished one returned. More
            `epochs` than before are added where the schedule is "constant", "step" or one's own.
        seed: of the process's generators (dropout), set at the start.
        optimizer: unless `fit` is given one.
        schedule: unless `fit` is given one.
        evaluate: one's own validation, from the student (a module in evaluation mode) to named numbers.
        monitor: the number by which the best epoch is chosen; the smallest where the name holds "loss" or "error",
            else the largest. None: "accuracy" where a term teaches the classes, else "loss". Between equal numbers the
            smaller loss decides. A run that has chosen by one does not go on with another.
        callbacks: called with every `Event`.
        diagnose: asked at every epoch's end for numbers that choose nothing and go to metrics.jsonl; on several ranks
            the first alone is asked.
        log_every: steps between two lines of metrics.jsonl.
        checkpoint_seconds: between two checkpoints, beside the one at every epoch's end.
        tensorboard: write event files too (the extra `congruence[tensorboard]`).
        gradient_norms: measure how large each term's own gradient is, at the first step and every 500th:
            "gradient_norms" of metrics.jsonl. It costs a backward a term and changes nothing that is learnt; a term
            whose backward would show (hooks, autograd functions of one's own, re-entrant checkpointing) is left out,
            with a line in the log.

    Raises:
        ValueError: for a value out of its range, in one sentence.
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
    callbacks: tuple[Callback, ...] = ()
    diagnose: Diagnose | None = None
    log_every: int = 50
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    gradient_norms: bool = True

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
        }
        check.hyperparameters("FitOptions", checks, **{name: getattr(self, name) for name in checks})
        if self.epochs is None and self.max_steps is None:
            check.fail("FitOptions", "epochs", "given, or `max_steps`", "neither")
        self._check_parts()
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
        """Return what makes a run the run it is, as plain values: two runs that differ here are not one run."""
        return options_identity(self)

"""The interface of every method: its needs, the signals of one batch, and the six calls that a method implements."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from congruence.data.datasets.facts import DataFacts

ROLES = ("features", "logits", "maps", "tokens")
Key = tuple[str, str, str]  # (model, view, role)


@dataclass(frozen=True)
class Needs:
    """What a method needs; checked before the first step.

    Args:
        roles: "features" ([B, D]; maps and tokens are averaged over their positions, without padding), "logits" ([B,
            C]), "maps" (rows [B, C], tokens [B, N, C], maps [B, C, H, W] or [B, C, T, H, W], shallow to deep; other
            orders of dimensions are permuted to these, and the patches of an image become maps) or "tokens" ([B, N, C]:
            the patches of an image, row by row, without class token and registers; the positions of maps; or words).
            `student_layer` and `teacher_layer` of a `Term` say where each role is read.
        unnamed: the role whose default layer is read if no layers are named and the role has no default: "features" for
            a method of maps that also works on the embedding.
        stages: if no layers are named for "maps", this many last stages of both models are read (fewer if a model has
            fewer). A stage is the last map of its size; in a transformer whose patches have one size, up to four blocks
            are stages. 0: layers must be named.
        naming: for a method without usable default layers, the end of the error message that says which layers must be
            named.
        views: the views of a sample that the method compares; "main" is the batch's input, others come from the data
            loader.
        distorted: those of the views that are changed more than anything a student will see later. Its batch norms
            normalise them by the batch, as ever, and leave them out of their running statistics.
        teacher: whether a teacher is needed.
        labels: whether class labels are needed; -1 marks a sample without one.
        index: whether the samples' positions in the dataset are needed.
        inputs: whether the raw inputs are needed (a queue that runs them again).
        facts: whether the dataset's size, labels and classes are needed when the method is built.
        epochs: whether `begin_epoch` and `end_epoch` must be called; a loop that does not call them raises.
        students: "each" for a method that sees one student at a time, "all" for one that sees them together.
        scope: "batch" for a relational method: rows are gathered over the ranks, with gradient, before `loss`. "sample"
            for a mean over samples, for which averaging the ranks' gradients is enough. "labelled" for a mean over the
            labelled samples: rows are gathered too, since ranks may hold different numbers of labelled samples, but the
            method is not relational.
        memory: with scope "sample", whether `update` sees the rows of all ranks all the same, because it writes a
            memory that must be equal on all of them. `loss` finds these rows, without gradient, in `Signals.whole`.
        dense: whether a method of logits takes each position of dense logits ([B, T, C], [B, C, H, W]) as a row with
            its own label; its loss is then over rows [rows, C]. Other methods refuse dense logits.
        multilabel: whether each logit belongs to an independent label, so that sigmoids are meant and no softmax.
        padded: whether a method that reads tokens as "maps" handles padded tokens, which are zeros and marked in
            `Signals.masks`. For other methods, a padded batch raises.
    """

    roles: tuple[str, ...] = ("features",)
    views: tuple[str, ...] = ("main",)
    teacher: bool = True
    labels: bool = False
    index: bool = False
    inputs: bool = False
    facts: bool = False
    epochs: bool = False
    students: Literal["each", "all"] = "each"
    scope: Literal["sample", "labelled", "batch"] = "batch"
    memory: bool = False
    stages: int = 0
    unnamed: str = ""
    padded: bool = False
    naming: str = ""
    dense: bool = False
    multilabel: bool = False
    distorted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = (*self.roles, self.unnamed) if self.unnamed else self.roles
        unknown = [role for role in named if role not in ROLES]
        if unknown or not self.roles or not self.views:
            raise ValueError(
                f"`Needs`: `roles` must be some of {', '.join(ROLES)} and `views` not empty, "
                f"got roles {self.roles} and views {self.views}."
            )
        if not set(self.distorted) < set(self.views):
            raise ValueError(
                "`Needs`: `distorted` must be some of the views, and not all, for running statistics come from the "
                f"others, got {self.distorted} of {self.views}."
            )
        if self.dense and (self.roles != ("logits",) or self.views != ("main",) or self.students != "each"):
            raise ValueError("`Needs`: `dense` must be of the logits of one student in one view, and of nothing else.")

    @property
    def gathers(self) -> bool:
        """Whether rows of all ranks are gathered, for which each rank must have as many."""
        return self.scope != "sample" or self.memory

    @property
    def teaches_classes(self) -> bool:
        """Whether labels or logits are read, so that a student's accuracy means something."""
        return self.labels or "logits" in self.roles


class Clock(NamedTuple):
    """The position of a run: `epoch` and `step`, counted from 0, and their totals if known."""

    epoch: int = 0
    step: int = 0
    epochs: int | None = None
    steps_per_epoch: int | None = None


START = Clock()


@dataclass(frozen=True)
class Signals:
    """The tensors of one batch, as one method sees them.

    `tensors` holds, for each (model, view, role), one tensor for each layer. The model is "teacher", "student" for a
    method that sees one student at a time, or a student's name. `embed` sees the rows, labels, index and inputs of its
    own rank; `loss` and `update` see those of all ranks, except with scope "sample". `all_ranks` are the signals of all
    ranks where `loss` sees its own and the method has a memory, see `Needs`. `masks` marks the real tokens,
    bool [B, N], None if all are real; `grids` gives the grid (rows, columns) of an image's tokens, None if unknown.
    `dense` says that the rows are positions of the samples; `share` is the factor on the loss that makes its mean over
    the ranks the mean over the positions of all ranks.
    """

    tensors: Mapping[Key, tuple[Tensor, ...]]
    students: tuple[str, ...]
    clock: Clock = START
    labels: Tensor | None = None
    index: Tensor | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    runner: Callable[[Mapping[str, Any]], Signals] | None = None
    masks: Mapping[Key, tuple[Tensor | None, ...]] = field(default_factory=dict)
    grids: Mapping[Key, tuple[tuple[int, int] | None, ...]] = field(default_factory=dict)
    dense: bool = False
    share: Tensor | None = None
    all_ranks: Signals | None = None

    @property
    def whole(self) -> Signals:
        """The signals of all ranks, as far as they are known here."""
        return self if self.all_ranks is None else self.all_ranks

    def layers(self, model: str, role: str, view: str = "main") -> tuple[Tensor, ...]:
        """Return the tensors of every layer given for a role, shallow to deep."""
        return self.tensors[model, view, role]

    def one(self, model: str, role: str = "features", view: str = "main") -> Tensor:
        """Return the tensor of a role that has a single layer."""
        (tensor,) = self.tensors[model, view, role]
        return tensor

    def pairs(self, role: str = "features", view: str = "main") -> list[tuple[Tensor, Tensor]]:
        """Return the student's and the teacher's tensors layer by layer."""
        return list(zip(self.layers("student", role, view), self.layers("teacher", role, view), strict=True))

    def rerun(self, views: Mapping[str, Any]) -> Signals:
        """Run the method's students again, with gradient, on kept inputs by view; `embed` is applied.

        Batch norms use their running statistics in this run and do not update them.
        """
        if self.runner is None:
            raise RuntimeError("These signals come from a cache or a file: there is no model to run again.")
        return self.runner(views)

    def replace(self, changed: Mapping[Key, tuple[Tensor, ...]]) -> Signals:
        """Return a copy of the signals with some tensors replaced, for use in `embed`."""
        return replace(self, tensors={**self.tensors, **changed})


@dataclass(frozen=True)
class Probe:
    """The result of the dry forward, for `Method.build`.

    `shapes` and `paths` hold, for each (model, role), one entry for each layer; shapes are those that the method will
    see, and `grids` are as in `Signals`. `modules` are the models themselves, for a method that reads a parameter
    besides its tap (a batch norm's margin).
    """

    shapes: Mapping[tuple[str, str], tuple[torch.Size, ...]]
    paths: Mapping[tuple[str, str], tuple[str, ...]]
    modules: Mapping[str, nn.Module]
    students: tuple[str, ...]
    facts: DataFacts | None = None
    grids: Mapping[tuple[str, str], tuple[tuple[int, int] | None, ...]] = field(default_factory=dict)

    def zeros(self, *views: str) -> Signals:
        """Return signals of zeros in the observed shapes, for the given views ("main" by default), to try a loss on.

        Example:
            >>> probe = Probe({("student", "features"): (torch.Size([4, 3]),)}, {}, {}, ("student",))
            >>> probe.zeros().one("student").shape
            torch.Size([4, 3])
        """
        views = views or ("main",)
        tensors = {
            (model, view, role): tuple(torch.zeros(shape) for shape in shapes)
            for (model, role), shapes in self.shapes.items()
            for view in views
        }
        grids = {(model, view, role): of for (model, role), of in self.grids.items() for view in views}
        return Signals(tensors, self.students, grids=grids)

    def width(self, model: str, role: str = "features", layer: int = 0) -> int:
        """Return the number of features (or channels) of a layer."""
        shape = self.shapes[model, role][layer]
        return shape[-1] if len(shape) == 3 else shape[1]

    def pairs(self, role: str = "features") -> list[tuple[torch.Size, torch.Size]]:
        """Return the shapes of student and teacher, layer by layer; raise if the numbers of layers differ."""
        students, teachers = self.shapes["student", role], self.shapes["teacher", role]
        if len(students) != len(teachers):
            raise ValueError(
                f"The numbers of layers must be equal on both sides, got {len(students)} of the student and "
                f"{len(teachers)} of the teacher."
            )
        return list(zip(students, teachers, strict=True))

    def known_facts(self) -> DataFacts:
        """Return the facts of the dataset, which `Needs(facts=True)` guarantees."""
        if self.facts is None:
            raise ValueError("The method reads facts of the dataset, which its `Needs` do not declare (facts=True).")
        return self.facts


class Method(nn.Module, abc.ABC):
    """A distillation method: a loss over signals, with optional parameters, memory and epoch hooks.

    State lives in buffers and parameters, or in `get_extra_state`, so that checkpoints include it. `loss` reads state
    and never writes it; `update` writes it, once for each batch, after the loss. Buffers that the backward of the loss
    still needs are copied first, so `update` may write in place.

    Attributes:
        needs: what the method needs.
        own_parts: names of losses that train only the method's own modules, such as a discriminator's; balanced weights
            do not apply to them.
    """

    needs: Needs = Needs()
    own_parts: tuple[str, ...] = ()
    _bound = False  # whether a distiller has built it

    def build(self, probe: Probe) -> None:
        """Create parameters, banks and margins, given the result of the dry forward."""

    def embed(self, signals: Signals) -> Signals:
        """Apply the method's trainable modules to the rows of this rank, before rows are gathered."""
        return signals

    @abc.abstractmethod
    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return named, unweighted losses of shape []; reads state and never writes it."""

    def counted(self, signals: Signals) -> Tensor:
        """Return over how many rows the loss is a mean, shape []; asked of methods that read dense logits alone."""
        if self.needs.labels and signals.labels is not None:
            return (signals.labels >= 0).sum()
        rows = signals.one("student", "logits")
        return torch.full((), len(rows), device=rows.device)

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Return the parameters that must not have weight decay; they get an optimizer group of their own."""
        return ()

    def update(self, signals: Signals) -> None:
        """Update banks, queues and running means, without gradient, once for each batch and after the loss."""

    def begin_epoch(self, clock: Clock) -> None:
        """Prepare for an epoch."""

    def end_epoch(self) -> None:
        """Finish an epoch: replace centres, drop stale state."""

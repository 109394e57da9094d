"""The interface that every method fits: what it needs, what one batch gave, and the six moments at which it acts."""

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
    """What a method asks for; checked before the first step.

    Args:
        roles: "features" ([B, D]; maps and tokens are averaged over their positions, padding left out), "logits"
            ([B, C]), "maps" (rows [B, C], tokens [B, N, C], maps [B, C, H, W] or [B, C, T, H, W], shallow to deep;
            a layer that has its dimensions otherwise is turned, the patches of an image become maps) or "tokens"
            ([B, N, C]: of an image its patches, row by row, without class token and registers; the positions of maps;
            words). `student_layer` and `teacher_layer` of a `Term` say where each is read.
        unnamed: the role whose default layer is read where no layers are named for one that has none: "features" for a
            method of maps that takes the embedding too.
        stages: where no layers are named for "maps", the last so many stages of both models are meant (fewer where
            one has fewer). A stage is the last map of its size; of a transformer that has patches of one size, up to
            four blocks are stages. 0: they must be named.
        naming: which layers must be named, for a method that no default layer would do for: it is refused without
            them, in a sentence that ends with these words.
        views: the views of a sample the method compares; "main" is the batch's own input, the data side makes others.
        teacher: whether a teacher is needed.
        labels: whether class labels are needed; -1 marks a sample without one.
        index: whether the samples' positions in the dataset are needed.
        inputs: whether the raw inputs are needed (a queue that runs them again).
        facts: whether the dataset's size, labels and classes are needed when the method is built.
        epochs: whether `begin_epoch` and `end_epoch` matter; a loop that does not call them is then an error.
        students: "each" for a method that sees one student at a time, "all" for one that sees them together.
        scope: "batch" for a relational method: rows are gathered over the ranks, with gradient, before `loss`.
            "sample" for a mean over samples, which averaged gradients already make right. "labelled" for a mean over
            the labelled samples: gathered too, since ranks may hold different numbers of them, but not relational.
        dense: whether a method of logits takes each position of dense ones ([B, T, C], [B, C, H, W]) as a row, with its
            own label: its loss is then over rows [rows, C]. Others refuse dense logits.
        multilabel: whether each logit is of a label that holds by itself, so that sigmoids are meant and no softmax.
        padded: whether a method that reads tokens as "maps" leaves out padded ones: it finds them as zeros and in
            `Signals.masks`. A padded batch is refused otherwise.
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
    stages: int = 0
    unnamed: str = ""
    padded: bool = False
    naming: str = ""
    dense: bool = False
    multilabel: bool = False

    def __post_init__(self) -> None:
        named = (*self.roles, self.unnamed) if self.unnamed else self.roles
        unknown = [role for role in named if role not in ROLES]
        if unknown or not self.roles or not self.views:
            raise ValueError(
                f"`Needs`: `roles` must be some of {', '.join(ROLES)} and `views` not empty, "
                f"got roles {self.roles} and views {self.views}."
            )
        if self.dense and (self.roles != ("logits",) or self.views != ("main",) or self.students != "each"):
            raise ValueError("`Needs`: `dense` must be of the logits of one student in one view, and of nothing else.")

    @property
    def teaches_classes(self) -> bool:
        """Whether labels or logits are read, so that a student's accuracy means something."""
        return self.labels or "logits" in self.roles


class Clock(NamedTuple):
    """Where a run is: `epoch` and `step` from 0, and how many there are where that is known."""

    epoch: int = 0
    step: int = 0
    epochs: int | None = None
    steps_per_epoch: int | None = None


START = Clock()


@dataclass(frozen=True)
class Signals:
    """What one batch gave to one method.

    `tensors` holds, for each (model, view, role), one tensor a layer. The model is "teacher", "student" for a method
    that sees one student at a time, or the students' own names. Except for a method of scope "sample", `loss` and
    `update` see the rows, labels, index and inputs of all ranks, `embed` those of its own. `masks` says of tokens,
    and of tokens read as "maps", which are real, bool [B, N], None where all are; `grids` how the tokens of an image
    lie, (rows, columns), None where nothing tells. `dense` says that the rows are positions of the samples, and `share`
    by what the loss is multiplied for it, so that its mean over the ranks is that over the positions of all.
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
        """Run the method's students again, with gradient, over kept inputs by view; `embed` is applied.

        Batch norms use their running statistics for it and do not move them.
        """
        if self.runner is None:
            raise RuntimeError("These signals came from a cache or a file: there is no model to run again.")
        return self.runner(views)

    def replace(self, changed: Mapping[Key, tuple[Tensor, ...]]) -> Signals:
        """Return the signals with some tensors exchanged, as `embed` does."""
        return replace(self, tensors={**self.tensors, **changed})


@dataclass(frozen=True)
class Probe:
    """What the dry forward showed, for `Method.build`.

    `shapes` and `paths` hold one entry a layer for each (model, role); shapes are those the method will see, and
    `grids` those of `Signals`.
    `modules` are the models themselves, for a method that reads a parameter beside its tap (a batch norm's margin).
    """

    shapes: Mapping[tuple[str, str], tuple[torch.Size, ...]]
    paths: Mapping[tuple[str, str], tuple[str, ...]]
    modules: Mapping[str, nn.Module]
    students: tuple[str, ...]
    facts: DataFacts | None = None
    grids: Mapping[tuple[str, str], tuple[tuple[int, int] | None, ...]] = field(default_factory=dict)

    def zeros(self, *views: str) -> Signals:
        """Return signals of zeros in the shapes that were seen, of views ("main" by default), to try a loss on.

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
        """Return the shapes of student and teacher layer by layer; other numbers of layers on the two sides raise."""
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
            raise ValueError("The method asked for facts of the dataset that its `Needs` do not name.")
        return self.facts


class Method(nn.Module, abc.ABC):
    """A way to teach: a loss over signals, with the parameters, memory and epochs it may have.

    State lives in buffers and parameters, so that checkpoints carry it, or in `get_extra_state`. `loss` reads state and
    never writes it; `update` writes it, once a batch, after the loss. A buffer that the loss's backward still needs is
    copied for it, so that `update` may write in place.

    Attributes:
        needs: what the method asks for.
        own_parts: names of those of its losses that train its own parts alone, as a discriminator's: a balanced weight
            leaves them as they are.
    """

    needs: Needs = Needs()
    own_parts: tuple[str, ...] = ()
    _bound = False  # whether a distiller has built it

    def build(self, probe: Probe) -> None:
        """Make parameters, banks and margins from the dry forward."""

    def embed(self, signals: Signals) -> Signals:
        """Apply the method's own trainable parts to the rows of this rank, before they are gathered."""
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
        """Return those of the method's parameters that weight decay would spoil: an optimizer's group of their own."""
        return ()

    def update(self, signals: Signals) -> None:
        """Write banks, queues and running means, without gradient, once a batch and after the loss."""

    def begin_epoch(self, clock: Clock) -> None:
        """Prepare for an epoch."""

    def end_epoch(self) -> None:
        """Finish an epoch: swap centres, drop what is stale."""

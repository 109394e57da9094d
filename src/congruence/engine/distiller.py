"""Teacher, students and terms in one module: `capture` runs the models, `score` weighs the terms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.ranks import world_size
from congruence.data.facts import DataFacts
from congruence.engine.batch import to_device
from congruence.engine.binding import Binding, bind, distinct_names
from congruence.engine.signals import Captured, constant, gather, kept_apart, require, select, wanted
from congruence.methods.method import Clock, Key, Needs, Signals
from congruence.methods.term import Term
from congruence.models.taps import Taps
from congruence.models.teacher import Teacher, shares_parameters


class Output(NamedTuple):
    """What one batch gave: the weighted `loss`, the unweighted `terms`, the models' own outputs, and the `weights`."""

    loss: Tensor
    terms: dict[str, Tensor]
    student: Any
    teacher: Any
    weights: dict[str, float]


class Distiller(nn.Module):
    """A teacher, one or more students, and the terms by which they learn; usable in any training loop.

    loss = Σ_terms weight(term, epoch) · term(student, teacher)

    The teacher is frozen, stays in evaluation mode and is never in `parameters()` or `state_dict()`; the students and
    the terms' own parts are.

    Args:
        teacher: a module, or None where no term needs one.
        student: a module, or a mapping from name to module.
        terms: `Term`s, or keys of the catalogue.
        example: a small batch of inputs (2 samples do) for the dry forward that finds and checks the layers. Without
            it the first batch serves, but then `parameter_groups` must wait for it.
        facts: `congruence.data.facts(dataset)`, for the methods that ask for it.

    Raises:
        ValueError: before any step, for layers, shapes, labels, views or class counts that do not fit.

    Example:
        >>> import torch
        >>> from congruence import Distiller, Term
        >>> teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> images, labels = torch.randn(8, 4), torch.randint(3, (8,))
        >>> distiller = Distiller(teacher, student, [Term("ce", weight=0.1), Term("kd")], example=images[:2])
        >>> out = distiller(images, labels)
        >>> sorted(out.terms), out.loss.shape
        (['ce', 'kd'], torch.Size([]))
        >>> sorted(distiller.student_state_dict())
        ['bias', 'weight']
    """

    def __init__(
        self,
        teacher: nn.Module | Teacher | None,
        student: nn.Module | Mapping[str, nn.Module],
        terms: Sequence[Term | str],
        *,
        example: Any = None,
        facts: DataFacts | None = None,
    ) -> None:
        super().__init__()
        students = dict(student) if isinstance(student, Mapping) else {"student": student}
        if not students or "teacher" in students:
            check.fail("Distiller", "student", "a module, or modules under names other than 'teacher'", list(students))
        if not all(isinstance(module, nn.Module) for module in students.values()):
            check.fail("Distiller", "student", "a torch module", [type(m).__name__ for m in students.values()])
        if not terms:
            check.fail("Distiller", "terms", "at least one Term", "none")
        self.students = nn.ModuleDict(students)
        self.teacher = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        if self.teacher and any(shares_parameters(self.teacher.module, module) for module in students.values()):
            raise ValueError(
                "`Distiller`: the teacher shares parameters with a student, so that training the student would move "
                "the teacher: give a copy (copy.deepcopy)."
            )
        self.facts = facts
        self.clock = Clock()
        self._epochs_begun = False
        self._taps = {name: Taps(module, name=name) for name, module in students.items()}
        if self.teacher:
            self._taps["teacher"] = self.teacher.taps
        self.terms = distinct_names([Term(t) if isinstance(t, str) else t for t in terms], tuple(students))
        self.methods = nn.ModuleDict()
        self._bindings: dict[str, Binding] = {}
        self._logits: dict[str, str] = {}
        if example is not None:
            self.build(example)

    def build(self, example: Any) -> None:
        """Run the dry forward on a small batch: find the layers, check the shapes, build the terms' own parts."""
        device = next((p.device for p in self.students.parameters()), None)
        example = to_device(example, device)
        for name, taps in self._taps.items():
            taps.probe(example, training=name != "teacher")
        for term in self.terms:
            binding = bind(term, self._taps, tuple(self.students), self.facts)
            binding.method.to(device)
            self._bindings[term.name] = binding
            self.methods[term.name] = binding.method
        for name in self.students:
            with contextlib.suppress(ValueError):  # no layer that tells: then nothing measures accuracy either
                path = self._taps[name].default("logits")
                self._taps[name].require([path])
                self._logits[name] = path

    @property
    def built(self) -> bool:
        """Whether the dry forward has been run."""
        return len(self._bindings) > 0

    def needs(self) -> dict[str, Needs]:
        """Return what each term's method needs."""
        return {name: binding.method.needs for name, binding in self._bindings.items()}

    def layers(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return the paths that each term reads, by model and role, for the log."""
        return {
            name: {f"{model} {role}": paths for (model, role), paths in binding.paths.items()}
            for name, binding in self._bindings.items()
        }

    def capture(
        self,
        inputs: Any,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        *,
        views: Mapping[str, Any] | None = None,
    ) -> Captured:
        """Run the models over one batch and read what the active terms tap; no term is computed and nothing written.

        Args:
            inputs: what the models take, for the view "main": a tensor, a tuple or a mapping.
            labels: int64 [B], -1 where a sample has none.
            index: int64 [B], the samples' positions in the dataset.
            views: further views of the same samples, by name.
        """
        if not self.built:
            self.build(inputs)
        given = {"main": inputs, **(views or {})}
        tensors: dict[Key, Tensor] = {}
        outputs: dict[tuple[str, str], Any] = {}
        for (model, view), paths in wanted([self._bindings[t.name] for t in self._active()], given).items():
            source = self.teacher if model == "teacher" and self.teacher else self._taps[model]
            output, read = source.read(given[view], only=paths)
            outputs[model, view] = output
            tensors.update({(model, view, path): tensor for path, tensor in read.items()})
        return Captured(tensors, outputs, given, labels, index)

    def _active(self) -> list[Term]:
        active = [term for term in self.terms if term.active(self.clock)]
        if not active:
            raise ValueError(f"`Distiller`: no term counts in epoch {self.clock.epoch}: see start_epoch and weight.")
        return active

    def score(self, captured: Captured, *, update: bool = True, together: bool = True) -> Output:
        """Compute the active terms, weigh and sum them.

        Args:
            captured: of `capture`.
            update: whether the methods' memories are written; False for validation and for recomputation.
            together: whether relational terms see the rows of all ranks; False where every rank has the same batch.
        """
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        shared: dict[int, tuple[Tensor, Tensor]] = {}  # rows gathered once for all terms that share a tap
        seen: list[tuple[Binding, Signals]] = []
        for term in self._active():
            binding = self._bindings[term.name]
            method = binding.method
            require(binding, captured, epochs_begun=self._epochs_begun)
            signals = method.embed(select(binding, captured, self.clock, self._runner(binding)))
            if together and method.needs.scope == "batch" and world_size() > 1:
                signals = gather(signals, shared)
            with kept_apart(method):
                parts = method.loss(signals)
            for part, value in parts.items():
                name = term.name if len(parts) == 1 else f"{term.name}.{part}"
                terms[name], weights[name] = value, term.weight_of(part, self.clock)
            seen.append((binding, signals))
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        if update:
            with torch.no_grad():
                for binding, signals in seen:
                    binding.method.update(constant(signals))
        outputs = {name: captured.outputs.get((name, "main")) for name in (*self.students, "teacher")}
        teacher = outputs.pop("teacher")
        student = outputs["student"] if list(self.students) == ["student"] else outputs
        return Output(loss, terms, student, teacher, weights)

    def forward(
        self,
        inputs: Any,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        *,
        views: Mapping[str, Any] | None = None,
    ) -> Output:
        """Return `score(capture(...))`."""
        return self.score(self.capture(inputs, labels, index, views=views))

    def _runner(self, binding: Binding) -> Callable[[Mapping[str, Any]], Signals]:
        def run(views: Mapping[str, Any]) -> Signals:
            tensors: dict[Key, Tensor] = {}
            pruned = binding.without_teacher()
            for (model, view), paths in wanted([pruned], views).items():
                _, read = self._taps[model].read(views[view], only=paths)
                tensors.update({(model, view, path): tensor for path, tensor in read.items()})
            again = Captured(tensors, {}, views, None, None)
            return binding.method.embed(select(pruned, again, self.clock, run))

        return run

    # The clock of methods that work by epochs; `fit` drives it, a loop of one's own may.

    def begin_epoch(self, epoch: int | Clock) -> None:
        """Start an epoch: weights and warm-ups follow it, and methods that work by epochs prepare."""
        self.clock = epoch if isinstance(epoch, Clock) else self.clock._replace(epoch=epoch)
        self._epochs_begun = True
        for binding in self._bindings.values():
            binding.method.begin_epoch(self.clock)

    def resume_epoch(self, clock: Clock) -> None:
        """Go on within an epoch whose beginning the restored state has already seen."""
        self.clock, self._epochs_begun = clock, True

    def end_epoch(self) -> None:
        """Finish an epoch."""
        for binding in self._bindings.values():
            binding.method.end_epoch()

    # What leaves the distiller.

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the optimizer trains: the students' parameters and the terms' own, never the teacher's."""
        if not self.built:
            raise ValueError("`Distiller`: give `example=` (two inputs do), so that the terms' own parts are there.")
        groups = [
            {"name": name, "params": [p for p in module.parameters() if p.requires_grad]}
            for name, module in (("students", self.students), ("terms", self.methods))
        ]
        return [group for group in groups if group["params"]]

    @property
    def student(self) -> nn.Module:
        """The student; with several, `students` holds them by name."""
        if len(self.students) > 1:
            raise ValueError(f"`Distiller`: there are {len(self.students)} students: use `students[name]`.")
        return next(iter(self.students.values()))

    def logits(self, name: str, inputs: Any) -> Tensor:
        """Run a student and return its class logits [B, C]."""
        if name not in self._logits:
            raise ValueError(f"The {name} has no layer known to give class logits: give `evaluate=` to measure it.")
        return self._taps[name].read(inputs, only={self._logits[name]})[1][self._logits[name]]

    def student_state_dict(self, name: str | None = None) -> dict[str, Tensor]:
        """Return a student's state as its own class loads it."""
        if name is not None and name not in self.students:
            check.fail("Distiller.student_state_dict", "name", f"one of {', '.join(self.students)}", repr(name))
        return self._taps[name or next(iter(self.students))].module("").state_dict()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """Move the teacher along, although it is no submodule."""
        super()._apply(fn, recurse)
        if self.teacher:
            self.teacher.module._apply(fn)
        return self

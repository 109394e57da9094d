"""Teacher, students and terms in one module: `capture` runs the models, `score` weighs the terms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.batch import why_no_index
from congruence.core.devices import to_device
from congruence.core.numerics import widen
from congruence.core.ranks import world_size
from congruence.data.datasets.facts import DataFacts
from congruence.distiller.arguments import frozen_teacher, listed_terms, named_students
from congruence.distiller.averaging import Averaging
from congruence.distiller.bindings import Binding, bind, described, for_students, logits_paths, probed_in_evaluation
from congruence.distiller.captured import Captured, Output
from congruence.distiller.forwards import describe_sample, forwards, read
from congruence.distiller.recall import StoredTeacher
from congruence.distiller.signals import (
    Shared,
    buffers_copied_for_backward,
    check_needs,
    gather_ranks,
    named_parts,
    rerunner,
    signals_of,
    without_gradient,
)
from congruence.distiller.sitting_out import SittingOut
from congruence.distiller.unmoved import Unmoved
from congruence.geometry.dissimilarity import computed_once
from congruence.methods.method import Clock, Method, Needs, Signals
from congruence.methods.term import Term
from congruence.models.taps import Taps
from congruence.models.teacher import Teacher

LOG = logging.getLogger("congruence")


class Distiller(nn.Module):
    """A teacher, one or more students, and the terms by which they learn; usable in any training loop.

    loss = Σ_terms weight(term, epoch) · term(student, teacher)

    The teacher is frozen, stays in evaluation mode and is never in `parameters()` or `state_dict()`; the students and
    the terms' own parts are.

    Args:
        teacher: a module, a `TeacherCache` (or another `StoredTeacher`), or None where no term needs one.
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

    # To the Trainer of transformers `**fields` would say that the loss is divided by the accumulated batch already.
    accepts_loss_kwargs = False

    def __init__(
        self,
        teacher: nn.Module | Teacher | StoredTeacher | None,
        student: nn.Module | Mapping[str, nn.Module],
        terms: Sequence[Term | str],
        *,
        example: Any = None,
        facts: DataFacts | None = None,
    ) -> None:
        super().__init__()
        students = named_students(student)
        self.terms = for_students(listed_terms(terms), tuple(students), teacher=teacher is not None, facts=facts)
        self.students = nn.ModuleDict(students)
        self.teacher = frozen_teacher(teacher, students)
        self.cache = teacher if isinstance(teacher, StoredTeacher) else None
        self.facts, self._example_described = facts, ""
        self.clock, self._epochs_begun = Clock(), False
        self._taps = {name: Taps(module, name=name) for name, module in students.items()}
        for taps in self._taps.values():
            taps.may_drop = True
        self._sitting_out, self._averaging, self._unmoved = SittingOut(), Averaging(), Unmoved()
        self._readers: dict[str, Taps | Teacher] = dict(self._taps)
        if self.teacher:
            self._taps["teacher"], self._readers["teacher"] = self.teacher.taps, self.teacher
        self.methods = nn.ModuleDict()
        self.bindings: dict[str, Binding] = {}
        self._told_modes = False
        self._in_evaluation: dict[str, Taps] = {}  # what a student says there, which is what is measured
        self._logits: dict[str, str] = {}
        if example is not None:
            self.build(example)

    def build(self, example: Any) -> None:
        """Run the dry forward on a small batch: find the layers, check the shapes, build the terms' own parts."""
        if self.built:
            raise ValueError("`Distiller.build`: the layers are found already; make a new Distiller for other ones.")
        like = next((p for p in self.students.parameters() if p.is_floating_point()), torch.empty(0))
        example = to_device(example, like.device)
        for name, taps in self._taps.items():
            taps.probe(example, training=name != "teacher")
        in_evaluation = probed_in_evaluation({name: self._taps[name] for name in self.students}, example)
        bindings = {term.name: bind(term, self._taps, tuple(self.students), self.facts) for term in self.terms}
        self._in_evaluation, self._logits = in_evaluation, logits_paths(in_evaluation, bindings.values())
        self._example_described = describe_sample(example)
        for name, binding in bindings.items():  # from here on nothing fails, so that a refused example leaves no trace
            self.bindings[name] = binding
            self.methods[name] = binding.method.to(device=like.device, dtype=like.dtype).train(self.training)
            binding.method._bound = True

    @property
    def built(self) -> bool:
        """Whether the dry forward has been run."""
        return len(self.bindings) > 0

    def needs(self) -> dict[str, Needs]:
        """Return what each term's method needs."""
        return {name: binding.method.needs for name, binding in self.bindings.items()}

    def layers(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return the paths that each term reads, by model and role, for the log."""
        return {
            name: {f"{model} {role}": paths for (model, role), paths in binding.paths.items()}
            for name, binding in self.bindings.items()
        }

    def describe_layers(self) -> dict[str, str]:
        """Return what each term reads, with the shapes of the dry forward, as a sentence for the log.

        Example:
            >>> model = torch.nn.Linear(4, 3)
            >>> Distiller(None, model, ["ce"], example=torch.ones(2, 4)).describe_layers()
            {'ce': "student logits 'output' [2, 3]"}
        """
        return {name: described(binding, self._taps) for name, binding in self.bindings.items()}

    def capture(
        self,
        inputs: Any,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        *,
        views: Mapping[str, Any] | None = None,
        micro_batch: int | None = None,
    ) -> Captured:
        """Run the models over one batch and read what the active terms tap; no term is computed and nothing written.

        Args:
            inputs: what the models take, for the view "main": a tensor, a tuple or a mapping.
            labels: int64 [B], -1 where a sample has none.
            index: int64 [B], the samples' positions in the dataset.
            views: further views of the same samples, by name.
            micro_batch: samples to run through the models at a time, see `FitOptions`; the backward runs them again.
        """
        if not self.built:
            self.build(inputs)
        if self.training and not self._told_modes:
            self._told_modes = True
            _tell_modes(self.students)
            if torch.is_grad_enabled():
                self._check_trainable()
        given = {"main": inputs, **(views or {})}
        active = [self.bindings[term.name] for term in self._active()]
        cache = self.cache if self.training else None  # it holds the training images
        if index is not None and (cache or any(binding.method.needs.index for binding in active)):
            why = why_no_index(index, None, look=False)
            if why:
                check.fail("Distiller.capture", "index", "the samples' positions in the dataset, int64 [B]", why)
        recall = cache.at(index, self.clock.epoch, self.bindings.values()) if cache else None
        tensors, outputs = forwards(active, given, self._readers, self._example_described, recall, micro_batch)
        return Captured(tensors, outputs, given, labels, index, micro_batch)

    def _active(self) -> list[Term]:
        active = [term for term in self.terms if term.active(self.clock)]
        if not active:
            raise ValueError(f"`Distiller`: no term counts in epoch {self.clock.epoch}: see start_epoch and weight.")
        return active

    def score(self, captured: Captured, *, update: bool = True, together: bool = True) -> Output:
        """Compute the active terms, weigh and sum them.

        A term whose layers did not run, as those that drop out at random, sits out: it is not among the result's.

        Args:
            captured: of `capture`.
            update: whether the methods' memories are written; False for validation and for recomputation.
            together: whether relational terms see the rows of all ranks; False where every rank has the same batch.
        """
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        shared = Shared({}, {})  # what terms that share a tap compute once
        seen: list[tuple[Binding, Signals]] = []
        active = {term.name: self.bindings[term.name] for term in self._active()}
        out = self._sitting_out.among(active, captured, together=together and self.training)
        with computed_once():
            for term in self._active():
                if term.name in out:
                    continue
                method = (binding := self.bindings[term.name]).method
                check_needs(binding, captured, epochs_begun=self._epochs_begun or not self.training)
                runner = rerunner(binding, self._readers, self.clock, captured.micro_batch)
                signals = method.embed(signals_of(binding, captured, self.clock, runner, shared.pooled))
                if together and method.needs.scope != "sample" and world_size() > 1:
                    signals = gather_ranks(signals, shared.gathered)
                with buffers_copied_for_backward(method):
                    parts = named_parts(term.name, method.loss(signals))
                for name, (part, value) in parts.items():
                    terms[name], weights[name] = value, term.weight_of(part, self.clock)
                seen.append((binding, signals))
        if terms:
            loss = torch.stack([weights[name] * widen(value) for name, value in terms.items()]).sum()
        else:  # all sit out: a loss of 0, whose backward gives every parameter a gradient of 0
            loss = torch.stack([widen(p).sum() * 0 for p in self.students.parameters() if p.requires_grad]).sum()
        if update:
            with torch.no_grad():
                for binding, signals in seen:
                    if type(binding.method).update is not Method.update:  # else there is nothing to write
                        binding.method.update(without_gradient(signals))
        return Output(loss, terms, captured.students(tuple(self.students)), captured.output("teacher"), weights)

    def forward(
        self,
        inputs: Any = None,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        *,
        views: Mapping[str, Any] | None = None,
        micro_batch: int | None = None,
        return_loss: bool = True,
        **fields: Any,
    ) -> Output:
        """Return `score(capture(...))`; in evaluation mode no memory is written.

        Args:
            inputs: as of `capture`; or none, and the models' arguments by name (`distiller(**batch)`).
            labels: as of `capture`.
            index: as of `capture`.
            views: as of `capture`.
            micro_batch: as of `capture`.
            return_loss: without effect; its name tells the Trainer of transformers that there is a loss without labels.
            fields: the models' arguments by name, where there are no `inputs`.
        """
        if fields and inputs is not None:
            check.fail("Distiller", "inputs", "all that the models take", f"{', '.join(fields)} beside it")
        if not fields and inputs is None:
            hint = "nothing (the Trainer of transformers drops what it does not know: remove_unused_columns=False)"
            check.fail("Distiller", "inputs", "what the models take", hint)
        inputs = fields or inputs
        captured = self.capture(inputs, labels, index, views=views, micro_batch=micro_batch)
        if self.training and torch.is_grad_enabled() and not self._sitting_out.in_step:
            self._averaging.after_batch(self, self.students)
            self._unmoved.after_batch(self.students, self.terms, self.clock)
        return self.score(captured, update=self.training)

    def begin_epoch(self, epoch: int | Clock) -> None:
        """Start an epoch, as `fit` does: weights and warm-ups follow it, and methods that work by epochs prepare."""
        self.clock = epoch if isinstance(epoch, Clock) else self.clock._replace(epoch=epoch)
        self._epochs_begun = True
        for binding in self.bindings.values():
            binding.method.begin_epoch(self.clock)

    def resume_epoch(self, clock: Clock) -> None:
        """Go on within an epoch whose beginning the restored state has already seen."""
        self.clock, self._epochs_begun = clock, True

    def end_epoch(self) -> None:
        """Finish an epoch."""
        for binding in self.bindings.values():
            binding.method.end_epoch()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the optimizer trains: the students' parameters and the terms' own, never the teacher's."""
        if not self.built:
            raise ValueError("`Distiller`: give `example=` (two inputs do), so that the terms' own parts are there.")
        parts = {"students": self.students, "terms": self.methods}
        groups = [{"name": n, "params": [p for p in m.parameters() if p.requires_grad]} for n, m in parts.items()]
        self._check_trainable()
        return [group for group in groups if group["params"]]

    def _check_trainable(self) -> None:
        """Refuse students that are frozen altogether, as a model is that was a teacher, or its copy."""
        if not any(parameter.requires_grad for parameter in self.students.parameters()):
            raise ValueError(
                "`Distiller`: no parameter of the student requires a gradient: there is nothing to train (a model that "
                "was a teacher, or a copy of it, is frozen: call student.requires_grad_() first)."
            )

    @property
    def student(self) -> nn.Module:
        """The student; with several, `students` holds them by name."""
        if len(self.students) > 1:
            raise ValueError(f"`Distiller`: there are {len(self.students)} students: use `students[name]`.")
        return next(iter(self.students.values()))

    def logits(self, name: str, inputs: Any) -> Tensor:
        """Run a student, in evaluation mode as it should be, and return the class logits [B, C] of its output."""
        if name not in self._logits:
            raise ValueError(f"The {name} has no layer known to give class logits: give `evaluate=` to measure it.")
        path = self._logits[name]
        return read(name, self._in_evaluation[name], inputs, {path}, self._example_described)[1][path]

    def features(self, inputs: Any) -> dict[str, Tensor]:
        """Run the students alone; return by name the rows [B, D] that the first term with features sees of each."""
        rows: dict[str, Tensor] = {}
        for binding in self.bindings.values():
            if "features" in binding.method.needs.roles:
                of = rerunner(binding, self._readers, self.clock, None)(
                    dict.fromkeys(binding.method.needs.views, inputs)
                )
                for student in binding.students:
                    layers = of.tensors[student, binding.method.needs.views[0], "features"]
                    rows.setdefault(binding.models[student], layers[-1])
        return rows

    def student_state_dict(self, name: str | None = None) -> dict[str, Tensor]:
        """Return a student's state as its own class loads it."""
        if name is not None and name not in self.students:
            check.fail("Distiller.student_state_dict", "name", f"one of {', '.join(self.students)}", repr(name))
        return self._taps[name or next(iter(self.students))].module("").state_dict()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Refuse the state of parts that are not there before `build`, which torch would name one by one, or pass over.

        Of a module that holds this one, too.
        """
        of_terms = [key for key in state_dict if key.startswith(f"{prefix}methods.")]
        if of_terms and not self.built:
            raise ValueError(
                f"`Distiller.load_state_dict`: the state holds the terms' own parts ('{of_terms[0]}'), which are not "
                "there before the layers are found: make the Distiller with example=, or call `build(example)` first."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """Move the teacher along, although it is no submodule."""
        super()._apply(fn, recurse)
        if self.teacher:
            self.teacher.module._apply(fn)
            self.teacher.prepared = None
        return self


def _tell_modes(students: nn.ModuleDict) -> None:
    """Warn of a student all of which is in evaluation mode in training, as `from_pretrained` leaves models."""
    for name, student in students.items():
        if not any(part.training for part in student.modules()):
            LOG.warning(
                "The %s is in evaluation mode while the distiller trains: nothing drops out, and batch norms move no "
                "statistics. Call distiller.train() before the loop, unless that is meant.",
                name,
            )

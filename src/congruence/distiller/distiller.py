"""Teacher, students and terms in one module: `capture` runs the models, `score` weighs the terms."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.devices import to_device
from congruence.core.inputs import TEACHER, inputs_of
from congruence.core.numerics import widen
from congruence.core.ranks import world_size
from congruence.data.datasets.facts import DataFacts
from congruence.distiller import arguments
from congruence.distiller.arguments import AnyTeacher, check_trainable
from congruence.distiller.as_found import as_found
from congruence.distiller.averaging import Averaging
from congruence.distiller.balance import Balance
from congruence.distiller.bindings import Binding, bind, described, for_models, logits_paths, probed_in_evaluation
from congruence.distiller.captured import Captured, Output
from congruence.distiller.dense import never_empty
from congruence.distiller.forwards import describe_sample, forwards, forwards_beside, read
from congruence.distiller.gradient_cuts import GradientCuts
from congruence.distiller.over_ranks import over_all_ranks
from congruence.distiller.recall import StoredTeacher
from congruence.distiller.signals import embedded, features_of, loss_of, without_gradient
from congruence.distiller.sitting_out import SittingOut
from congruence.distiller.unmoved import Unmoved
from congruence.geometry.dissimilarity import computed_once
from congruence.methods.method import Clock, Method, Needs, Signals
from congruence.methods.term import Term
from congruence.models.sharded import whole_state
from congruence.models.taps import Taps
from congruence.models.teacher import Teacher


class Distiller(nn.Module):
    """A teacher, one or more students, and the loss terms between them, for any training loop.

    loss = Σ_terms weight(term, epoch) · term(student, teacher)

    The teacher is frozen, stays in evaluation mode and is never in `parameters()` or `state_dict()`; the students and
    the terms' own modules are in both.

    Args:
        teacher: a module, a `TeacherCache` (or another `StoredTeacher`), or a mapping from name to several of these; a
            term that names no teacher then learns from each. None if no term needs a teacher.
        student: a module, or a mapping from name to module.
        terms: `Term`s, or keys of the catalogue.
        example: a small batch of inputs (2 samples are enough) for the dry forward that finds and checks the layers.
            Without it the first batch is used, and `parameter_groups` cannot be called before that.
        facts: `congruence.data.facts(dataset)`, for the methods that need it.

    Raises:
        ValueError: before any step, if layers, shapes, labels, views or class counts do not fit.

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

    # `**fields` would tell the Trainer of transformers that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(
        self,
        teacher: AnyTeacher | Mapping[str, AnyTeacher] | None,
        student: nn.Module | Mapping[str, nn.Module],
        terms: Sequence[Term | str],
        *,
        example: Any = None,
        facts: DataFacts | None = None,
    ) -> None:
        super().__init__()
        students = arguments.named_students(student)
        teachers = arguments.named_teachers(teacher, tuple(students))
        self.terms = for_models(arguments.listed_terms(terms), tuple(students), tuple(teachers), facts)
        self.students = nn.ModuleDict(students)
        self.teachers = {name: arguments.frozen_teacher(each, students, name) for name, each in teachers.items()}
        self.caches = {name: each for name, each in teachers.items() if isinstance(each, StoredTeacher)}
        self.facts = facts
        self.remembered: Mapping[str, Any] = {}  # like `caches`, of the batches that are measured (see `Remembered`)
        self.examples: dict[str, str] = {}  # a description of one sample of the example, for each model
        self.clock, self._epochs_begun, self._told_modes = Clock(), False, False
        self._taps = {name: Taps(module, name=name) for name, module in students.items()}
        for taps in self._taps.values():
            taps.may_drop = True
        self._sitting_out, self._averaging, self._unmoved = SittingOut(), Averaging(), Unmoved()
        self._cuts, self.methods = GradientCuts(), nn.ModuleDict()
        self._readers: dict[str, Taps | Teacher] = dict(self._taps)
        self._taps |= {name: teacher.taps for name, teacher in self.teachers.items()}
        self._readers |= self.teachers
        self.bindings: dict[str, Binding] = {}
        self.balance = Balance(self.terms, self.bindings)
        self._in_evaluation: dict[str, Taps] = {}  # the students in evaluation mode, which is where they are measured
        self._logits: dict[str, str] = {}
        if example is not None:
            self.build(example)

    def build(self, example: Any) -> None:
        """Run the dry forward on a small batch: find the layers, check the shapes, build the terms' own modules."""
        if self.built:
            raise ValueError("`Distiller.build`: layers have already been found: make a new Distiller for others.")
        like = next((p for p in self.students.parameters() if p.is_floating_point()), torch.empty(0))
        example = to_device(example, like.device)
        of_model = arguments.examples_of(example, self.students, self.teachers)
        for name, taps in self._taps.items():
            taps.probe(of_model[name], training=name not in self.teachers)
        in_evaluation = probed_in_evaluation({name: self._taps[name] for name in self.students}, of_model)
        bindings = {}
        for term in self.terms:
            with self._looking_on(term):
                bindings[term.name] = bind(term, self._taps, tuple(self.students), tuple(self.teachers), self.facts)
        self._in_evaluation, self._logits = in_evaluation, logits_paths(in_evaluation, bindings.values(), self._taps)
        self.examples = {name: describe_sample(inputs) for name, inputs in of_model.items()}
        # nothing fails from here on, so that an example that raised leaves no trace
        for name, binding in bindings.items():
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
        """Return the layer paths that each term reads, by model and role."""
        return {
            name: {f"{model} {role}": paths for (model, role), paths in binding.paths.items()}
            for name, binding in self.bindings.items()
        }

    def describe_layers(self) -> dict[str, str]:
        """Describe the layers that each term reads, with their shapes in the dry forward, as text for a log.

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
        """Run the models over one batch and read the layers of the active terms; computes and updates nothing else.

        Args:
            inputs: the models' inputs for the view "main": a tensor, a tuple or a mapping; `Inputs` if the models take
                different inputs.
            labels: int64 [B], -1 if a sample has none.
            index: int64 [B], the samples' positions in the dataset.
            views: further views of the same samples, by name.
            micro_batch: samples that run through the models at once, see `FitOptions`; the backward runs them again.
        """
        if not self.built:
            self.build(inputs)
        if self.training and not self._told_modes:
            self._told_modes = True
            arguments.tell_modes(self.students)
            if torch.is_grad_enabled():
                check_trainable(self.students)
        given = {"main": inputs, **(views or {})}
        terms = self._active()
        active = [self.bindings[term.name] for term in terms]
        caches = self.caches if self.training else self.remembered  # the first hold the training images
        if index is not None and ((caches and self.training) or any(binding.method.needs.index for binding in active)):
            arguments.check_index(index)
        recall = {name: cache.at(index, self.clock.epoch, self.taught_by(name)) for name, cache in caches.items()}
        teaching, watching = ([self.bindings[t.name] for t in terms if t.watched is side] for side in (False, True))
        run = functools.partial(
            forwards,
            given=given,
            readers=self._readers,
            examples=self.examples,
            recall=recall,
            micro_batch=micro_batch,
        )
        tensors, outputs = forwards_beside(teaching, watching, run, self.students)
        captured = Captured(tensors, outputs, given, labels, index, micro_batch, tuple(self.teachers))
        if self.training and torch.is_grad_enabled():
            self._cuts.look(captured, teaching, self._taps, self.terms, self.clock)
        return captured

    def _active(self) -> list[Term]:
        active = [term for term in self.terms if term.active(self.clock)]
        if all(term.watched for term in active):
            raise ValueError(
                f"`Distiller`: no term trains a student in epoch {self.clock.epoch}: see start_epoch and weight."
            )
        return active

    def score(self, captured: Captured, *, update: bool = True, together: bool = True) -> Output:
        """Compute the active terms, and sum them with their weights.

        A term sits out, and is missing from the result, if its layers did not run (they may drop out at random).

        Args:
            captured: the result of `capture`.
            update: whether the methods' memories are updated; False for validation and recomputation.
            together: whether relational terms see the rows of all ranks; False if every rank has the same batch.
        """
        seen: list[tuple[Term, Signals]] = []
        losses = self.losses(captured, together=together, seen=seen)
        if update and self.training and torch.is_grad_enabled() and self.balance.balanced and not self.balance.held:
            self.balance.step(losses, self.clock, self.students, reruns=captured.micro_batch is not None)
        terms, weights, teaching = self.balance.weigh(losses, self.clock)
        if not teaching:  # all sit out: a loss of 0, whose backward gives every parameter a gradient of 0
            teaching = [widen(p).sum() * 0 for p in self.students.parameters() if p.requires_grad]
        if update:
            with torch.no_grad():
                for term, signals in seen:
                    method = self.bindings[term.name].method
                    if type(method).update is not Method.update:  # else there is nothing to write
                        with self._looking_on(term):
                            method.update(without_gradient(signals.whole))
        student, teacher = captured.students(tuple(self.students)), captured.taught()
        return Output(torch.stack(teaching).sum(), terms, student, teacher, weights)

    def losses(
        self, captured: Captured, *, together: bool = True, seen: list[tuple[Term, Signals]] | None = None
    ) -> dict[str, Mapping[str, Tensor]]:
        """Return the unweighted losses, by term and part, of the active terms that do not sit out; changes no memory.

        `seen` is a list to which each term and its method's signals are appended; for the others see `score`.
        """
        active = {term.name: self.bindings[term.name] for term in self._active()}
        out = self._sitting_out.among(active, captured, together=together and self.training)
        # Terms of weight 0 come last, since they run without gradient: shared computations must keep theirs.
        order = sorted((term for term in self._active() if term.name not in out), key=lambda term: term.watched)
        found: dict[str, Mapping[str, Tensor]] = {}
        begun = self._epochs_begun or not self.training
        embed = functools.partial(embedded, captured, self._readers, self.clock, {}, begun)
        of_ranks: dict[str, Signals] = {}
        with computed_once():
            # One process embeds a term and computes its loss in turn, since both may draw random numbers.
            for term in order if together and world_size() > 1 else ():
                with self._looking_on(term):
                    of_ranks[term.name] = embed(active[term.name])
            of_ranks = over_all_ranks(active, of_ranks, self._sitting_out.exchange)
            for term in order:
                with self._looking_on(term):
                    signals = never_empty(of_ranks.get(term.name) or embed(active[term.name]))
                    found[term.name] = loss_of(active[term.name], signals)
                if seen is not None:
                    seen.append((term, signals))
        return found

    @contextlib.contextmanager
    def _looking_on(self, term: Term) -> Iterator[None]:
        """Keep a term of weight 0 from affecting the training: restore the students' state and the random numbers."""
        if not term.watched:
            yield
            return
        with torch.no_grad(), as_found(self.students):
            yield

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
        """Return `score(capture(...))`; in evaluation mode the methods' memories stay unchanged.

        Args:
            inputs: see `capture`; left out if the models' arguments are given by name (`distiller(**batch)`).
            labels: see `capture`.
            index: see `capture`.
            views: see `capture`.
            micro_batch: see `capture`.
            return_loss: has no effect; its name tells the Trainer of transformers that there is a loss without labels.
            fields: the models' arguments by name, if `inputs` is not given.
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
        """Start an epoch (`fit` calls this itself): weights and warm-ups follow it, and some methods prepare for it."""
        clock = epoch if isinstance(epoch, Clock) else self.clock._replace(epoch=epoch)
        if clock.epoch > self.clock.epoch:
            self.balance.end_epoch(self.clock)  # for a loop that never calls `end_epoch`
        self.clock = clock
        self._epochs_begun = True
        for term in self._bound():
            with self._looking_on(term):
                self.bindings[term.name].method.begin_epoch(self.clock)

    def resume_epoch(self, clock: Clock) -> None:
        """Continue within an epoch that the restored state has already begun."""
        self.clock, self._epochs_begun = clock, True

    def end_epoch(self) -> None:
        """Finish an epoch."""
        for term in self._bound():
            with self._looking_on(term):
                self.bindings[term.name].method.end_epoch()
        self.balance.end_epoch(self.clock)

    def _bound(self) -> list[Term]:
        return [term for term in self.terms if term.name in self.bindings]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: the students' parameters and the terms' own, never the teacher's.

        Parameters of terms that weight decay would harm are in a group of their own, without weight decay.
        """
        if not self.built:
            raise ValueError("`Distiller`: give `example=` (two inputs are enough), to build the terms' own modules.")
        check_trainable(self.students)
        spared = [p for binding in self.bindings.values() for p in binding.method.without_decay()]
        return arguments.groups(self.students, self.methods, spared)

    @property
    def student(self) -> nn.Module:
        """The student. With several, `students` holds them by name, and this raises."""
        return arguments.only(self.students, "students")

    @property
    def teacher(self) -> Teacher | None:
        """The teacher, None without one. With several, `teachers` holds them by name, and this raises."""
        return arguments.only(self.teachers, "teachers") if self.teachers else None

    def taught_by(self, teacher: str) -> list[Binding]:
        """Return the bindings of the terms that learn from a teacher."""
        return [binding for binding in self.bindings.values() if binding.models.get(TEACHER) == teacher]

    def logits(self, name: str, inputs: Any) -> Tensor:
        """Run a student, which should be in evaluation mode, and return its class logits, [B, C] or dense."""
        if name not in self._logits:
            raise ValueError(f"The {name} has no layer that is known to give class logits: give `evaluate=`.")
        path = self._logits[name]
        taps, inputs = self._in_evaluation[name], inputs_of(inputs, name)
        return read(name, taps, inputs, {path}, self.examples[name])[1][path]

    def features(self, inputs: Any) -> dict[str, Tensor]:
        """Run the students only; return by name the rows [B, D] that the first term with features reads of each."""
        return features_of(self.bindings.values(), self._readers, self.clock, inputs)

    def student_state_dict(self, name: str | None = None) -> dict[str, Tensor]:
        """Return a student's state dict, with the keys that its own class expects."""
        if name is not None and name not in self.students:
            check.fail("Distiller.student_state_dict", "name", f"one of {', '.join(self.students)}", repr(name))
        return whole_state(self._taps[name or next(iter(self.students))].module("").state_dict())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Raise for a state with parts that do not exist before `build`, also if another module holds the distiller."""
        of_terms = [key for key in state_dict if key.startswith(f"{prefix}methods.")]
        if of_terms and not self.built:
            raise ValueError(
                f"`Distiller.load_state_dict`: the state holds the terms' own parts ('{of_terms[0]}'), which do not "
                "exist before the layers are found: make the Distiller with example=, or call `build(example)` first."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """Also move the teacher, although it is not a submodule."""
        super()._apply(fn, recurse)
        for teacher in self.teachers.values():
            teacher.module._apply(fn)
            teacher.prepared = None
        return self

"""Balanced weights: each term's weight follows from the size of its gradient on the student."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import widen
from congruence.core.ranks import any_rank, rank, world_size
from congruence.distiller.as_found import as_found
from congruence.distiller.bindings import Binding
from congruence.distiller.own_backward import why_no_own_backward, why_no_second_run
from congruence.distiller.signals import named_parts
from congruence.methods.method import Clock
from congruence.methods.term import Term
from congruence.models.sharded import at_rest, is_sharded, mean_norm, own_backward

LOG = logging.getLogger("congruence")
OFTEN, SOMETIMES, SELDOM = 8, 64, 100  # the first 8 steps; every 8th until the 64th; then every 100th
NEWEST = 0.2  # the smallest weight of a new measurement in the running mean
FURTHEST = math.log(10.0)  # a factor stays within this ratio of its value at the end of its first epoch
# float16 holds 6e-8 to 6.6e4: a gradient that overflows at one scale is taken at the next.
_HALF_SCALES = (2.0**10, 2.0**-2, 2.0**-14)
Losses = Mapping[str, Mapping[str, Tensor]]  # each term's losses, by part


class Weighed(NamedTuple):
    """Losses and weights by the names they are logged under, and the weighted losses that train the student."""

    terms: dict[str, Tensor]
    weights: dict[str, Tensor]
    teaching: list[Tensor]


class Balance(nn.Module):
    """The factors of the terms whose weight is "balanced".

    The factor of a term with the loss L = Σ_parts published weight · part is w = share · ‖∂L_a/∂θ‖ / ‖∂L/∂θ‖, where θ
    are all parameters of the students. The anchor a is the student's first active term whose weight is a number other
    than 0 (if there is none, its first active term); L_a includes the anchor's weight. So ‖∂(w·L)/∂θ‖ = share ·
    ‖∂L_a/∂θ‖. Schedules multiply both sides. A term without other terms, or an anchor that is itself balanced, has the
    factor 1.

    The ratio is measured on single steps (the first 8 of a term, every 8th until its 64th, then every 100th), with a
    separate backward for each term, and kept in between. Measurements are averaged geometrically: the first ones with
    equal weights, later ones with 0.2 for the newest. A measurement with a norm that is 0 or not finite is skipped;
    before the first valid one, the factor is the share. After a term's first epoch, its factor stays between 1/10 and
    10 times its value at the end of that epoch; evaluation mode uses that value itself, so that losses can be compared
    between epochs.

    The measured gradient is that of the whole step: the mean over ranks, micro-batches and, in `fit`, accumulated
    batches. The measurement itself does not change the training. All state is in buffers.

    Raises:
        ValueError: at the first step, if a second backward could have side effects on the student (hooks on parameters
            or on modules' backward, re-entrant checkpointing, custom autograd functions).

    Example:
        >>> import congruence as cg
        >>> inputs, labels = torch.randn(8, 4), torch.arange(8) % 3
        >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> terms = ["ce", cg.Term("kd", weight="balanced", share=0.5)]
        >>> out = cg.Distiller(teacher, student, terms, example=inputs)(inputs, labels)
        >>> pulls = {
        ...     name: torch.autograd.grad(out.weights[name] * loss, list(student.parameters()), retain_graph=True)
        ...     for name, loss in out.terms.items()
        ... }
        >>> norms = {name: torch.nn.utils.get_total_norm(pull) for name, pull in pulls.items()}
        >>> round(float(norms["kd"] / norms["ce"]), 3)
        0.5
    """

    log_factors: Tensor
    reference: Tensor
    fixed: Tensor
    measured: Tensor
    steps: Tensor

    def __init__(self, terms: Sequence[Term], bindings: Mapping[str, Binding]) -> None:
        super().__init__()
        self.terms, self._bindings = tuple(terms), bindings  # the bindings are there after the dry forward
        self.balanced = [term.name for term in terms if term.balanced]
        if count := len(self.balanced):
            self.register_buffer("log_factors", torch.zeros(count))
            # the factor at the end of the first epoch, once it is fixed
            self.register_buffer("reference", torch.zeros(count))
            self.register_buffer("fixed", torch.zeros(count, dtype=torch.bool))
            self.register_buffer("measured", torch.zeros(count))
            self.register_buffer("steps", torch.zeros(count, dtype=torch.int64))
        self._steps = dict.fromkeys(self.balanced, 0)  # a copy of `steps` on the host
        self._constants: dict[tuple[float, torch.dtype, torch.device], Tensor] = {}
        self._told: set[str] = set()
        self._zero: dict[str, Tensor] = {}  # whether all losses measured so far were 0
        self._measured: set[str] = set()
        self.held = False  # set while a step uses weights measured over all of its batches

    # Weights

    def anchor(self, term: Term, clock: Clock) -> Term | None:
        """Return a balanced term's anchor at a point in training; None if it is the only term or the anchor itself."""
        counting = [other for other in self.terms if other.counts(clock)]
        numbers = [other for other in counting if not other.balanced and _same_student(term, other)]
        first = next(iter(numbers or [other for other in counting if other.student == term.student]), term)
        return None if first is term else first

    def weight(self, term: Term, part: str, clock: Clock, like: Tensor) -> Tensor:
        """Return the weight of one part of a term's loss, a tensor of shape []; does not wait for the device."""
        schedule = term.schedule(clock)
        if not term.balanced or part in self._own_parts(term):
            return self._constant(term.given(part) * schedule, like)
        anchor = self.anchor(term, clock)
        if anchor is None:
            alone = term.given(part) if isinstance(term.published, Mapping) else 1.0
            return self._constant(alone * schedule, like)
        position = self.balanced.index(term.name)
        log_factor = self.log_factors[position]
        if not self.training:
            log_factor = torch.where(self.fixed[position], self.reference[position], log_factor)
        known = term.given(part) * float(term.share or 1.0) * schedule * anchor.schedule(clock)
        return log_factor.exp().to(like.dtype) * known

    def weigh(self, losses: Losses, clock: Clock) -> Weighed:
        """Return the terms' losses and weights by the names they are logged under, and the weighted losses to sum."""
        terms: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        teaching: list[Tensor] = []
        for term in [term for term in self.terms if term.name in losses]:
            for name, (part, value) in named_parts(term.name, losses[term.name]).items():
                terms[name], weights[name] = value, self.weight(term, part, clock, widen(value))
                teaching += [] if term.watched else [weights[name] * widen(value)]
        return Weighed(terms, weights, teaching)

    def _constant(self, value: float, like: Tensor) -> Tensor:
        key = (value, like.dtype, like.device)
        if key not in self._constants:
            if len(self._constants) > 1000:  # a schedule keeps giving new values
                self._constants.clear()
            self._constants[key] = torch.full((), value, dtype=like.dtype, device=like.device)
        return self._constants[key]

    def _own_parts(self, term: Term) -> tuple[str, ...]:
        binding = self._bindings.get(term.name)
        return binding.method.own_parts if binding else ()

    # Measuring

    def _taking_part(self, clock: Clock, names: Sequence[str]) -> list[Term]:
        """Return those of the named balanced terms that have an anchor."""
        return [t for t in self.terms if t.balanced and t.name in names and self.anchor(t, clock) is not None]

    def due(self, clock: Clock, names: Sequence[str]) -> list[Term]:
        """Return those of the named terms that are to be measured in the coming step."""
        return [term for term in self._taking_part(clock, names) if is_due(self._steps[term.name])]

    def count(self, clock: Clock, names: Sequence[str]) -> None:
        """Count a step in which the named terms took part."""
        for term in self._taking_part(clock, names):
            self._steps[term.name] += 1

    def step(self, losses: Losses, clock: Clock, students: nn.ModuleDict, *, reruns: bool) -> None:
        """Measure the terms that are due, in a step of one batch, and count the step."""
        due = self.due(clock, list(losses))
        if due:
            self.take(due, clock, self.gradients(due, losses, clock, students, reruns=reruns))
        self.count(clock, list(losses))

    def gradients(
        self, due: Sequence[Term], losses: Losses, clock: Clock, students: nn.ModuleDict, *, reruns: bool
    ) -> dict[str, list[Tensor]]:
        """Return ∂L/∂θ of the due terms and their anchors, as far as they took part in the batch."""
        anchors = [anchor for term in due if (anchor := self.anchor(term, clock)) and anchor.name in losses]
        due = [term for term in due if term.name in losses]
        wanted = {anchor.name: self._whole(anchor, losses[anchor.name], anchor=True) for anchor in anchors}
        wanted |= {term.name: self._whole(term, losses[term.name]) for term in due}
        sharded = is_sharded(students)
        if sharded:
            at_rest(students)
        parameters = [p for p in students.parameters() if p.requires_grad]
        scales = _HALF_SCALES if _half(parameters) else (1.0,)
        self._refuse(wanted, students, parameters, reruns=reruns)
        found: dict[str, list[Tensor]] = {}
        with as_found(students), torch.autocast(parameters[0].device.type, enabled=False):
            for name, loss in wanted.items():
                if loss.requires_grad:
                    self._zero[name] = self._zero.get(name, True) & (loss.detach() == 0)
                    at_scales = [self._backward(name, loss * scale, parameters, sharded=sharded) for scale in scales]
                    found[name] = _first_finite(
                        [[widen(g) / scale for g in of_loss] for of_loss, scale in zip(at_scales, scales, strict=True)]
                    )
                else:
                    found[name] = [torch.zeros_like(widen(p)) for p in parameters]
        return found

    def _backward(self, name: str, loss: Tensor, parameters: list[nn.Parameter], *, sharded: bool) -> Sequence[Tensor]:
        try:
            if sharded:
                return own_backward(loss, parameters)
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        except RuntimeError as error:
            self._fail(name, f"a separate backward raised {check.sentence(error).rstrip('.')}")
        if any(gradient.is_sparse for gradient in gradients):
            self._fail(name, "the student has sparse gradients")
        return gradients

    def _whole(self, term: Term, parts: Mapping[str, Tensor], *, anchor: bool = False) -> Tensor:
        """Return a term's loss with its given or published weights; for an anchor, with its weight as anchor."""
        counts_one = anchor and term.balanced and not isinstance(term.published, Mapping)
        own = self._own_parts(term)
        weighed = [(1.0 if counts_one else term.given(p)) * widen(v) for p, v in parts.items() if p not in own]
        return torch.stack(weighed).sum() if weighed else widen(next(iter(parts.values()))) * 0

    def take(self, due: Sequence[Term], clock: Clock, gradients: Mapping[str, Sequence[Tensor]]) -> None:
        """Update the factors with the ratios of gradient norms from a whole step."""
        norms = {name: mean_norm(each) for name, each in gradients.items()}
        for term in due:
            anchor = self.anchor(term, clock)
            if anchor is None or anchor.name not in norms or term.name not in norms:
                continue
            at = self.balanced.index(term.name)
            with torch.no_grad():
                ratio = (norms[anchor.name].log() - norms[term.name].log()).to(self.log_factors)
                valid = torch.isfinite(ratio)
                part = (1 / (self.measured[at] + 1)).clamp(min=NEWEST)
                new = self.log_factors[at] + part * (ratio - self.log_factors[at])
                furthest = torch.where(self.fixed[at], FURTHEST, math.inf)
                new = torch.minimum(torch.maximum(new, self.reference[at] - furthest), self.reference[at] + furthest)
                self.log_factors[at] = torch.where(valid, new, self.log_factors[at])
                self.measured[at] += valid.to(self.measured)

    def end_epoch(self, clock: Clock) -> None:
        """Fix the centre of each factor's range at the end of its term's first epoch; warn of unmeasured terms."""
        if not self.balanced:
            return
        first = ~self.fixed & (self.measured > 0)
        self.reference.copy_(torch.where(first, self.log_factors, self.reference))
        self.fixed |= first
        waiting = [name for name in self.balanced if self._waiting(name)]
        self._tell([name for name in waiting if self._steps[name] >= OFTEN], clock)
        self._steps.update(dict.fromkeys(waiting, 0))  # a term that has not begun yet, such as one with its own warm-up

    def _waiting(self, name: str) -> bool:
        """Whether a term has not been measured yet; waits for the device until the answer is known to be False."""
        if name not in self._measured and bool(self.measured[self.balanced.index(name)]):
            self._measured.add(name)
        return name not in self._measured

    def _tell(self, names: Sequence[str], clock: Clock) -> None:
        """Warn once of terms that could not be measured although their losses are not 0 (as they are in a warm-up)."""
        for term in self.terms:
            anchor = self.anchor(term, clock)
            idle = term.name not in names or bool(self._zero.get(term.name, True))
            if anchor and rank() == 0 and term.name not in self._told and not idle:
                self._told.add(term.name)
                LOG.warning(
                    "The weight of '%s' could not be balanced so far: at every step that measured it, its gradient "
                    "or that of '%s' was 0 or not finite. It keeps its published weight.",
                    *(term.name, anchor.name),
                )

    def _refuse(
        self, losses: Mapping[str, Tensor], students: nn.ModuleDict, parameters: list[nn.Parameter], *, reruns: bool
    ) -> None:
        """Raise, on all ranks, if a second backward would have side effects."""
        reasons = {name: why_no_own_backward(loss, parameters) for name, loss in losses.items()}
        if reruns:
            reasons = {name: reason or why_no_second_run(students) for name, reason in reasons.items()}
        flags = [bool(reason) for reason in reasons.values()]
        if world_size() > 1:
            flags = any_rank(torch.tensor(flags, device=parameters[0].device)).tolist()
        for (name, reason), out in zip(reasons.items(), flags, strict=True):
            if out:
                self._fail(name, f"a separate backward would go through {reason or 'such a part on another rank'}")

    def _fail(self, name: str, reason: str) -> NoReturn:
        raise ValueError(
            f"`Distiller`: the term '{name}' cannot be balanced, nor others against it, since {reason}: give the terms "
            "numbers, or weight='published'."
        )

    # State

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Balance:
        """Move the buffers to the device but keep their dtypes: half precision would lose the factors."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(buffer).device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.balanced:
            self.steps.copy_(torch.tensor(list(self._steps.values())))
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if self.balanced:
            self._steps = dict(zip(self.balanced, self.steps.tolist(), strict=True))
            self._measured.clear()


def _same_student(one: Term, other: Term) -> bool:
    return one.student is None or other.student is None or one.student == other.student


def is_due(step: int) -> bool:
    """Whether a term is measured in the step of this number, counted from 0 over the steps that it took part in."""
    return step < OFTEN or (step < SOMETIMES and step % 8 == 0) or step % SELDOM == 0


def _first_finite(candidates: Sequence[list[Tensor]]) -> list[Tensor]:
    """Return the first gradient that is finite, else the last one, without waiting for the device."""
    chosen = candidates[-1]
    for candidate in reversed(candidates[:-1]):
        finite = torch.isfinite(torch.nn.utils.get_total_norm(candidate))
        chosen = [torch.where(finite, first, second) for first, second in zip(candidate, chosen, strict=True)]
    return chosen


def _half(parameters: Sequence[nn.Parameter]) -> bool:
    kind = parameters[0].device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
    return autocast or any(p.dtype is torch.float16 for p in parameters)


def mean_gradients(of_batches: Sequence[Mapping[str, Sequence[Tensor]]]) -> dict[str, list[Tensor]]:
    """Return the mean of the terms' gradients over a step's batches; a term that sat a batch out has 0 there."""
    sums: dict[str, list[Tensor]] = {}
    for of_terms in of_batches:
        for name, gradients in of_terms.items():
            before = sums.get(name)
            sums[name] = list(gradients) if before is None else [a + b for a, b in zip(before, gradients, strict=True)]
    return {name: [each / len(of_batches) for each in gradients] for name, gradients in sums.items()}

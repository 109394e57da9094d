"""Warns once, in custom loops, of parameters that never change. `fit` checks this in a better way."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from congruence.core.ranks import rank
from congruence.methods.method import Clock
from congruence.methods.term import Term
from congruence.models.parameters import bits
from congruence.models.untaught import mark_parts, share, whole_parts

LOG = logging.getLogger("congruence")
_AT = (11, 33, 99)  # the check runs after these training batches: an optimizer need not step after each


class Unmoved:
    """Compares the students' trainable parameters with their values at the first training batch."""

    def __init__(self) -> None:
        self._batches = 0
        self._first: dict[str, dict[str, int | None]] = {}

    def after_batch(self, students: nn.ModuleDict, terms: Sequence[Term], clock: Clock) -> None:
        """Count a training batch before its backward; once all terms have begun, warn of unchanged parameters."""
        if self._batches > _AT[-1]:
            return
        if not self._batches:
            self._first = {name: _bits(student) for name, student in students.items()}
        self._batches += 1
        if self._batches in _AT and not any(term.start_epoch > clock.epoch for term in terms):
            self._look(students)

    def _look(self, students: nn.ModuleDict) -> None:
        for name, student in students.items():
            now, first = _bits(student), self._first[name]
            left = [inner for inner, each in now.items() if each is not None and first.get(inner) == each]
            if len(left) == len(now):  # no step yet
                continue
            self._batches = _AT[-1] + 1
            # A single unchanged tensor among changed ones had steps too small to see, such as a bias before a batch
            # norm.
            modules = dict(student.named_modules())
            parts = [part for part in whole_parts(student, left) if part in modules]
            left = [inner for inner in left if any(inner.startswith(f"{part}.") for part in parts)]
            mark_parts(student, parts)
            if parts and rank() == 0:
                LOG.warning(
                    "The %s has parts that no step has changed so far: %s. No term reaches them, no optimizer has "
                    "them, or its steps are too small.",
                    name,
                    share(student, parts, left),
                )


def _bits(student: nn.Module) -> dict[str, int | None]:
    """Half precision is skipped, because small steps are lost in it."""
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad and p.element_size() >= 4}
    return {name: bits(parameter) for name, parameter in trained.items()}

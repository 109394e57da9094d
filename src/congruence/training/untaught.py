"""Warns of untrained parts: parameters that no term reaches, and layers unfrozen after the optimizer was made."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch.optim import Optimizer

from congruence.core import ranks
from congruence.distiller.distiller import Distiller
from congruence.models.layers import parse
from congruence.models.untaught import mark_parts, share, whole_parts

LOG = logging.getLogger("congruence")
AFTER = 10  # steps before the first warning: a queue may have to fill before its term has a gradient


class Untaught:
    """Tracks which of the students' trainable parameters have had a gradient from any term.

    Args:
        distiller: the run's distiller, already built.
        optimizers: the run's optimizers.
    """

    def __init__(self, distiller: Distiller, optimizers: Sequence[Optimizer]) -> None:
        self.distiller, self.optimizers = distiller, optimizers
        self._left = {
            name: {inner for inner, parameter in student.named_parameters() if parameter.requires_grad}
            for name, student in distiller.students.items()
        }
        self._trained = {id(parameter) for parameter in distiller.parameters() if parameter.requires_grad}
        self._told = False

    def after_step(self) -> None:
        """Check the gradients of a step, before the next step clears them."""
        for name, left in self._left.items():
            if left:  # most students have no unreached parameters left after their first step
                parameters = dict(self.distiller.students[name].named_parameters())
                left -= {inner for inner in left if inner not in parameters or parameters[inner].grad is not None}

    def tell_once(self, epoch: int) -> None:
        """Warn of the parameters that no term has reached so far, once all terms have begun."""
        if self._told or any(term.start_epoch > epoch for term in self.distiller.terms):
            return
        self._told = True
        parts = self._tell("no term reaches so far", "stay as they are")
        for name, of_student in parts.items():
            for part in sorted(self._entered(name) & set(of_student)) if ranks.rank() == 0 else ():
                LOG.warning(
                    "The terms read what enters the %s's '%s' as its embedding. If '%s' is no classifier, but the end "
                    "of the embedding, name it: student_layer='%s', and the teacher's end likewise.",
                    *(name, part, part, part),
                )

    def _entered(self, name: str) -> set[str]:
        """Return the layers of a student whose inputs the terms read."""
        read = [
            parse(path)
            for binding in self.distiller.bindings.values()
            for (model, _), paths in binding.paths.items()
            if binding.models[model] == name
            for path in paths
        ]
        return {path.layer for path in read if path.side == "input"}

    def end(self) -> dict[str, list[str]]:
        """Warn of parameters that no term has reached, mark them for later measurements, and return them by student."""
        parts = self._tell("no term has reached", "are written as they were before")
        for name, of_student in parts.items():
            mark_parts(self.distiller.students[name], of_student)
        return parts

    def _tell(self, what: str, then: str) -> dict[str, list[str]]:
        """Warn of the parameters that no term has reached; return them by student, without fully trained students."""
        told = {}
        for name, left in self._left.items():
            student = self.distiller.students[name]
            parts = whole_parts(student, left)
            if not parts:
                continue
            told[name] = parts
            if ranks.rank() == 0:
                LOG.warning("The %s has parts that %s: %s; they %s.", name, what, share(student, parts, left), then)
        return told

    def thawed(self) -> None:
        """Warn of parameters that have been unfrozen since the run began and are in no optimizer."""
        moved = {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        for name, student in self.distiller.students.items():
            new = {
                inner: parameter
                for inner, parameter in student.named_parameters()
                if parameter.requires_grad and id(parameter) not in self._trained | moved
            }
            if new:
                self._trained |= {id(parameter) for parameter in new.values()}
                LOG.warning(
                    "The %s's %s now require a gradient but are in no optimizer: they do not train. Unfreeze them "
                    "before `fit` (in a separate stage), or give `optimizer=` and add them to it.",
                    *(name, ", ".join(f"'{part}'" for part in whole_parts(student, new))),
                )

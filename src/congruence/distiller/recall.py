"""The protocol by which a distiller asks for a teacher's stored answers, whoever stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from congruence.distiller.bindings import Binding
from congruence.models.teacher import Teacher

# (view, paths, the view's inputs) → the teacher's tensors by path
Recall = Callable[[str, set[str], Any], dict[str, Tensor]]


@runtime_checkable
class StoredTeacher(Protocol):
    """A teacher whose answers to the training samples are stored; `congruence.TeacherCache` is one."""

    teacher: Teacher

    def open(self, bindings: Iterable[Binding]) -> None:
        """Make ready the layers that the teacher's terms read, of every view."""

    def at(self, index: Tensor | None, epoch: int, bindings: Iterable[Binding]) -> Recall:
        """Return what reads the layers of a batch's samples, as an epoch shows them."""

    def serves(self, loader: Any) -> None:
        """Raise a `ValueError` for a training loader that shows something else than what is stored."""

    def describe(self) -> dict[str, Any]:
        """Return, as plain values, what of it makes a run the run it is."""

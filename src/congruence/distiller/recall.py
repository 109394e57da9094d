"""The protocol by which a distiller reads a teacher's stored outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from congruence.distiller.bindings import Binding
from congruence.models.teacher import Teacher

# (view, paths, the view's inputs, which may be `Later`) → the teacher's tensors by path
Recall = Callable[[str, set[str], Any], dict[str, Tensor]]


@runtime_checkable
class StoredTeacher(Protocol):
    """A teacher whose outputs for the training samples are stored; `congruence.TeacherCache` is one."""

    teacher: Teacher

    def open(self, bindings: Iterable[Binding]) -> None:
        """Prepare the layers that the teacher's terms read, for every view."""

    def at(self, index: Tensor | None, epoch: int, bindings: Iterable[Binding]) -> Recall:
        """Return a function that reads the stored layers for a batch's samples, as augmented in the given epoch."""

    def serves(self, loader: Any) -> None:
        """Raise a `ValueError` for a training loader whose samples differ from the stored ones."""

    def describe(self) -> dict[str, Any]:
        """Return, as plain values, the settings of the cache that identify a run."""

"""What one batch gave: what the models' forwards left, and what the terms made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from congruence.core.inputs import STUDENT, TEACHER, inputs_of
from congruence.methods.method import Key
from congruence.models.layouts import batch_sizes


class Output(NamedTuple):
    """What one batch gave: the weighted `loss`, the unweighted `terms`, the models' own outputs, and the `weights`.

    The weights are tensors of shape [] on the loss's device, as the terms are: to read one waits for the device.

    The slice `output[1:]` is what the Trainer of transformers takes as the predictions of a model that gives its loss
    first: the student's logits, of several students or outputs one after the other.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    student: Any
    teacher: Any
    weights: dict[str, Tensor]

    def __getitem__(self, key: Any) -> Any:
        """Return a field by its position; see the class for `[1:]`."""
        return _predictions(self.student) if key == slice(1, None) else tuple.__getitem__(self, key)


def _predictions(output: Any) -> tuple[Any, ...]:
    if isinstance(output, Mapping):
        output = [output["logits"]] if isinstance(output.get("logits"), Tensor) else list(output.values())
    if isinstance(output, (tuple, list)):
        return tuple(tensor for part in output for tensor in _predictions(part))
    return (output,) if isinstance(output, Tensor) else ()


@dataclass(frozen=True)
class Captured:
    """What the models gave for one batch: tapped tensors by (model, view, path), and outputs by (model, view)."""

    tensors: Mapping[Key, Tensor]
    outputs: Mapping[tuple[str, str], Any]
    inputs: Mapping[str, Any]
    labels: Tensor | None
    index: Tensor | None
    micro_batch: int | None = None  # for what a method runs again
    teachers: tuple[str, ...] = (TEACHER,)

    def given(self, model: str, view: str) -> Any:
        """Return what a model took for a view."""
        return inputs_of(self.inputs[view], model, TEACHER if model in self.teachers else STUDENT)

    def samples(self, model: str, view: str, shape: Sequence[int], *, named: bool) -> frozenset[int]:
        """Return how many samples a tensor of a shape may be of: as many as labels or an index, or as the inputs say.

        Labels that are as many as none of its dimensions tell nothing (of flattened tokens, or of a bag of instances),
        and where its layout is named they are not asked alone.
        """
        known = self.labels if self.labels is not None else self.index
        of_labels = frozenset([len(known)] if known is not None and known.dim() else [])
        if of_labels & set(shape) and not named:
            return of_labels
        return of_labels | batch_sizes(self.given(model, view), second=named)

    def students(self, names: tuple[str, ...]) -> Any:
        """Return the student's output; where they have names, a mapping from name to output."""
        return self.output("student") if names == ("student",) else {name: self.output(name) for name in names}

    def taught(self) -> Any:
        """Return the teacher's output, None where it did not run; where they have names, a mapping from name to it."""
        if self.teachers in ((), (TEACHER,)):
            return self.output(TEACHER)
        return {name: self.output(name) for name in self.teachers}

    def output(self, model: str) -> Any:
        """Return what a model gave for the view "main", else for the first one; None where it did not run."""
        by_view = {view: output for (name, view), output in self.outputs.items() if name == model}
        return by_view.get("main", next(iter(by_view.values()), None))

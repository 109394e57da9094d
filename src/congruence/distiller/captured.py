"""The results of one batch: `Captured` from the models' forwards, `Output` from the terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from congruence.core.inputs import STUDENT, TEACHER, inputs_of
from congruence.methods.method import Key
from congruence.models.layouts import batch_sizes


class Output(NamedTuple):
    """The result of one batch: the weighted `loss`, the unweighted `terms`, the models' outputs, and the `weights`.

    Weights and terms are tensors of shape [] on the device of the loss; reading one waits for the device.

    The slice `output[1:]` holds the student's logits (of several students or outputs, one after the other): the Trainer
    of transformers takes it as the predictions of a model that returns its loss first.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    student: Any
    teacher: Any
    weights: dict[str, Tensor]

    def __getitem__(self, key: Any) -> Any:
        """Return a field by its position; `[1:]` returns the predictions (see the class)."""
        return _predictions(self.student) if key == slice(1, None) else tuple.__getitem__(self, key)


def _predictions(output: Any) -> tuple[Any, ...]:
    if isinstance(output, Mapping):
        output = [output["logits"]] if isinstance(output.get("logits"), Tensor) else list(output.values())
    if isinstance(output, (tuple, list)):
        return tuple(tensor for part in output for tensor in _predictions(part))
    return (output,) if isinstance(output, Tensor) else ()


@dataclass(frozen=True)
class Captured:
    """The models' results for one batch: tapped tensors by (model, view, path), and outputs by (model, view)."""

    tensors: Mapping[Key, Tensor]
    outputs: Mapping[tuple[str, str], Any]
    inputs: Mapping[str, Any]
    labels: Tensor | None
    index: Tensor | None
    micro_batch: int | None = None  # for methods that run the student again
    teachers: tuple[str, ...] = (TEACHER,)

    def given(self, model: str, view: str) -> Any:
        """Return a model's inputs for a view."""
        return inputs_of(self.inputs[view], model, TEACHER if model in self.teachers else STUDENT)

    def samples(self, model: str, view: str, shape: Sequence[int], *, named: bool) -> frozenset[int]:
        """Return the possible numbers of samples in a tensor of this shape, from the labels, the index or the inputs.

        Labels whose number matches none of the tensor's dimensions are ignored (flattened tokens, or a bag of
        instances). If the tensor's layout is named, the inputs are considered as well.
        """
        known = self.labels if self.labels is not None else self.index
        of_labels = frozenset([len(known)] if known is not None and known.dim() else [])
        if of_labels & set(shape) and not named:
            return of_labels
        return of_labels | batch_sizes(self.given(model, view), second=named)

    def students(self, names: tuple[str, ...]) -> Any:
        """Return the student's output; for named students, a mapping from name to output."""
        return self.output("student") if names == ("student",) else {name: self.output(name) for name in names}

    def taught(self) -> Any:
        """Return the teacher's output, None if it did not run; for named teachers, a mapping from name to output."""
        if self.teachers in ((), (TEACHER,)):
            return self.output(TEACHER)
        return {name: self.output(name) for name in self.teachers}

    def output(self, model: str) -> Any:
        """Return a model's output for the view "main", or else for its first view; None if it did not run."""
        by_view = {view: output for (name, view), output in self.outputs.items() if name == model}
        return by_view.get("main", next(iter(by_view.values()), None))

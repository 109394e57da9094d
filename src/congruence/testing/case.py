"""What the contract runs a row on: models of some hundred parameters, and a few batches of numbers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from congruence.core.batch import Batch, unpack
from congruence.data import Loader, facts, loader
from congruence.distiller import Distiller
from congruence.methods import Row, Term, row
from congruence.methods.term import Layers

SAMPLES, CLASSES, BATCH = 32, 4, 8


@dataclass(frozen=True)
class Case:
    """A row, and the settings with which the contract runs it.


    Args:
        row: the row, or its key if it is in the catalogue.
        hyperparameters: values for hyper-parameters without a default, or other values to test.
        student_layer: as in a `Term`; by default the maps are "first" and "second" of a small CNN, tokens are the
            positions of "second", and other roles have their usual default.
        teacher_layer: the teacher's layers, as in a `Term`.
        permutes: whether the result must not depend on the order of the batch; False for a method that draws random
            numbers by row.
        zero_at_equal: whether the loss of a student equal to the teacher must be 0.
    """

    row: Row | str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    student_layer: Layers | Mapping[str, Layers] | None = None
    teacher_layer: Layers | Mapping[str, Layers] | None = None
    permutes: bool = True
    zero_at_equal: bool = False

    @property
    def entry(self) -> Row:
        """The row itself."""
        return row(self.row) if isinstance(self.row, str) else self.row

    def __str__(self) -> str:
        return "-".join([self.entry.key, *(f"{name}={value}" for name, value in self.hyperparameters.items())])


def require(condition: bool, case: Case, problem: str) -> None:
    """Raise the AssertionError that every failed check ends in."""
    if not condition:
        raise AssertionError(f"The method '{case}': {problem}.")


def small_model(case: Case, side: str, seed: int) -> nn.Module:
    """Make an MLP, or a CNN for a method that reads maps or tokens; the teacher is wider and has batch norms."""
    torch.manual_seed(seed)
    first, second = (6, 8) if side == "teacher" else (3, 5)

    def norm(kind: type[nn.Module], width: int) -> nn.Module:
        return kind(width) if side == "teacher" else nn.Identity()

    if not _reads_images(case):
        parts = (nn.Linear(6, second), norm(nn.BatchNorm1d, second), nn.Tanh(), nn.Linear(second, CLASSES))
        return nn.Sequential(*parts)
    layers: dict[str, nn.Module] = {
        "first": nn.Conv2d(1, first, 3, padding=1),
        "norm": norm(nn.BatchNorm2d, first),
        "relu": nn.ReLU(),
        "second": nn.Conv2d(first, second, 3, stride=2, padding=1),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "fc": nn.Linear(second, CLASSES),
    }
    return nn.Sequential(OrderedDict(layers))


def _reads_images(case: Case) -> bool:
    return not {"maps", "tokens"}.isdisjoint(case.entry.make(**case.hyperparameters).needs.roles)


def small_data(case: Case) -> TensorDataset:
    """Make inputs and labels, two of which are missing (-1)."""
    generator = torch.Generator().manual_seed(11)
    inputs = torch.randn(SAMPLES, *((1, 6, 6) if _reads_images(case) else (6,)), generator=generator)
    labels = torch.arange(SAMPLES) % CLASSES
    labels[[2, 17]] = -1
    return TensorDataset(inputs, labels)


class SmallLoader:
    """Batches of the small data, with every view a method asks for; each is a function of the inputs alone."""

    def __init__(self, case: Case) -> None:
        self.views = [view for view in case.entry.make(**case.hyperparameters).needs.views if view != "main"]
        self.inner: Loader = loader(small_data(case), batch_size=BATCH, seed=3)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch from number `start` on."""
        for inputs, labels, index in self.inner.batches(epoch, start):
            views = {name: inputs * (1.1 + k) + 0.1 for k, name in enumerate(self.views)}
            yield {"inputs": inputs, "labels": labels, "index": index, "views": views}


def batches(case: Case) -> list[Batch]:
    """Return the batches of the first epoch in float64."""
    return [changed(unpack(raw), lambda t: t.double() if t.is_floating_point() else t) for raw in SmallLoader(case)]


def changed(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Apply a function to every tensor of a batch."""
    labels, index = (None if part is None else function(part) for part in (batch.labels, batch.index))
    return Batch(function(batch.inputs), labels, index, {name: function(view) for name, view in batch.views.items()})


def small_distiller(case: Case, *, equal: bool = False) -> Distiller:
    """Make the distiller of a case, always the same; `equal` makes the student a copy of the teacher."""
    method = case.entry.make(**case.hyperparameters)
    needs = method.needs
    teacher = small_model(case, "teacher", 1)
    if equal:
        students: dict[str, nn.Module] = {"student": copy.deepcopy(teacher)}
    elif needs.students == "all":
        students = {"first": small_model(case, "student", 2), "second": small_model(case, "student", 3)}
    else:
        students = {"student": small_model(case, "student", 2)}
    usual = {"maps": ["first", "second"]} if "maps" in needs.roles else None
    term = Term(
        method,
        weight=case.entry.weight,
        name=case.entry.key,
        student_layer=case.student_layer or usual,
        teacher_layer=case.teacher_layer or usual,
    )
    data = small_data(case)
    torch.manual_seed(5)
    return Distiller(
        teacher if needs.teacher else None, students, [term], example=data.tensors[0][:2], facts=facts(data)
    )


def clone(state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a state dict."""
    return {name: copy.deepcopy(value) for name, value in state.items()}


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two state dicts hold the same bits."""
    if first.keys() != second.keys():
        return False
    return all(
        torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        for name, value in first.items()
    )


def gradients(distiller: Distiller) -> dict[str, Tensor]:
    """Return the gradient by every trained parameter that has one."""
    return {name: p.grad.clone() for name, p in distiller.named_parameters() if p.grad is not None}

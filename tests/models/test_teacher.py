"""The teacher stays frozen, whatever is done to it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from congruence.models.teacher import Teacher, shares_parameters


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def ready(images: Tensor) -> Teacher:
    teacher = Teacher(network())
    teacher.taps.probe(images, training=False)
    teacher.taps.require(["1", teacher.taps.default("features"), teacher.taps.default("logits")])
    return teacher


def test_statistics_do_not_move_and_nothing_has_gradient(images: Tensor) -> None:
    teacher = ready(images)
    before = {name: value.clone() for name, value in teacher.module.state_dict().items()}
    first, _ = teacher.read(images)
    for step in range(20):
        (teacher.module if step % 2 else teacher).train()
        output, values = teacher.read(images + step)
        assert not output.requires_grad
        assert not any(value.requires_grad for value in values.values())
    assert torch.equal(teacher.read(images)[0], first)
    for name, value in teacher.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


def test_a_part_left_in_training_mode_is_put_back(images: Tensor) -> None:
    teacher = ready(images)
    teacher.module[1].train()
    teacher.read(images)
    assert not any(module.training for module in teacher.module.modules())
    assert teacher.module[1].num_batches_tracked == 0


def test_values_serve_a_students_backward(images: Tensor) -> None:
    teacher = ready(images)
    scale = torch.ones((), requires_grad=True)
    _, values = teacher.read(images)
    (values["input:4"] * scale).sum().backward()
    torch.testing.assert_close(scale.grad, values["input:4"].sum())


def test_it_is_not_registered_and_survives_copies(images: Tensor) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = ready(images)

    holder = Holder()
    assert holder.state_dict() == {}
    assert list(holder.parameters()) == []
    expected = holder.teacher.read(images)[1]
    for twin in (copy.deepcopy(holder.teacher), pickle.loads(pickle.dumps(holder.teacher))):
        assert twin.module is not holder.teacher.module
        assert twin.taps.model is twin.module
        values = twin.train().read(images, only=["4"])[1]
        assert list(values) == ["4"]
        assert torch.equal(values["4"], expected["4"])


def test_it_moves_and_casts(images: Tensor) -> None:
    teacher = ready(images).to(torch.float64).eval()
    assert teacher.read(images.double(), only=())[0].dtype == torch.float64


def test_shared_parameters_are_found() -> None:
    model = network()
    assert shares_parameters(model, nn.Sequential(model[0]))
    assert not shares_parameters(model, copy.deepcopy(model))
    flat = nn.Parameter(torch.zeros(10))
    first, second = nn.ParameterList([flat[:5]]), nn.ParameterList([flat[5:]])
    assert shares_parameters(first, second)
    assert not shares_parameters(nn.ReLU(), nn.ReLU())

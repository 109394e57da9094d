"""The rule that orders weights in memory, and the order itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from congruence.models import build
from congruence.models.memory_order import native_bfloat16, ordered, prefers_channels_last

CPU = torch.device("cpu")


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the processor is taken for."""
    flags = ["AVX512"]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: flags[0])
    return flags


@pytest.mark.parametrize(
    ("key", "expected"),
    [("cnn3", True), ("resnet20", True), ("mobilenetv2", True), ("shufflenetv1", False), ("vgg8", False)],
)
def test_kinds_of_layers(key: str, expected: bool, capability: list[str]) -> None:
    assert prefers_channels_last(build(key, classes=3), CPU) is expected


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), nn.Linear(64, 8)),
        nn.Sequential(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 3)),
        nn.Sequential(*(nn.Conv3d(3, 3, 3) for _ in range(4)), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)),
        nn.Linear(3, 2),
    ],
    ids=["patches of a transformer", "one dimension", "three dimensions", "no convolution"],
)
def test_networks_that_gain_nothing(model: nn.Module, capability: list[str]) -> None:
    assert not prefers_channels_last(model, CPU)


@pytest.mark.parametrize(("flags", "expected"), [("AVX512", True), ("AVX2", True), ("DEFAULT", False), ("SVE", False)])
def test_processors_that_were_measured(flags: str, expected: bool, capability: list[str]) -> None:
    capability[0] = flags
    assert prefers_channels_last(build("cnn3", classes=3), CPU) is expected


@pytest.mark.parametrize(
    ("layer", "float32", "bfloat16"),
    [
        (nn.Conv2d(128, 256, 3), True, True),
        (nn.Conv2d(256, 16, 3), False, True),
        (nn.Conv2d(256, 16, 1), True, True),
        (nn.Conv2d(256, 256, 3, groups=256), True, True),
        (nn.Conv2d(12, 12, 3, groups=3), False, False),
        (nn.Conv2d(3, 3, 3).double(), False, False),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), False, False),
    ],
    ids=["few channels", "many", "many, 1×1", "depthwise", "grouped", "float64", "a weight made of others"],
)
def test_kinds_of_convolutions(layer: nn.Module, float32: bool, bfloat16: bool, capability: list[str]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), layer)
    assert prefers_channels_last(network, CPU) is float32
    assert prefers_channels_last(network, CPU, torch.bfloat16) is bfloat16


def test_other_devices() -> None:
    assert not prefers_channels_last(build("cnn3", classes=3), torch.device("meta"))
    assert not native_bfloat16(torch.device("meta"))


def test_an_order_changes_no_value_and_can_be_undone() -> None:
    model = build("cnn3", classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ordered(model, last=True)
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    ordered(model, last=False)
    assert all(parameter.is_contiguous() for parameter in model.parameters())

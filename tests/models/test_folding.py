"""Batch norms are folded where nothing can tell, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from congruence.models import ZOO, build
from congruence.models.folding import fold_batch_norms


def moved_norms(model: nn.Module) -> nn.Module:
    """Give batch norms statistics that are not those of a fresh one."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
    return model.eval()


def norms(model: nn.Module) -> int:
    """How many batch norms a model has."""
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def folded(model: nn.Module, example: Tensor, tapped: tuple[tuple[str, str], ...] = ()) -> int:
    """Fold a copy in float64, and compare it with the model by its definition."""
    torch.manual_seed(0)
    model = moved_norms(model).double()
    quick = copy.deepcopy(model)
    count = fold_batch_norms(quick, tapped, example.double())
    gone = [
        sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in each.modules()) for each in (model, quick)
    ]
    assert count == gone[0] - gone[1]
    with torch.no_grad():
        torch.testing.assert_close(quick(example.double()), model(example.double()), rtol=1e-10, atol=1e-10)
    return count


class Way(nn.Module):
    """Two convolutions and norms, in a forward of one's own."""

    def __init__(self, forward: Callable[[Way, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.way = forward

    def forward(self, images: Tensor) -> Tensor:
        return self.way(self, images)


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SMALL = IMAGES[..., :6, :6]
WAYS: dict[str, tuple[Callable[[Way, Tensor], Tensor], int]] = {
    "one after the other": (lambda m, x: m.bn2(m.second(m.bn1(m.first(x)).relu())), 2),
    "a way around the norm": (lambda m, x: m.bn1(y := m.first(x)) + y, 0),
    "seen as a view": (lambda m, x: m.bn1(y := m.first(x)).sum() + y.flatten(1).sum(), 0),
    "written over in place": (lambda m, x: m.bn1(m.first(x).relu_()), 0),
    "run twice": (lambda m, x: m.bn1(m.first(x)) + m.bn1(m.first(x + 1)), 0),
    "one norm for two layers": (lambda m, x: m.bn1(m.second(m.bn1(m.first(x)))), 0),
    "a weight used elsewhere": (lambda m, x: m.bn1(m.first(x)) * m.first.weight.sum(), 0),
    "a statistic used elsewhere": (lambda m, x: m.bn1(m.first(x)) * m.bn1.running_var.sum(), 0),
    "a choice by value": (lambda m, x: m.bn1(m.first(x)) if x.sum() > 0 else m.first(x), 0),
    "a value read by Python": (lambda m, x: m.bn1(m.first(x)) * sum(x.sum(1).flatten().tolist()), 0),
    "a choice by shape": (lambda m, x: m.bn1(m.first(x)) if x.shape[-1] > 4 else m.first(x), 1),
    "the layer's own output": (lambda m, x: m.first(x), 0),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_pair_is_folded_where_the_norm_alone_sees_the_layer(name: str) -> None:
    forward, expected = WAYS[name]
    assert folded(Way(forward), SMALL) == expected


@pytest.mark.parametrize("key", ["resnet8", "resnet20", "wrn16_1", "vgg8", "mobilenetv2", "shufflenetv2", "cnn3"])
def test_networks_of_the_zoo(key: str) -> None:
    expected = {"resnet8": 9, "resnet20": 21, "wrn16_1": 6, "vgg8": 5, "mobilenetv2": 53, "shufflenetv2": 56, "cnn3": 3}
    assert key in ZOO
    assert folded(build(key, classes=5), IMAGES) == expected[key]


@pytest.mark.parametrize(
    ("tapped", "expected"),
    [
        ((), 2),
        ((("first", "output"),), 1),
        ((("bn1", "input"),), 1),
        ((("bn1", "output"), ("second", "input")), 2),
        ((("", "output"),), 2),
    ],
    ids=str,
)
def test_a_tap_between_keeps_them_apart(tapped: tuple[tuple[str, str], ...], expected: int) -> None:
    assert folded(Way(WAYS["one after the other"][0]), SMALL, tapped) == expected


def test_a_tap_on_what_holds_the_layer_alone() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert folded(model, SMALL, (("0", "output"),)) == 1
    assert folded(model, SMALL) == 2


def test_other_layers_and_norms() -> None:
    rows = torch.randn(4, 6)
    assert folded(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False)), rows) == 1
    assert folded(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False)), rows) == 1
    assert folded(nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4)), torch.randn(2, 3, 9)) == 1
    assert folded(nn.Sequential(nn.Conv3d(3, 4, 2, groups=1), nn.BatchNorm3d(4)), torch.randn(2, 3, 4, 4, 4)) == 1
    # Of tokens the norm's channels are the second dimension, not the layer's last.
    assert folded(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), torch.randn(4, 5, 6)) == 0
    assert folded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), SMALL) == 0


def test_tied_weights_and_hooks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    model[2].weight = model[0].weight  # each gets weights of its own
    assert folded(model, SMALL) == 2
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    hooked[0].register_forward_hook(lambda module, args, output: None)
    assert fold_batch_norms(hooked, (), SMALL) == 0


def test_a_norm_that_trains_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert fold_batch_norms(model, (), SMALL) == 0

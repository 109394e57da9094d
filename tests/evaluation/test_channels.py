"""Models are measured with their channels last where they say the same so, and are as before afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.evaluation import channels, embed
from congruence.evaluation.channels import batch_of, channels_last

CPU = torch.device("cpu")


class Net(nn.Module):
    """A convolution whose maps are read as rows in one of several ways."""

    def __init__(self, way="mean"):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8 if way == "mean" else 8 * 36, 4)
        self.orders = []

    def forward(self, images):
        maps = self.second(self.norm(self.first(images))).relu()
        self.orders.append(maps.is_contiguous())
        if self.way == "mean":
            return self.head(maps.mean((2, 3)))
        if self.way == "view":
            return self.head(maps.view(len(maps), -1))
        if self.way == "memory":  # right for maps in the usual order alone
            return self.head(maps.as_strided((len(maps), 8 * 36), (8 * 36, 1)))
        return self.head(maps.flatten(1))


def batches():
    images = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return [(part, torch.arange(len(part)) % 4) for part in images.split(8)]


@pytest.mark.parametrize("way", ["mean", "flatten", "view", "memory"])
def test_what_is_embedded_is_what_the_model_says(way):
    model = Net(way).eval()
    with torch.no_grad():
        expected = torch.cat([model(images) for images, _ in batches()])
    model.orders.clear()
    found = embed(model, batches())
    assert torch.allclose(found.logits, expected, rtol=1e-5, atol=1e-6)
    contiguous = model.orders[-1]
    assert contiguous == (way in ("view", "memory"))
    if contiguous:
        assert torch.equal(found.logits, expected)


def test_weights_are_afterwards_where_they_were():
    model = Net()
    model.train()
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    strides = [parameter.stride() for parameter in model.parameters()]
    embed(model, batches())
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert model.training
    with pytest.raises(RuntimeError, match="stop"), channels_last(model):
        raise RuntimeError("stop")
    assert model.first.weight.data_ptr() == pointers[0]


def test_two_names_of_one_model_are_put_back_too():
    model = Net().eval()
    pointer = model.first.weight.data_ptr()
    assert cg.compare(model, model, batches()).agreement == 1.0
    assert model.first.weight.data_ptr() == pointer


def test_batches_by_device():
    assert (batch_of(None), batch_of(CPU), batch_of(torch.device("cuda"))) == (50, 50, 100)


def test_not_finite_rows_are_alike():
    model = Net().eval()
    model.head.bias.data[1] = torch.nan
    assert channels.reads_alike(model, lambda: {"output": model(batches()[0][0])})

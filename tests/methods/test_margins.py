import pytest
import torch
from torch import nn

from congruence.losses import batch_norm_margin
from congruence.methods.margins import margin_before
from congruence.models import build


class Shared(nn.Module):
    """A block as torchvision has it: one ReLU, registered before the second batch norm, called twice."""

    def __init__(self, kind=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), kind(4)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        hidden = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(hidden + self.downsample(x))


def marked(model):
    """Give every batch norm weights of its own, so that margins tell them apart."""
    for number, module in enumerate(model.modules()):
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.weight.data.fill_(1 + number)
            module.bias.data.fill_(-0.1 * number)
    return model


ZOO = marked(build("resnet8", classes=3))
SHARED = marked(nn.Sequential(nn.Conv2d(3, 4, 3), Shared(), nn.Sequential(Shared())))
PLAIN = marked(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), nn.Conv2d(4, 4, 3)))
CNN3 = marked(build("cnn3", classes=3))


@pytest.mark.parametrize(
    ("model", "path", "norm"),
    [
        (ZOO, "input:relu", "bn1"),
        (ZOO, "bn1", "bn1"),
        (ZOO, "input:layer1.0.relu", "layer1.0.bn2"),
        (ZOO, "input:layer2.0.relu", "layer2.0.bn2"),  # the shortcut's is left out
        (ZOO, "layer2", "layer2.0.bn2"),
        (ZOO, "layer3.0.relu", "layer3.0.bn2"),
        (ZOO, "layer3.0.downsample", "layer3.0.downsample.1"),
        (SHARED, "input:1.relu#1", "1.bn1"),
        (SHARED, "input:1.relu#2", "1.bn2"),
        (SHARED, "1", "1.bn2"),
        (SHARED, "2", "2.0.bn2"),
        (SHARED, "input:2", "1.bn2"),
        (SHARED, "input:2.0", "1.bn2"),
        (PLAIN, "input:3", "1"),
        (PLAIN, "3", "1"),
        (PLAIN, "2", "1"),
        (PLAIN, "input:4", "1"),
        (CNN3, "input:relu2", "bn2"),
        (CNN3, "relu3", "bn3"),
    ],
)
def test_finds_the_batch_norm(model, path, norm):
    expected = model.get_submodule(norm)
    channels = expected.num_features
    torch.testing.assert_close(margin_before(model, path, channels), batch_norm_margin(expected.weight, expected.bias))


@pytest.mark.parametrize(
    ("model", "path", "channels"),
    [
        (PLAIN, "0", 4),
        (PLAIN, "4", 4),
        (PLAIN, "input:1", 4),
        (PLAIN, "input:0", 3),
        (PLAIN, "input:3", 8),
        (SHARED, "input:1.conv2", 9),
        (SHARED, "input:1.relu#3", 4),
        (CNN3, "input:conv1", 3),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "input:1", 4),
        (nn.ReLU(), "input:", 4),
    ],
)
def test_says_where_there_is_none(model, path, channels):
    sentence = f"`Overhaul`: no batch norm of {channels} channels feeds the teacher's layer '{path}': tap one, or the"
    with pytest.raises(ValueError, match="^" + sentence):
        margin_before(model, path, channels)


def test_a_batch_norm_without_weights_is_a_unit_gaussian():
    model = nn.Sequential(nn.BatchNorm2d(2, affine=False), nn.ReLU())
    torch.testing.assert_close(margin_before(model, "input:1", 2), torch.full((2,), -0.7978846))

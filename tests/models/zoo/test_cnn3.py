from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from congruence.models.parameters import count_parameters
from congruence.models.zoo import build
from congruence.models.zoo.cnn3 import Grid2x2


def test_layers_on_cifar_images() -> None:
    torch.manual_seed(0)
    model = build("cnn3", classes=10).eval()
    images = torch.randn(3, 3, 32, 32)
    hidden = images
    for conv, norm in [(model.conv1, model.bn1), (model.conv2, model.bn2), (model.conv3, model.bn3)]:
        hidden = F.max_pool2d(F.relu(norm(conv(hidden))), 2)
    assert hidden.shape == (3, 32, 2, 2)
    embedding = F.relu(model.embed.linear(hidden.flatten(1)))
    assert embedding.shape == (3, 64)
    assert model.embedding_dim == 64
    torch.testing.assert_close(model(images), model.fc(embedding))


def test_the_auxiliary_teacher_is_twice_as_wide() -> None:
    model = build("cnn3", classes=10, width=16, embedding_dim=128)
    assert (model.conv3.out_channels, model.embedding_dim) == (64, 128)
    assert count_parameters(model) == 448 + 32 + 4640 + 64 + 18496 + 128 + 32896 + 1290


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_truncated_students_average_their_last_map(keep: int) -> None:
    torch.manual_seed(0)
    model = build("cnn3", classes=10, keep=keep).eval()
    whole = build("cnn3", classes=10).eval()
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("fc")}
    whole.load_state_dict(whole.state_dict() | shared)
    taken = {}
    whole.get_submodule(f"relu{keep}").register_forward_hook(lambda module, args, output: taken.update(map=output))
    images = torch.randn(2, 3, 32, 32)
    whole(images)
    assert model.embedding_dim == 8 * 2 ** (keep - 1)
    torch.testing.assert_close(model(images), model.fc(taken["map"].mean((2, 3))))


def test_small_images_are_framed() -> None:
    model = build("cnn3", classes=10, in_channels=1).eval()
    small = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model(small), model(F.pad(small, (7, 7, 7, 7))))


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (4, 4), (7, 6), (26, 9)])
def test_grid_is_adaptive_max_pooling(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size)
    assert torch.equal(Grid2x2()(maps), F.adaptive_max_pool2d(maps, 2).flatten(1))

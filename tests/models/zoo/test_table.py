"""The zoo: sizes, shapes, determinism, sentences."""

from __future__ import annotations

import pytest
import torch

from congruence.models.parameters import count_parameters
from congruence.models.taps import Taps
from congruence.models.zoo import ZOO, build, names


def cifar_size(depth: int, stem: int, widths: tuple[int, int, int], classes: int) -> int:
    """Count by hand: 3×3 convolutions without bias, two numbers a batch-norm channel, 1×1 shortcuts."""
    total = 27 * stem + 2 * stem
    before = stem
    for stage, width in enumerate(widths):
        total += 9 * before * width + 9 * width * width + 4 * width
        total += ((depth - 2) // 6 - 1) * (18 * width * width + 4 * width)
        if stage > 0 or before != width:
            total += before * width + 2 * width
        before = width
    return total + before * classes + classes


# The sizes that the CIFAR-100 benchmark's tables round: 0.28M, 0.47M, 0.86M, 1.74M, 1.23M, 7.43M; and, for 10 classes,
# those of the common ResNet-18 and -34 for small images. cnn3: 224+16 + 1168+32 + 4640+64 + 8256 + 650.
KNOWN = {
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "cnn3": 15_050,
}


@pytest.mark.parametrize("name", names())
def test_sizes(name: str) -> None:
    entry = ZOO[name]
    model = build(name, classes=entry.classes)
    assert count_parameters(model) == entry.parameters == KNOWN.get(name, entry.parameters)
    if entry.classes == 100:
        depth, wide = (int(name.removeprefix("resnet").removesuffix("x4")), name.endswith("x4"))
        stem, widths = (32, (64, 128, 256)) if wide else (16, (16, 32, 64))
        assert cifar_size(depth, stem, widths, 100) == entry.parameters


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "resnet18", "cnn3"])
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (32, 32)), (1, (28, 28)), (3, (11, 17))])
def test_any_image_and_common_names(name: str, channels: int, size: tuple[int, int]) -> None:
    options = {"width": 8} if name == "resnet18" else {}
    model = build(name, classes=5, in_channels=channels, embedding_dim=12, **options)
    images = torch.randn(2, channels, *size)
    taps = Taps(model, name="student")
    taps.probe(images, training=True)
    assert taps.default("features") == "input:fc"
    taps.require(["input:fc", "embed", "fc"])
    output, values = taps.read(images)
    assert output.shape == (2, 5)
    assert values["input:fc"].shape == (2, 12)
    assert torch.equal(values["embed"], values["input:fc"])
    assert model.embedding_dim == 12
    assert list(dict(model.named_children()))[-1] == "fc"
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "cnn3"])
def test_the_seed_alone_decides(name: str) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build(name, classes=4).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("resnet21", {"classes": 3}, r"no model 'resnet21' in the zoo. Did you mean 'resnet"),
        (
            "resnet20",
            {"classes": 3, "width": 3},
            r"'resnet20' has no option 'width'.* It has classes, embedding_dim, in_chan",
        ),
        ("cnn3", {"classes": 3, "witdh": 3}, r"no option 'witdh'. Did you mean 'width'"),
        ("cnn3", {"classes": 0}, r"`build`: `classes` must be an integer >= 1, got 0"),
        ("cnn3", {"classes": 2, "keep": 4}, r"`build`: `keep` must be an integer >= 1 and <= 3 or None, got 4"),
        ("resnet8", {"classes": 2, "embedding_dim": 0}, r"`embedding_dim` must be an integer >= 1 or None"),
        ("resnet8", {"classes": 2, "in_channels": -1}, r"`in_channels` must be"),
        ("resnet8", {"classes": 2, "depth": 14}, r"'resnet8' has no option 'depth'"),
    ],
)
def test_sentences(name: str, options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(name, **options)


def test_the_table_is_frozen() -> None:
    with pytest.raises(TypeError):
        ZOO["new"] = ZOO["cnn3"]  # type: ignore[index]
    assert all(entry.description for entry in ZOO.values())

"""The zoo: sizes, shapes, determinism, sentences."""

from __future__ import annotations

from typing import Any

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


# To the last digit. CIFAR, 100 classes: ResNet-18 and -50 as commonly printed; 10 classes: ResNet-18 and -34.
# ImageNet: what torchvision says of its weights. cnn3: 224+16 + 1168+32 + 4640+64 + 8256 + 650.
EXACT = [
    ("resnet18", {}, 10, 11_173_962),
    ("resnet34", {}, 10, 21_282_122),
    ("resnet18", {}, 100, 11_220_132),
    ("resnet50", {}, 100, 23_705_252),
    ("resnet18", {"stem": "imagenet"}, 1000, 11_689_512),
    ("resnet34", {"stem": "imagenet"}, 1000, 21_797_672),
    ("resnet50", {"stem": "imagenet"}, 1000, 25_557_032),
    ("mobilenetv2", {"stem": "imagenet"}, 1000, 3_504_872),
    ("cnn3", {}, 10, 15_050),
]
# In millions, 100 classes, as the CIFAR-100 benchmark's tables round them.
ROUNDED = [
    ("resnet20", {}, "0.28"),
    ("resnet32", {}, "0.47"),
    ("resnet56", {}, "0.86"),
    ("resnet110", {}, "1.74"),
    ("resnet8x4", {}, "1.23"),
    ("resnet32x4", {}, "7.43"),
    ("resnet50", {}, "23.71"),
    ("wrn16_2", {}, "0.70"),
    ("wrn40_1", {}, "0.57"),
    ("wrn40_2", {}, "2.26"),
    ("vgg8", {}, "3.97"),
    ("vgg13", {}, "9.46"),
    ("mobilenetv2", {"width": 0.5}, "0.81"),
    ("shufflenetv1", {}, "0.95"),
    ("shufflenetv2", {}, "1.36"),
]


def tag(value: object) -> str | None:
    """Show options in a test's name."""
    return "-".join(f"{key}={word}" for key, word in value.items()) if isinstance(value, dict) else None


@pytest.mark.parametrize("name", names())
def test_the_table_says_each_size(name: str) -> None:
    entry = ZOO[name]
    assert count_parameters(build(name, classes=entry.classes)) == entry.parameters


@pytest.mark.parametrize(("name", "options", "classes", "size"), EXACT, ids=tag)
def test_published_sizes(name: str, options: dict[str, Any], classes: int, size: int) -> None:
    assert count_parameters(build(name, classes=classes, **options)) == size


@pytest.mark.parametrize(("name", "options", "millions"), ROUNDED, ids=tag)
def test_rounded_sizes(name: str, options: dict[str, Any], millions: str) -> None:
    assert f"{count_parameters(build(name, classes=100, **options)) / 1e6:.2f}" == millions


@pytest.mark.parametrize("name", [name for name in names() if ZOO[name].description.startswith("CIFAR ResNet")])
def test_cifar_sizes_by_hand(name: str) -> None:
    depth, wide = int(name.removeprefix("resnet").removesuffix("x4")), name.endswith("x4")
    stem, widths = (32, (64, 128, 256)) if wide else (16, (16, 32, 64))
    assert cifar_size(depth, stem, widths, 100) == ZOO[name].parameters


# One small network of each structure; and every row, those narrow that can be.
STRUCTURES: list[tuple[str, dict[str, Any]]] = [
    ("resnet8", {}),
    ("resnet8x4", {}),
    ("resnet18", {"width": 8}),
    ("resnet18", {"width": 8, "stem": "imagenet"}),
    ("resnet50", {"width": 8}),
    ("wrn16_1", {}),
    ("vgg8", {}),
    ("mobilenetv2", {"width": 0.5}),
    ("mobilenetv2", {"width": 0.5, "stem": "imagenet"}),
    ("shufflenetv1", {}),
    ("shufflenetv2", {}),
    ("cnn3", {}),
]
ROWS = [(name, {"width": 8} if "width" in ZOO[name].options and "resnet" in name else {}) for name in names()]


@pytest.mark.parametrize(("name", "options"), STRUCTURES, ids=tag)
@pytest.mark.parametrize(("channels", "sizes"), [(1, [(8, 8), (28, 28)]), (3, [(64, 64), (11, 17)])])
def test_any_image_and_common_names(
    name: str, options: dict[str, Any], channels: int, sizes: list[tuple[int, int]]
) -> None:
    model = build(name, classes=5, in_channels=channels, embedding_dim=12, **options)
    assert model.embedding_dim == 12
    assert list(dict(model.named_children()))[-1] == "fc"
    for size in sizes:
        images = torch.randn(2, channels, *size)
        taps = Taps(model, name="student")
        taps.probe(images, training=True)
        assert taps.default("features") == "input:fc"
        taps.require(["input:fc", "embed", "fc"])
        output, values = taps.read(images)
        assert output.shape == (2, 5)
        assert values["input:fc"].shape == (2, 12)
        assert torch.equal(values["embed"], values["input:fc"])
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("name", "options"), ROWS + STRUCTURES[3:4] + STRUCTURES[8:9], ids=tag)
def test_common_taps(name: str, options: dict[str, Any]) -> None:
    model = build(name, classes=5, **options).eval()
    stages = [child for child, _ in model.named_children() if child.startswith("layer")]
    pooled = "pool" if name == "cnn3" else "avgpool"
    images = torch.randn(2, 3, 16, 16)
    taps = Taps(model, name="teacher")
    taps.probe(images, training=False)
    taps.require([*stages, pooled, "embed", "fc"])
    _, values = taps.read(images)
    sides = [values[stage].shape[-1] for stage in stages]
    assert stages == [f"layer{number + 1}" for number in range(len(stages))]
    assert len(stages) >= 3 or name == "cnn3"
    assert sides == sorted(sides, reverse=True)
    assert values[pooled].dim() == 2
    assert values["embed"].shape == (2, model.embedding_dim)
    torch.testing.assert_close(values["fc"], model.fc(values["embed"]))


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn16_1", "vgg8", "mobilenetv2", "shufflenetv2", "cnn3"])
def test_the_seed_alone_decides(name: str) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build(name, classes=4).state_dict())
    first = next(iter(states[0]))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0][first], states[2][first])


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
        ("wrn_40_2", {"classes": 3}, r"no model 'wrn_40_2' in the zoo. Did you mean 'wrn40_2'"),
        ("resnet50", {"classes": 2, "width": 0.5}, r"`build`: `width` must be an integer >= 1, got 0.5"),
        ("mobilenetv2", {"classes": 2, "width": 0.0}, r"`build`: `width` must be a number >= 0.1, got 0.0"),
        ("resnet50", {"classes": 2, "stem": "large"}, r"`stem` must be one of 'small', 'imagenet', got 'large'"),
        ("resnet50", {"classes": 2, "block": 3}, r"'resnet50' has no option 'block'"),
        ("vgg8", {"classes": 2, "stem": "small"}, r"'vgg8' has no option 'stem'"),
    ],
)
def test_sentences(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(name, **options)


def test_the_table_is_frozen() -> None:
    with pytest.raises(TypeError):
        ZOO["new"] = ZOO["cnn3"]  # type: ignore[index]
    assert all(entry.description for entry in ZOO.values())

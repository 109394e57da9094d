from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from congruence.models.parameters import count_parameters
from congruence.models.taps import Taps
from congruence.models.zoo import build
from congruence.models.zoo.parts import Shuffle
from congruence.models.zoo.shufflenet import GroupedUnit, SplitUnit

COUNTS = (4, 8, 4)


def shuffled(maps: Tensor, groups: int) -> Tensor:
    """Take the first channel of every group, then the second of every group, and so on."""
    each = maps.shape[1] // groups
    return torch.stack([maps[:, group * each + position] for position in range(each) for group in range(groups)], 1)


def test_shuffle_deals_channels_out() -> None:
    maps = torch.arange(6.0)[None, :, None, None].expand(2, 6, 3, 3)
    assert Shuffle(3)(maps)[0, :, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(Shuffle(2)(maps), shuffled(maps, 2))
    assert torch.equal(Shuffle(1)(maps), maps)


def test_size_of_v1_by_hand() -> None:
    total, before = 3 * 24 + 48, 24
    for width, count in zip((240, 480, 960), COUNTS, strict=True):
        for number in range(count):
            own = width - before if number == 0 else width
            inner = own // 4
            total += before * inner // (1 if before == 24 else 3) + 9 * inner + inner * own // 3
            total += 2 * (inner + inner + own)
            before = width
    assert count_parameters(build("shufflenetv1", classes=100)) == total + 960 * 100 + 100


def test_size_of_v2_by_hand() -> None:
    total, before = 3 * 24 + 48, 24
    for width, count in zip((116, 232, 464), COUNTS, strict=True):
        half = width // 2
        total += 9 * before + 2 * before + before * half + 2 * half  # of the first unit, what passes
        total += before * half + 9 * half + half * half + 6 * half
        total += (count - 1) * (half * half + 9 * half + half * half + 6 * half)
        before = width
    total += before * 1024 + 2 * 1024
    assert count_parameters(build("shufflenetv2", classes=100)) == total + 1024 * 100 + 100


def test_grouped_unit() -> None:
    for in_width, stride in ((24, 2), (36, 2), (36, 1)):
        width = 60 if stride == 2 else 36
        unit = GroupedUnit(in_width, width, stride, groups=3).eval()
        maps = torch.randn(2, in_width, 7, 7)
        first = 1 if in_width == 24 else 3
        hidden = shuffled(F.relu(unit.bn1(F.conv2d(maps, unit.conv1.weight, groups=first))), first)
        hidden = F.conv2d(hidden, unit.conv2.weight, stride=stride, padding=1, groups=hidden.shape[1])
        hidden = unit.bn3(F.conv2d(F.relu(unit.bn2(hidden)), unit.conv3.weight, groups=3))
        joined = torch.cat([hidden, F.avg_pool2d(maps, 3, 2, 1)], 1) if stride == 2 else hidden + maps
        assert joined.shape[1] == width
        torch.testing.assert_close(unit(maps), joined.relu())


def test_split_unit() -> None:
    for in_width, stride in ((6, 2), (8, 1)):
        unit = SplitUnit(in_width, 8, stride).eval()
        maps = torch.randn(2, in_width, 5, 5)
        passed, hidden = (unit.passing(maps), maps) if stride == 2 else (maps[:, :4], maps[:, 4:])
        hidden = F.relu(unit.bn1(F.conv2d(hidden, unit.conv1.weight)))
        hidden = unit.bn2(F.conv2d(hidden, unit.conv2.weight, stride=stride, padding=1, groups=4))
        hidden = F.relu(unit.bn3(F.conv2d(hidden, unit.conv3.weight)))
        assert passed.shape == hidden.shape
        torch.testing.assert_close(unit(maps), shuffled(torch.cat([passed, hidden], 1), 2))


def test_taps() -> None:
    for name, width, last in (("shufflenetv1", 960, 960), ("shufflenetv2", 464, 1024)):
        model = build(name, classes=10).eval()
        images = torch.randn(2, 3, 16, 16)
        taps = Taps(model, name="teacher")
        taps.probe(images, training=False)
        taps.require(["relu", "layer1", "layer3", "input:layer3.3.relu", "layer3.3.relu", "layer3.3.bn3", "avgpool"])
        _, values = taps.read(images)
        assert values["relu"].shape == (2, 24, 16, 16)
        assert values["layer1"].shape[-2:] == (8, 8)
        assert values["layer3"].shape == (2, width, 2, 2)
        before = values["input:layer3.3.relu"]
        assert (before < 0).any()
        assert values["avgpool"].shape == (2, last)
        if name == "shufflenetv1":
            assert torch.equal(before.relu(), values["layer3"])
        else:
            assert torch.equal(before, values["layer3.3.bn3"])
            assert torch.equal(values["layer3"][:, 1::2], before.relu())

"""A prepared teacher gives what the teacher gives, up to a stated rounding, or is not there."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from models.test_folding import moved_norms
from torch import Tensor, nn

import congruence as cg
from congruence.models import build, prepared
from congruence.models.compiled import Compiled
from congruence.models.prepared import TOLERANCE
from congruence.models.teacher import Teacher

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor counts as one with bfloat16 in hardware; the others compute it more slowly."""
    monkeypatch.setattr(prepared, "native_bfloat16", lambda device: request.param)
    return bool(request.param)


def ready(module: nn.Module, *layers: str, example: Tensor = IMAGES[:2]) -> Teacher:
    teacher = Teacher(module)
    teacher.taps.probe(example, training=False)
    teacher.taps.require(layers or [teacher.taps.default("features"), teacher.taps.default("logits")])
    return teacher


def network(key: str = "resnet8") -> nn.Module:
    torch.manual_seed(0)
    return moved_norms(build(key, classes=5))


def apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((second[path] - value).norm() / value.norm()) for path, value in first.items())


@pytest.mark.parametrize("key", ["resnet8", "cnn3", "shufflenetv2"])
def test_it_gives_what_the_teacher_gives(key: str, native: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    teacher = ready(network(key))
    exact = teacher.read(IMAGES)[1]
    teacher.prepare()
    assert ("bfloat16" in teacher.arithmetic) == native
    assert "batch norms folded" in teacher.arithmetic
    output, quick = teacher.read(IMAGES)
    assert output.dtype == torch.float32
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in quick.values())
    assert apart(exact, quick) < (TOLERANCE if native else 1e-5)
    assert apart(exact, quick) > 0
    assert teacher.arithmetic in caplog.text
    assert teacher.prepared is not None
    assert max(teacher.prepared.moved.values()) < TOLERANCE


def test_the_teacher_itself_is_left_alone(native: bool) -> None:
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    teacher = ready(module)
    teacher.prepare()
    teacher.read(IMAGES)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype
    assert torch.equal(torch.get_rng_state(), state)


def test_taps_anywhere_are_the_teachers(native: bool) -> None:
    layers = ["conv1", "bn1", "input:layer1.0.bn2", "layer2", "input:layer3.0.relu", "fc", "output"]
    teacher = ready(network(), *layers)
    exact = teacher.read(IMAGES)[1]
    teacher.prepare()
    assert apart(exact, teacher.read(IMAGES)[1]) < (TOLERANCE if native else 1e-5)
    only = teacher.read(IMAGES, only={"layer2"})[1]
    assert list(only) == ["layer2"]


def test_an_answer_does_not_depend_on_autocast_around_it(native: bool) -> None:
    teacher = ready(network())
    teacher.prepare()
    plain = teacher.read(IMAGES)[1]
    if native:
        with torch.autocast("cpu", torch.float16):
            assert apart(plain, teacher.read(IMAGES)[1]) == 0


class Far(nn.Module):
    """Half precision loses all of it: small differences of large numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.linear, self.fc = nn.Flatten(), nn.Linear(3072, 4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.linear(self.flat(images)) + 1000
        out: Tensor = self.fc(self.linear(self.flat(images)) + 1000 - rows.mean(1, keepdim=True))
        return out


def test_a_layer_that_moves_too_far_is_left_exact(native: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    teacher = ready(Far(), "fc")
    teacher.prepare()
    assert teacher.arithmetic == ""
    assert ("would change by" in caplog.text) == native


class Shared(nn.Conv2d):
    """A part that is never copied, as some keep large frozen encoders."""

    def __deepcopy__(self, memo: object) -> Shared:
        return self


def test_a_part_that_is_not_copied_is_left_alone(native: bool) -> None:
    module = moved_norms(nn.Sequential(Shared(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(3600, 3)))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    teacher = ready(module, "output")
    teacher.prepare()
    assert teacher.arithmetic == ""
    for name, value in module.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "module",
    [
        torch.fx.symbolic_trace(network("resnet8")),
        network("cnn3").double(),
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)).bfloat16(),
        torch.compile(network("cnn3"), backend="eager"),
        nn.Flatten(),
    ],
    ids=["traced", "float64", "half already", "compiled", "no weights"],
)
def test_others_run_as_they_are(module: nn.Module, native: bool) -> None:
    example = IMAGES[:2].double() if next(module.parameters(), torch.empty(0)).dtype == torch.float64 else IMAGES[:2]
    teacher = ready(module, "output", example=example)
    exact = teacher.read(example)[1]["output"]
    teacher.prepare()
    assert teacher.arithmetic == ""
    assert torch.equal(teacher.read(example)[1]["output"], exact)


def test_inputs_of_another_shape_are_answered_by_the_teacher(native: bool) -> None:
    teacher = ready(network())
    teacher.prepare()
    large = torch.randn(3, 3, 40, 40)
    answers = teacher.read(large)[1]
    teacher.prepared = None
    assert apart(teacher.read(large)[1], answers) == 0


@pytest.mark.parametrize("through_data", [False, True], ids=["counted", "by .data"])
def test_weights_that_change_are_noticed(through_data: bool, native: bool, caplog: pytest.LogCaptureFixture) -> None:
    teacher = ready(network())
    teacher.prepare()
    teacher.read(IMAGES)
    with torch.no_grad():
        for parameter in teacher.module.parameters():
            (parameter.data if through_data else parameter).mul_(1.5)
    answers = teacher.read(IMAGES)[1]
    assert "have changed" in caplog.text
    assert teacher.arithmetic == ""
    assert apart(ready(teacher.module).read(IMAGES)[1], answers) == 0


class Strict(nn.Module):
    """Refuses to run without its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        if not isinstance(self.norm, nn.BatchNorm2d):
            raise TypeError("no norm")
        out: Tensor = self.fc(self.norm(self.conv(images)).mean((2, 3)))
        return out


def test_a_teacher_that_cannot_be_prepared_stays_compiled(native: bool) -> None:
    teacher = ready(Strict(), "output")
    teacher.taps.compiled = compiled = Compiled("eager")
    teacher.prepare()
    assert teacher.arithmetic == ""
    assert teacher.taps.compiled is compiled
    whole = ready(network())
    whole.taps.compiled = Compiled("eager")
    whole.prepare()
    assert whole.prepared is not None
    assert whole.prepared.taps.compiled is not None


@pytest.mark.parametrize("speed", ["auto", "exact"])
def test_fit_prepares_and_puts_back(speed: str, native: bool, tmp_path: Path) -> None:
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    dataset = cg.data.ArrayDataset(images, torch.arange(16) % 4, classes=4, mean=[0.5] * 3, std=[1.0] * 3)
    loader = cg.data.loader(dataset, batch_size=8)
    teacher, student = moved_norms(build("resnet8", classes=4)), build("cnn3", classes=4)
    distiller = cg.Distiller(teacher, student, ["ce", "kd"], example=dataset.batch([0, 1]))
    seen: list[str] = []

    def look(event: cg.Event) -> None:
        seen.append(event.distiller.teacher.arithmetic)

    options = cg.FitOptions(epochs=1, device="cpu", teacher_speed=speed, out=tmp_path / "run", callbacks=(look,))
    cg.fit(distiller, loader, loader, options)
    assert {bool(text) for text in seen} == {speed == "auto"}
    assert distiller.teacher is not None
    assert distiller.teacher.arithmetic == ""
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["teacher_arithmetic"] == seen[0]

"""What "auto" stands for, and weights whose order in memory changes under an optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.models import build
from congruence.training import modes
from congruence.training.modes import channels_last, settled
from congruence.training.optim import align, make_optimizer, step_unless
from congruence.training.options import OptimizerOptions

CPU = torch.device("cpu")
GOOD = torch.tensor(False)


def images() -> cg.data.ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (24, 3, 24, 24), dtype=torch.uint8, generator=generator)
    return cg.data.ArrayDataset(pixels, torch.arange(24) % 4, classes=4, mean=[0.5] * 3, std=[0.3] * 3)


def distiller(*students: str) -> cg.Distiller:
    torch.manual_seed(0)
    teacher = build("resnet8", classes=4)
    made = {name: build(name, classes=4) for name in students or ("cnn3",)}
    return cg.Distiller(teacher, made, ["ce", "kd"], example=images().batch([0, 1]))


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the rule says of every network."""
    says = [True]
    monkeypatch.setattr(modes, "prefers_channels_last", lambda module, device, dtype: says[0])
    return says


@pytest.mark.parametrize("given", ["auto", True, False])
def test_auto_is_what_the_rule_says(given: bool | str, rule: list[bool]) -> None:
    for says in (True, False):
        rule[0] = says
        options = settled(cg.FitOptions(epochs=1, channels_last=given), distiller(), CPU)
        assert options.channels_last is (says if given == "auto" else given)


class Views(nn.Module):
    """A student that reads its maps in a way that a memory order may not allow."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.second, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), nn.Linear(2 * 400, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.second(self.first(pixels).relu())
        if self.way == "view":
            return self.fc(maps.view(len(maps), -1))
        return self.fc(maps.as_strided((len(maps), 800), (800, 1)) if self.way == "memory" else maps.flatten(1))


@pytest.mark.parametrize(("way", "expected"), [("flatten", True), ("view", False), ("memory", False)])
def test_a_student_that_cannot_run_so_keeps_its_order(way: str, expected: bool, rule: list[bool]) -> None:
    student = Views(way)
    made = cg.Distiller(None, student, ["ce"], example=images().batch([0, 1]))
    pointers = [parameter.data_ptr() for parameter in student.parameters()]
    assert settled(cg.FitOptions(epochs=1), made, CPU).channels_last is expected
    assert [parameter.data_ptr() for parameter in student.parameters()] == pointers
    cg.fit(made, cg.data.loader(images(), batch_size=8), options=cg.FitOptions(epochs=1, device="cpu"))


def test_without_an_example_nothing_is_tried(rule: list[bool]) -> None:
    made = cg.Distiller(None, build("cnn3", classes=4), ["ce"])
    assert settled(cg.FitOptions(epochs=1), made, CPU).channels_last is False


def run(out: Path, **changes: object) -> dict[str, object]:
    made = distiller()
    loader = cg.data.loader(images(), batch_size=8)
    cg.fit(made, loader, loader, cg.FitOptions(**{"epochs": 1, "device": "cpu", "out": out, **changes}))
    return dict(json.loads((out / "run.json").read_text())["options"])


def test_a_run_keeps_what_it_began_with(rule: list[bool], tmp_path: Path) -> None:
    constant = {"schedule": cg.ScheduleOptions("constant")}
    before = run(tmp_path, teacher_speed="exact", **constant)
    assert (before["channels_last"], before["teacher_speed"]) == (True, "exact")
    rule[0] = False  # on another machine, say
    assert run(tmp_path, epochs=2, resume=True, **constant) == {**before, "epochs": 2}
    with pytest.raises(ValueError, match=r"its options\.channels_last is True, this one's False"):
        run(tmp_path, epochs=2, resume=True, channels_last=False, **constant)


def test_the_same_bits_by_auto_and_by_word(rule: list[bool], tmp_path: Path) -> None:
    run(tmp_path / "auto")
    run(tmp_path / "word", channels_last=True)
    files = [tmp_path / name / "student-cnn3.safetensors" for name in ("auto", "word")]
    assert files[0].read_bytes() == files[1].read_bytes()


# Fused kernels, which walk through memory


def convolution(order: torch.memory_format) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3).to(memory_format=order)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_are_the_same_in_any_order(name: str) -> None:
    """Gradients come with channels first, and the weights change their order on the way."""
    weights = []
    for fused_last in (False, True):
        layer = convolution(torch.channels_last if fused_last else torch.contiguous_format)
        optimizer = make_optimizer([{"params": list(layer.parameters())}], OptimizerOptions(name, lr=0.1))
        generator = torch.Generator().manual_seed(1)
        for step in range(4):
            if step == 2 and fused_last:
                layer.weight.data = layer.weight.data.contiguous()
                align(optimizer)
            layer.weight.grad = torch.randn(4, 3, 3, 3, generator=generator)
            step_unless(optimizer, GOOD)
        weights.append(layer.weight.detach().clone())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=1e-7)


def test_the_callers_optimizer_follows_both_ways() -> None:
    made = distiller()
    optimizer = torch.optim.SGD(made.parameter_groups(), lr=0.1, momentum=0.9, fused=True)
    loader = cg.data.loader(images(), batch_size=8)
    options = cg.FitOptions(epochs=1, device="cpu", channels_last=True)
    cg.fit(made, loader, options=options, optimizer=optimizer)
    for parameter in made.students.parameters():
        assert parameter.is_contiguous()
        assert optimizer.state[parameter]["momentum_buffer"].stride() == parameter.stride()


def test_only_fused_optimizers_are_aligned() -> None:
    layer = convolution(torch.channels_last)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.weight.grad = gradient = torch.ones(4, 3, 3, 3)
    align(optimizer)
    assert layer.weight.grad is gradient


def test_weights_that_had_their_channels_last_keep_them() -> None:
    made = distiller()
    made.students["cnn3"].to(memory_format=torch.channels_last)
    with channels_last(made, True):
        pass
    assert made.students["cnn3"].conv2.weight.is_contiguous(memory_format=torch.channels_last)

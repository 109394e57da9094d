"""Options are frozen and checked when they are made."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from congruence import FitOptions, OptimizerOptions, ScheduleOptions
from congruence.training import FitResult


@pytest.mark.parametrize(
    ("make", "arguments", "sentence"),
    [
        (FitOptions, {}, "`epochs` must be given, or `max_steps`, got neither"),
        (FitOptions, {"epochs": 0}, "`epochs` must be an integer >= 1 or None, got 0"),
        (FitOptions, {"epochs": 1.5}, "`epochs` must be an integer"),
        (FitOptions, {"max_steps": -1}, "`max_steps` must be an integer >= 1 or None"),
        (FitOptions, {"epochs": 1, "precision": "fp8"}, "`precision` must be one of 'float32', 'bf16', 'fp16'"),
        (FitOptions, {"epochs": 1, "gradient_clip": 0}, "`gradient_clip` must be a number > 0 or None"),
        (FitOptions, {"epochs": 1, "accumulate": 0}, "`accumulate` must be an integer >= 1"),
        (FitOptions, {"epochs": 1, "resume": 1}, "`resume` must be True or False"),
        (FitOptions, {"epochs": 1, "resume": True}, "`resume` must be used with a run directory"),
        (FitOptions, {"epochs": 1, "seed": -1}, "`seed` must be an integer >= 0"),
        (FitOptions, {"epochs": 1, "log_every": 0}, "`log_every` must be an integer >= 1"),
        (FitOptions, {"epochs": 1, "checkpoint_seconds": -1}, "`checkpoint_seconds` must be a number >= 0"),
        (FitOptions, {"epochs": 1, "tensorboard": "yes"}, "`tensorboard` must be True or False"),
        (FitOptions, {"epochs": 1, "optimizer": "sgd"}, r"`optimizer` must be OptimizerOptions\(...\), got 'sgd'"),
        (FitOptions, {"epochs": 1, "schedule": None}, r"`schedule` must be ScheduleOptions\(...\), got None"),
        (FitOptions, {"epochs": 1, "device": 0}, "`device` must be a device's name, got 0"),
        (FitOptions, {"epochs": 1, "out": 3}, "`out` must be a path or None, got 3"),
        (FitOptions, {"epochs": 1, "evaluate": 3}, "`evaluate` must be a function or None, got 3"),
        (FitOptions, {"epochs": 1, "monitor": 3}, "`monitor` must be a name or None, got 3"),
        (FitOptions, {"epochs": 1, "callbacks": print}, "`callbacks` must be functions in a tuple"),
        (FitOptions, {"epochs": 1, "callbacks": (3,)}, "`callbacks` must be functions in a tuple"),
        (OptimizerOptions, {"name": "adam"}, "`name` must be one of 'sgd', 'adamw', got 'adam'"),
        (OptimizerOptions, {"lr": 0}, "`lr` must be a number > 0"),
        (OptimizerOptions, {"momentum": 1}, "`momentum` must be a number >= 0 and < 1"),
        (OptimizerOptions, {"weight_decay": -1}, "`weight_decay` must be a number >= 0"),
        (OptimizerOptions, {"nesterov": True, "momentum": 0}, "`momentum` must be a number > 0 with nesterov"),
        (OptimizerOptions, {"betas": (0.9,)}, "`betas` must be two numbers >= 0 and < 1"),
        (OptimizerOptions, {"betas": (0.9, 1.0)}, "`betas` must be two numbers >= 0 and < 1"),
        (ScheduleOptions, {"name": "linear"}, "`name` must be one of 'constant', 'step', 'cosine'"),
        (ScheduleOptions, {"milestones": (3, 2)}, "`milestones` must be in rising order"),
        (ScheduleOptions, {"milestones": ("a",)}, "`milestones` must be numbers >= 0"),
        (ScheduleOptions, {"factor": 0}, "`factor` must be a number > 0"),
        (ScheduleOptions, {"warmup_epochs": -1}, "`warmup_epochs` must be a number >= 0"),
    ],
)
def test_refused_in_one_sentence(make, arguments, sentence):
    with pytest.raises(ValueError, match=f"`{make.__name__}`: {sentence}"):
        make(**arguments)


def test_they_are_frozen():
    for options in (FitOptions(epochs=1), OptimizerOptions(), ScheduleOptions()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            options.name = "other"
    assert FitOptions(epochs=1, device=torch.device("cpu")).device == torch.device("cpu")


def test_what_makes_a_run_the_run_it_is(tmp_path):
    plain = FitOptions(epochs=2).describe()
    apart = FitOptions(
        epochs=2, out=tmp_path, resume=True, device="cpu", callbacks=(print,), monitor="loss", checkpoint_seconds=3.0
    )
    assert apart.describe() == plain
    for change in ({"seed": 1}, {"precision": "bf16"}, {"optimizer": OptimizerOptions(lr=1.0)}, {"accumulate": 2}):
        assert FitOptions(epochs=2, **change).describe() != plain


def test_schedules():
    cosine = ScheduleOptions("cosine", warmup_epochs=2)
    assert cosine.at(0, 10) == 0
    assert cosine.at(1, 10) == pytest.approx(0.5)
    assert cosine.at(2, 10) == 1
    assert cosine.at(6, 10) == pytest.approx(0.5)
    assert cosine.at(10, 10) == pytest.approx(0)
    step = ScheduleOptions("step", milestones=(2, 4), factor=0.5, warmup_epochs=1)
    assert [step.at(epoch, 6) for epoch in (0.5, 1, 2, 3.9, 4)] == [0.5, 1, 0.5, 0.5, 0.25]
    assert ScheduleOptions("constant").at(5, 10) == 1
    assert ScheduleOptions("constant", warmup_epochs=10).at(5, 10) == 0.5


def test_the_single_student_s_file(tmp_path):
    def result(files):
        return FitResult(1, 1, {}, {}, {}, ({},), 0.0, tmp_path, files, {})

    assert result({"student": tmp_path / "a"}).student_file == tmp_path / "a"
    with pytest.raises(ValueError, match="left 2 student files"):
        _ = result({"a": tmp_path, "b": tmp_path}).student_file

"""A run that has ended, or not yet, gets more epochs: the same bits as if it had had them from the start."""

from __future__ import annotations

import json

import pytest
import torch
from _harness.fits import constant, data, distiller

import congruence as cg
from congruence.config import from_values
from congruence.pipeline import run
from congruence.training.saving.identity import more_epochs


def fit(out, epochs, **options):
    made = distiller()
    loader = cg.data.loader(data(), batch_size=8, seed=3)
    settings = {"schedule": cg.ScheduleOptions("step", milestones=(1, 3)), **options}
    return cg.fit(made, loader, loader, constant(epochs=epochs, out=out, **settings)), made


class Stop(Exception):
    """What ends a run at a step."""


def stop_at(step):
    def callback(event):
        if event.kind == "epoch" and event.step == step:
            raise Stop

    return callback


@pytest.mark.parametrize("ended", [True, False])
def test_the_same_as_a_longer_run(tmp_path, ended, caplog):
    whole, made = fit(tmp_path / "whole", 4)
    if ended:
        fit(tmp_path / "run", 2)
    else:
        with pytest.raises(Stop):
            fit(tmp_path / "run", 3, callbacks=(stop_at(2 * whole.steps // 4),))
    (tmp_path / "run" / "test.json").write_text("{}")  # measured of a student that the run no longer ends with
    longer, again = fit(tmp_path / "run", 4, resume=True)
    was = 2 if ended else 3
    assert f"goes on from {was} to 4 epochs: its learning rate falls at its milestones." in caplog.text
    assert (longer.epochs, longer.steps, longer.history) == (4, whole.steps, whole.history)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())
    for name in ("student", "student-last"):
        assert (tmp_path / "run" / f"{name}.safetensors").read_bytes() == (
            tmp_path / "whole" / f"{name}.safetensors"
        ).read_bytes()
    assert not (tmp_path / "run" / "test.json").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["epochs"] == 4
    assert fit(tmp_path / "run", 4, resume=True)[0].history == longer.history  # finished, and left alone


def test_a_schedule_that_was_laid_out_for_fewer_says_so_with_a_way(tmp_path):
    cosine = {"schedule": cg.ScheduleOptions("cosine")}
    fit(tmp_path, 1, **cosine)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as caught:
        fit(tmp_path, 2, resume=True, **cosine)
    said = str(caught.value)
    assert "cannot go on from 1 to 2 epochs: its cosine schedule is laid out to bring the learning rate down" in said
    assert f"Start another run from its student (load_student('{tmp_path}', last=True))" in said
    for epochs, more in ((2, {}), (2, {"seed": 1, **cosine})):
        with pytest.raises(ValueError, match="holds another run"):
            fit(tmp_path, epochs, resume=True, **more)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_fewer_epochs_other_steps_and_no_resume_are_refused(tmp_path):
    fit(tmp_path / "run", 2)
    with pytest.raises(ValueError, match=r"its options.epochs is 2, this one's 1"):
        fit(tmp_path / "run", 1, resume=True)
    with pytest.raises(ValueError, match=r"holds another run \(its options.epochs is 2, this one's 3"):
        fit(tmp_path / "run", 3)
    fit(tmp_path / "short", 2, max_steps=3)
    with pytest.raises(ValueError, match="holds another run"):
        fit(tmp_path / "short", 3, max_steps=3, resume=True)


def test_more_epochs_and_another_teacher_are_refused_for_the_teacher(tmp_path):
    points = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    def run(seed, epochs, resume=False):
        torch.manual_seed(0)
        student = torch.nn.Linear(4, 3)
        torch.manual_seed(seed)
        made = cg.Distiller(torch.nn.Linear(4, 3), student, ["kd"], example=points)
        cg.fit(made, [points], None, constant(epochs=epochs, out=tmp_path, resume=resume))

    run(1, 1)
    with pytest.raises(ValueError, match=r"holds another run \(its teacher"):
        run(2, 2, resume=True)
    run(1, 2, resume=True)


def test_a_scheduler_of_ones_own_goes_on(tmp_path, caplog):
    def own(out, epochs, **options):
        made = distiller()
        optimizer = torch.optim.SGD(made.parameter_groups(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        loader = cg.data.loader(data(), batch_size=8, seed=3)
        settings = constant(epochs=epochs, out=out, schedule=cg.ScheduleOptions("cosine"), **options)
        cg.fit(made, loader, loader, settings, optimizer=optimizer, scheduler=scheduler)
        return made.state_dict()

    whole = own(tmp_path / "whole", 3)
    own(tmp_path / "run", 1)
    longer = own(tmp_path / "run", 3, resume=True)
    assert all(torch.equal(value, longer[name]) for name, value in whole.items())
    assert "its learning rate goes on as your StepLR has it." in caplog.text


def test_a_configuration(tmp_path):
    def config(epochs, schedule="constant", seed=0, weights=None):
        train = {"epochs": epochs, "batch_size": 64, "device": "cpu", "schedule": {"name": schedule}, "seed": seed}
        student = {"model": "cnn3", "options": {"width": 2}} | ({"weights": weights} if weights else {})
        stages = {"student": {"student": student, "terms": [{"key": "ce"}], "train": train}}
        values = {"data": {"name": "digits", "train_size": 100, "validation": 40, "test": 40}, "stages": stages}
        return from_values(values, "test")

    whole = run(config(3), tmp_path / "whole")["student"]
    run(config(1), tmp_path / "run")
    for refused in (config(3, seed=1), config(3, "step")):
        with pytest.raises(ValueError, match="holds another run"):
            run(refused, tmp_path / "run", resume=True)
    assert "epochs = 1" in (tmp_path / "run" / "config.toml").read_text()
    longer = run(config(3), tmp_path / "run", resume=True)["student"]
    assert longer.result.history == whole.result.history
    assert "epochs = 3" in (tmp_path / "run" / "config.toml").read_text()
    run(config(3), tmp_path / "run", resume=True)
    run(config(1, "cosine"), tmp_path / "cosine")
    with pytest.raises(ValueError, match="cannot go on from 1 to 2 epochs: its cosine schedule") as caught:
        run(config(2, "cosine"), tmp_path / "cosine", resume=True)
    assert "epochs = 1" in (tmp_path / "cosine" / "config.toml").read_text()
    key, _, weights = str(caught.value).split("--set ")[1].split(")")[0].partition("=")
    assert key == "stages.student.student.weights"
    run(config(1, "cosine", weights=weights), tmp_path / "again")


def test_what_counts_as_more_epochs():
    assert not more_epochs({"epochs": 3}, {"epochs": 2})
    assert not more_epochs({"epochs": None, "max_steps": 3}, {"epochs": 2, "max_steps": 3})
    assert not more_epochs({"epochs": 1, "max_steps": 3}, {"epochs": 2, "max_steps": 3})

"""Whole runs: stages in order, resumed, refused, and left alone when finished."""

import json
import logging
import shutil
import sys

import pytest
import torch
from _harness.configs import tiny

from congruence.config import load_config
from congruence.models import load_weights, save_weights
from congruence.pipeline import load_student, run
from congruence.training import modes

CONFIG = tiny()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, run(CONFIG, out)


def test_a_run_leaves_its_files(finished):
    out, stages = finished
    for folder in (out, out / "teacher"):
        names = {path.name for path in folder.iterdir()}
        assert {"student.safetensors", "metrics.jsonl", "summary.json", "students.json", "checkpoints"} <= names
    resolved = load_config(out / "config.toml")
    said = {name: stage.train.channels_last for name, stage in resolved.stages.items()}
    assert set(said.values()) <= {True, False}
    assert resolved == CONFIG.with_training({name: {"channels_last": last} for name, last in said.items()})
    assert stages["student"].teacher is not None
    assert not stages["student"].student.training


def test_the_result_holds_the_best_weights(finished):
    out, stages = finished
    loaded = load_student(out)
    assert torch.equal(loaded.fc.weight, stages["student"].student.fc.weight)
    teacher = load_student(out / "teacher")
    assert torch.equal(teacher.fc.weight, stages["student"].teacher.fc.weight)


def test_a_finished_run_is_returned_and_no_stage_redone(finished):
    out, stages = finished
    files = [out / "student.safetensors", out / "teacher" / "student.safetensors", out / "metrics.jsonl"]
    before = [path.stat().st_mtime_ns for path in files]
    again = run(CONFIG, out, resume=True)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert again["student"].result.best == stages["student"].result.best
    assert torch.equal(again["student"].student.fc.weight, stages["student"].student.fc.weight)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (CONFIG, "holds this run already: resume it (resume=True, or --resume), or choose another."),
        (
            tiny("digits/pkt", "stages.student.train.seed=5"),
            "holds another run (its stages.student.train.seed is 0, this one's 5): choose another.",
        ),
        (tiny("digits/ce"), "holds another run (its name is digits/pkt, this one's digits/ce): choose another."),
    ],
)
def test_a_folder_in_use_is_refused_and_left_alone(finished, config, sentence):
    out, _ = finished
    before = (out / "config.toml").read_text()
    with pytest.raises(ValueError) as caught:
        run(config, out)
    assert str(caught.value) == f"The folder '{out}' {sentence} Nothing in it was changed."
    assert (out / "config.toml").read_text() == before


def test_a_folder_of_another_kind_of_run_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="holds another run: choose another"):
        run(CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_device_may_change_between_a_run_and_its_resumption(finished):
    out, _ = finished
    config = tiny("digits/pkt", "stages.student.train.device=auto", "stages.student.train.checkpoint_seconds=1")
    assert run(config, out, resume=True)["student"].result.steps == 2


def test_a_run_stopped_between_two_steps_goes_on_to_the_same_weights(finished, tmp_path):
    _, whole = finished

    def stop(event):
        if event.kind == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path, callbacks=lambda stage: (stop,) if stage == "student" else ())
    assert (tmp_path / "teacher" / "summary.json").exists()
    assert not (tmp_path / "summary.json").exists()
    resumed = run(CONFIG, tmp_path, resume=True)
    first, second = (stages["student"].student.state_dict() for stages in (whole, resumed))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_goes_on_where_its_teachers_file_has_moved(finished, tmp_path):
    out, whole = finished
    here, there = (tmp_path / place / "teacher.safetensors" for place in ("here", "there"))
    for place in (here, there):
        place.parent.mkdir()
        shutil.copyfile(out / "teacher" / "student.safetensors", place)
    run(CONFIG.with_teacher(here), tmp_path / "run")
    here.unlink()
    moved = run(CONFIG.with_teacher(there), tmp_path / "run", resume=True)["student"]
    first, second = (stage.student.state_dict() for stage in (whole["student"], moved))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    save_weights({name: value + 1 for name, value in load_weights(there).items()}, there)
    with pytest.raises(ValueError, match=r"holds another run \(its teacher"):
        run(CONFIG.with_teacher(there), tmp_path / "run", resume=True)


@pytest.mark.parametrize("config", [CONFIG, "the student alone"], ids=["two stages", "one"])
def test_each_stage_is_asked_once_for_its_callbacks(finished, tmp_path, config):
    config = CONFIG.with_teacher(finished[0] / "teacher" / "student.safetensors") if config != CONFIG else config
    asked = []
    run(config, tmp_path / "run", callbacks=lambda stage: asked.append(stage) or ())
    assert asked == list(config.stages)


def test_what_does_not_fit_is_found_before_the_first_stage(tmp_path):
    config = tiny("digits/pkt", "stages.student.terms.1.student_layer=layer9")
    with pytest.raises(ValueError, match="layer9"):
        run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


LATE = [f"stages.student.terms.{place}.start_epoch=5" for place in (0, 1)]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["stages.student.train.monitor=acuracy"], "`monitor` must be one of accuracy, loss, got 'acuracy'. Did you"),
        (["stages.student.train.monitor=loss", "data.validation=0"], "`val_loader` must be given to monitor 'loss'"),
        (LATE, "no term trains a student in epoch 0"),
        (["stages.student.train.tensorboard=true"], "`tensorboard` needs an extra that is not installed"),
    ],
)
def test_what_fit_would_refuse_in_a_later_stage_is_found_before_the_first(tmp_path, monkeypatch, overrides, sentence):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError) as caught:
        run(tiny("digits/pkt", *overrides), tmp_path / "new")
    assert sentence in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_warnings_and_what_terms_read_are_told_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "congruence"), pytest.warns(UserWarning, match="accumulate=2") as warned:
        run(tiny("digits/pkt", "stages.student.train.accumulate=2"), tmp_path)
    assert len(warned) == 1
    assert caplog.text.count("pkt reads") == 1


def test_a_resumed_run_keeps_the_order_in_memory_that_it_began_with(tmp_path, monkeypatch):
    """The rule may say something else where a run goes on."""
    for says in (False, True):
        monkeypatch.setattr(modes, "prefers_channels_last", lambda module, device, dtype, says=says: says)
        run(CONFIG, tmp_path, resume=says)
        assert not load_config(tmp_path / "config.toml").stages["student"].train.channels_last
        assert not json.loads((tmp_path / "run.json").read_text())["options"]["channels_last"]


def test_only_one_stage(tmp_path):
    stages = run(CONFIG, tmp_path, only="teacher")
    assert list(stages) == ["teacher"]
    assert (tmp_path / "student.safetensors").exists()
    assert list(load_config(tmp_path / "config.toml").stages) == ["teacher"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to: Not a directory"):
        run(CONFIG, tmp_path / "file" / "run")


def test_several_students_and_one_of_them_as_teacher(tmp_path):
    from congruence.config import from_values

    train = {"max_steps": 1, "batch_size": 8, "device": "cpu"}
    one = {"model": "resnet8"}
    values = {
        "data": {"name": "digits", "train_size": 40, "validation": 20},
        "stages": {
            "peers": {"student": {"a": one, "b": one}, "terms": [{"key": "ce"}], "train": train},
            "last": {"student": one, "teacher": "peers/b", "terms": [{"key": "kd"}], "train": train},
        },
    }
    stages = run(from_values(values, "here"), tmp_path)
    peer = stages["peers"].students["b"]
    assert torch.equal(peer.fc.weight, stages["last"].teacher.fc.weight)
    assert set(json.loads((tmp_path / "peers" / "students.json").read_text())) == {"a", "b"}
    assert torch.equal(load_student(tmp_path / "peers", name="b").fc.weight, peer.fc.weight)
    with pytest.raises(ValueError, match=r"2 students: use `students\[name\]`"):
        _ = stages["peers"].student


CACHE = 'stages.student.teacher_cache={views=2, dtype="float32"}'


def test_a_cached_teacher_gives_the_student_of_the_live_one(tmp_path):
    """Two views repeat after two epochs; one epoch is too short to see them, so the live run is the same one."""
    live = run(tiny(), tmp_path / "live")["student"].student
    cached = run(tiny("digits/pkt", CACHE), tmp_path / "cached")["student"].student
    for name, value in live.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    kept = tmp_path / "cached" / "teacher-cache"
    assert json.loads((kept / "manifest.json").read_text())["identity"]["view_cycle"] == 2


def test_runs_of_several_seeds_share_a_cache(tmp_path):
    folder = tmp_path / "shared"
    for seed in (0, 1):
        shared = f'stages.student.teacher_cache={{views=2, seed=0, folder="{folder}"}}'
        run(tiny("digits/pkt", shared, f"stages.student.train.seed={seed}"), tmp_path / f"run{seed}")
    assert len(list(folder.glob("*.npy"))) == 1
    with pytest.raises(ValueError, match=r"something else \(its view_cycle is 2, this one's 3\)"):
        run(tiny("digits/pkt", shared.replace("views=2", "views=3")), tmp_path / "other")


def test_a_cache_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match="teacher_cache: expected none without a teacher"):
        tiny("digits/teacher", "stages.teacher.teacher_cache={}")

"""A run directory holds one run, and tells which."""

from __future__ import annotations

import json

import pytest
import torch
from _harness.fits import constant, data, distiller

import congruence as cg
from congruence.training.saving.run_directory import RunDirectory

SAID = {"terms": [{"method": "ce"}], "options": {"epochs": 2, "seed": 0}}


def begun(path):
    """A directory with a run that has made a step."""
    directory = RunDirectory(path, writes=True)
    directory.open(SAID, resume=False)
    directory.checkpoints.save(1, {"step": 1})
    return directory


def test_this_run_is_found_again(tmp_path):
    assert begun(tmp_path / "run").open(SAID, resume=True)["step"] == 1


def test_this_run_without_resume_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds this run already: resume it \(resume=True, or --resume\)"):
        begun(tmp_path / "run").open(SAID, resume=False)


def test_another_run_is_refused_and_nothing_changed(tmp_path):
    directory = begun(tmp_path / "run")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = {**SAID, "options": {"epochs": 3, "seed": 0}}
    for resume in (True, False):
        with pytest.raises(
            ValueError, match=r"holds another run \(its options.epochs is 2, this one's 3\).*Nothing in it"
        ):
            directory.open(other, resume=resume)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_run_that_made_no_step_makes_way(tmp_path):
    directory = RunDirectory(tmp_path / "run", writes=True)
    directory.open(SAID, resume=False)
    directory.checkpoints.save(0, {"step": 0})
    other = {**SAID, "options": {"epochs": 3}}
    assert directory.open(SAID, resume=True)["step"] == 0
    assert directory.open(other, resume=False) is None
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == other
    assert directory.checkpoints.load() is None


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "of another tool"}', "\x00"])
def test_a_foreign_file_is_left_alone(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json' is damaged or foreign: choose another `out`"):
        RunDirectory(tmp_path, writes=True).open(SAID, resume=True)
    assert (tmp_path / "run.json").read_text() == content


def test_a_file_in_the_folder_s_place(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match=r"The folder '.*run' cannot be made"):
        cg.fit(distiller(), [data().tensors], options=constant(out=tmp_path / "run"))
    with pytest.raises(ValueError, match=r"The folder '.*below' cannot be written to"):
        cg.fit(distiller(), [data().tensors], options=constant(out=tmp_path / "run" / "below"))
    assert (tmp_path / "run").read_text() == "a file"


def test_the_students_files(tmp_path):
    directory = RunDirectory(tmp_path, writes=True)
    assert directory.student_file("student").name == "student.safetensors"
    assert directory.student_file("student", last=True).name == "student-last.safetensors"
    assert directory.student_file("anna", last=True).name == "student-anna-last.safetensors"
    RunDirectory(tmp_path, writes=False).save_student("student", {"w": torch.ones(1)})
    assert not directory.student_file("student").exists()


def test_a_student_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    from congruence.models import weights

    def atomic(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights.files, "atomic", atomic)
    with pytest.raises(ValueError, match=r"student.safetensors' could not be written: No space left on device"):
        RunDirectory(tmp_path, writes=True).save_student("student", {"w": torch.ones(1)})

"""A plan's cells as tasks of a Ray cluster: the same numbers, each cell once, whatever is killed."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest

from congruence.bench.plan import Plan
from congruence.bench.runner import run_plan

QUICK = (
    "stages.teacher.student={model='cnn3', options={width=4}}",
    "stages.teacher.train.max_steps=2",
    "stages.student.student={model='cnn3', options={width=4}}",
    "stages.student.train.max_steps=2",
    "data.train_size=100",
)
PLAN = Plan("small", {"ce": "digits/ce", "kd": "digits/kd"}, (0, 1), QUICK)
METRIC = """
import os, pathlib, signal


def once(of):
    mark = pathlib.Path(__file__).with_name("mark")
    if not mark.exists() and os.environ.get("KILLS"):
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_one_sentence_names_the_extra(tmp_path):
    with pytest.raises(ValueError, match=r"pip install 'congruence\[ray\]'"):
        run_plan(PLAN, tmp_path, ray="local")
    assert not list(tmp_path.iterdir())  # before a teacher is trained


@pytest.mark.filterwarnings("default")  # Ray's own
def test_two_workers_one_killed_give_the_local_rows(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    (tmp_path / "killing.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    measured = {"metrics": ("killing:once",), "trust": True}
    here = run_plan(PLAN, tmp_path / "here", workers=0, **measured)
    monkeypatch.setenv("KILLS", "1")
    there = run_plan(PLAN, tmp_path / "there", workers=2, ray="local", **measured)
    assert (tmp_path / "mark").exists()

    def lines(found):
        return [json.loads(line) | {"seconds": 0} for line in found.path.read_text().splitlines()]

    assert lines(there) == lines(here)
    assert len(lines(there)) == 4

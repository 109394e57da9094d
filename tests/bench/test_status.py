"""How far a plan has come, from its folder alone."""

from __future__ import annotations

import os
import socket

from congruence.bench.plan import Plan
from congruence.bench.status import begun, state_of, status


def cell(out, name, **files):
    folder = out / "cells" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / {"result": "cell.json", "failure": "failed.json", "mark": ".running"}[file]).write_text(text)
    return folder


def test_states_by_row_and_variant(tmp_path):
    here, dead = f"{socket.gethostname()} {os.getpid()}", f"{socket.gethostname()} {2**22 + 5}"
    plan = Plan("small", {"ce": "no", "kd": "no"}, (0, 1), variants={"a": (), "b": ()}, seeds_of={"b": (0, 1, 2)})
    cell(tmp_path, "ce-a-seed0", result="{}")
    cell(tmp_path, "ce-a-seed1", mark=here)
    cell(tmp_path, "kd-b-seed2", failure="{}")
    cell(tmp_path, "kd-b-seed1", mark=dead)  # of a process that was killed
    cell(tmp_path, "kd-b-seed0", failure="{}", mark=here)  # run again
    assert status(plan, tmp_path) == [
        ["", "variant", "done", "running", "failed", "pending"],
        ["ce", "a", "1", "1", "0", "0"],
        ["kd", "a", "0", "0", "0", "2"],
        ["ce", "b", "0", "0", "0", "3"],
        ["kd", "b", "0", "1", "1", "1"],
        ["all", "", "1", "2", "1", "6"],
    ]
    assert state_of(cell(tmp_path, "other", mark="elsewhere 1")) == "running"
    assert state_of(cell(tmp_path, "cut", mark="")) == "pending"


def test_teachers_and_trials_are_told(tmp_path):
    (tmp_path / "teachers" / "one").mkdir(parents=True)
    (tmp_path / "trials" / "kd-x1").mkdir(parents=True)
    (tmp_path / "trials" / "kd-x1" / "cell.json").write_text("{}")
    assert begun(tmp_path) == "Teachers: 1 begun. Trials: 1 done."

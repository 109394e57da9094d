"""Runs that are killed at any moment, on one rank and two, on a full disk, short of memory: nothing is lost.

By `make attack` in larger numbers; docs/reliability.md has the figures of such a run.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys

import pytest
import torch
from _harness.attacked_runs import FULL, FullAt, rank_until, resumed_until_done, run_short_of_memory
from _harness.attacks import scale
from _harness.fits import same_state
from _harness.runs import in_process, on_ranks, run

from congruence.bench.failed import sentence

FILES = ("metrics.jsonl", "student.safetensors", "student-last.safetensors")


@pytest.fixture(scope="module", params=["plain", "bank"])
def whole(request, tmp_path_factory):
    """A toy's run that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return request.param, *run(request.param, out), out


def same_files(one, other):
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_killed_at_any_moment(whole, tmp_path):
    toy, _, distiller, out = whole
    draw, kills, runs = random.Random(toy), 0, 0
    while kills < 2 * scale():
        kills += resumed_until_done(toy, tmp_path / str(runs), draw.uniform(0.0, 0.2))
        _, again = run(toy, tmp_path / str(runs), resume=True)  # which has ended: all is read again
        same_state(distiller, again)
        same_files(tmp_path / str(runs), out)
        assert not list((tmp_path / str(runs)).rglob("*.tmp"))
        shutil.rmtree(tmp_path / str(runs))
        runs += 1


def test_one_of_two_ranks_is_killed(tmp_path):
    on_ranks(rank_until, folder(tmp_path / "whole"), "bank", None)
    wanted = torch.load(tmp_path / "whole" / "done-0.pt")
    draw, kills = random.Random(2), 0
    place = folder(tmp_path / "killed")
    while kills < scale():
        try:
            on_ranks(rank_until, place, "bank", draw.uniform(0.1, 1.5))
        except RuntimeError as error:
            if str(-signal.SIGKILL) not in str(error):
                raise
            kills += 1
        else:  # it had ended before
            place = folder(tmp_path / f"killed-{kills}")
        for left in (*place.glob("error-*"), *place.glob("store*")):
            left.unlink()
    on_ranks(rank_until, place, "bank", None)
    for rank in range(2):
        found = torch.load(place / f"done-{rank}.pt")
        assert found["history"] == wanted["history"]
        assert all(torch.equal(value, found["state"][name]) for name, value in wanted["state"].items())
    same_files(place / "bank", tmp_path / "whole" / "bank")


def folder(path):
    path.mkdir()
    return path


def test_a_disk_that_is_full_at_any_write(whole, tmp_path):
    toy, _, distiller, out = whole
    with pytest.MonkeyPatch.context() as patch:
        disk = FullAt(None, patch)
        run(toy, tmp_path / "counted")
    writes = disk.writes
    assert writes > 20
    numbers = range(1, writes + 1) if scale() > 1 else random.Random(toy).sample(range(1, writes + 1), 4)
    for number in numbers:
        place = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            FullAt(number, patch)
            with pytest.raises((ValueError, OSError), match=FULL) as caught:
                run(toy, place)
        assert str(place) in sentence(caught.value)
        assert "\n" not in sentence(caught.value)
        _, again = run(toy, place, resume=True)
        same_state(distiller, again)
        same_files(place, out)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_too_little_memory(whole, tmp_path):
    toy, _, distiller, out = whole
    codes = []
    for megabytes in (0, *((1, 2, 4, 8, 16, 64) if scale() > 1 else ())):
        place = tmp_path / str(megabytes)
        codes.append(in_process(run_short_of_memory, toy, place, megabytes))
        _, again = run(toy, place, resume=True)
        same_state(distiller, again)
        same_files(place, out)
    assert codes[0] == 3
    assert set(codes) <= {0, 3}

"""The interface carries a bank, a queue that runs inputs again, two students, and a min-max game."""

from __future__ import annotations

import signal

import pytest
import torch
from _harness.runs import in_process, killed_run, on_ranks, run, toys_on_a_rank
from _harness.toys import TOYS


def same(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("toy", TOYS)
def test_killed_and_resumed_is_never_killed(toy, tmp_path):
    whole, distiller = run(toy, tmp_path / "whole")
    assert in_process(killed_run, toy, tmp_path / "killed", 7, signal.SIGKILL) == -signal.SIGKILL
    resumed, again = run(toy, tmp_path / "killed", resume=True)
    same(distiller.state_dict(), again.state_dict())
    assert whole.history == resumed.history
    assert whole.best == resumed.best
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert lines[0] == lines[1]
    for name in whole.student_files:
        files = [(tmp_path / f / whole.student_files[name].name).read_bytes() for f in ("whole", "killed")]
        assert files[0] == files[1]


def test_two_ranks_are_one(tmp_path):
    on_ranks(toys_on_a_rank, tmp_path, TOYS)
    for toy in TOYS:
        result, alone = run(toy, dropout=False)
        ranks = [torch.load(tmp_path / f"{toy}-{rank}.pt") for rank in (0, 1)]
        same(ranks[0]["state"], ranks[1]["state"])
        same(alone.state_dict(), ranks[0]["state"], tolerance=1e-5)
        for mine, theirs in zip(result.history, ranks[0]["history"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)


def test_toys_learn():
    for toy in TOYS:
        result, _ = run(toy, epochs=8)
        names = [name for name in result.last if name.startswith("loss")]
        assert names
        for name in names:
            assert result.last[name] < result.history[0][name], toy

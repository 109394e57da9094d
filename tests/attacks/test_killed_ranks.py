"""Runs on 1, 2 and 4 ranks, killed at random and resumed on another number: nothing is lost."""

from __future__ import annotations

import os
import random
import signal

import pytest
import torch
from _harness.attacks import LONG
from _harness.runs import Views, on_ranks, run

from congruence.core.files import read_lines

EPOCHS = 20  # of four steps; the last may come before the last kill
KILLS = int(os.environ.get("KILLS", "30"))  # of each of two toys


def on_a_rank(rank, folder, out, toy, stop):
    """Go on with a run, and die at a batch of training or of validation; leave the state if it ends before."""
    batches, given = Views.batches, [0]

    def counted(self, epoch, start=0):
        for batch in batches(self, epoch, start):
            given[0] += 1
            if given[0] == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    Views.batches = counted
    _, made = run(toy, out, resume=True, dropout=False, epochs=EPOCHS)
    torch.save(made.state_dict(), folder / f"state-{rank}.pt")


@pytest.mark.skipif(not os.environ.get(LONG), reason="part of `make attack`")
@pytest.mark.slow
@pytest.mark.parametrize("toy", ["bank", "queue"])
def test_a_run_is_killed_on_changing_numbers_of_ranks(toy, tmp_path):
    drawn, out, kills = random.Random(toy), tmp_path / "run", 0
    while kills < KILLS:
        ranks, stop = (2, 4, 1)[kills % 3], drawn.randint(2, 16)
        folder = tmp_path / f"kill-{kills}"
        folder.mkdir()
        try:
            on_ranks(on_a_rank, folder, out, toy, stop, ranks=ranks)
            break
        except RuntimeError:  # killed, or left alone by a rank that was killed a moment before
            pass
        kills += 1
    folder = tmp_path / "end"
    folder.mkdir()
    on_ranks(on_a_rank, folder, out, toy, None, ranks=2)
    _, whole = run(toy, tmp_path / "whole", dropout=False, epochs=EPOCHS)
    assert kills >= KILLS // 2
    for rank in (0, 1):
        state = torch.load(folder / f"state-{rank}.pt")
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-5, msg=f"{toy} {name}")
    files = [tmp_path / name / "metrics.jsonl" for name in ("run", "whole")]
    steps = [[row["step"] for row in read_lines(file) if "loss" in row] for file in files]
    assert steps[0] == steps[1]

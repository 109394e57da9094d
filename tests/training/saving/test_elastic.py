"""A run that stops on some ranks goes on with others: the same batches, memories and weights."""

from __future__ import annotations

import signal

import pytest
import torch
from _harness.runs import KillAt, on_ranks, run

from congruence.core.files import read_lines
from congruence.training.saving.elastic import why_not_on_other_ranks
from congruence.training.saving.run_directory import RunDirectory

TOYS = ("bank", "queue")  # memories of rows by index, and of inputs; twelve steps, three epochs of four


def on_a_rank(rank, folder, out, stop):
    """Go on with each toy until a step at which SIGTERM comes, or to the end; leave the state behind."""
    found = {}
    for toy in TOYS:
        callbacks = [] if stop is None else [KillAt(stop, signal.SIGTERM)]
        try:
            result, made = run(toy, out / toy, resume=True, callbacks=callbacks, dropout=False)
            found[toy] = {"state": made.state_dict(), "history": list(result.history)}
        except SystemExit as ended:
            found[toy] = {"code": ended.code}
    torch.save(found, folder / f"found-{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Runs that begin in one process, go on with four and end on two; each beside one that never stopped."""
    out, whole = tmp_path_factory.mktemp("elastic"), {}
    for toy in TOYS:
        with pytest.raises(SystemExit):
            run(toy, out / toy, resume=True, callbacks=[KillAt(3, signal.SIGTERM)], dropout=False)
        whole[toy] = run(toy, out / f"{toy}-whole", dropout=False)
    by_ranks = {}
    for ranks, stop in ((4, 5), (2, None)):
        folder = tmp_path_factory.mktemp("ranks")
        on_ranks(on_a_rank, folder, out, stop, ranks=ranks)
        by_ranks[ranks] = [torch.load(folder / f"found-{rank}.pt") for rank in range(ranks)]
    return out, whole, by_ranks


@pytest.mark.parametrize("toy", TOYS)
def test_a_run_goes_on_with_other_numbers_of_ranks(found, toy):
    out, whole, by_ranks = found
    # Several ranks ask each other every ten steps: stopped in the middle of the third epoch.
    assert [each[toy] for each in by_ranks[4]] == [{"code": 0}] * 4
    result, made = whole[toy]
    for of_rank in by_ranks[2]:
        state = of_rank[toy]["state"]
        for name, value in made.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-6, msg=f"{toy} {name}")
        for ours, theirs in zip(of_rank[toy]["history"], result.history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
    rows = [
        [row for row in read_lines(out / name / "metrics.jsonl") if "loss" in row] for name in (toy, f"{toy}-whole")
    ]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for ours, theirs in zip(*rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def identity(ranks, size=40, drop_last=False):
    order = {"sampler": "EpochOrder", "size": size, "batch_size": 16, "drop_last": drop_last}
    return {"ranks": ranks, "data": {"order": order}}


def test_only_the_same_batches_go_on():
    assert why_not_on_other_ranks(identity(1), identity(4), planned=True) == ""
    assert why_not_on_other_ranks(identity(1), identity(8), planned=True) == ""
    assert why_not_on_other_ranks(identity(1, 42), identity(4, 42), planned=True) == (
        "its last batch of an epoch has 10 samples on 1 ranks and 8 on 4 (drop_last=True leaves it out)"
    )
    assert why_not_on_other_ranks(identity(1, 42, True), identity(4, 42, True), planned=True) == ""
    assert why_not_on_other_ranks(identity(3, 42), identity(3, 42), planned=False) == ""
    assert why_not_on_other_ranks(identity(1), identity(2), planned=False).startswith("a loader that is not from")


def test_a_refused_number_of_ranks_changes_nothing(tmp_path):
    said = {"terms": [{"method": "ce"}], "options": {"epochs": 2}, **identity(4, 41)}
    directory = RunDirectory(tmp_path / "run", writes=True)
    directory.open(said, resume=False)
    directory.checkpoints.save(1, {"step": 1})
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    now = {**said, "ranks": 3}
    with pytest.raises(ValueError, match=r"cannot go on with 3 ranks instead of 4: its last batch .* changed\."):
        directory.open(now, resume=True, planned=True)
    with pytest.raises(ValueError, match=r"cannot go on with 3 ranks instead of 4: a loader that is not from"):
        directory.open(now, resume=True)
    assert directory.open({**said, "ranks": 2}, resume=True, planned=True)["step"] == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files

"""What a run shows: lines where nobody watches, a bar on a terminal."""

import pytest

from congruence.cli.progress import Cells, Reporter, numbers, progress
from congruence.training import Event


def events():
    for epoch in range(2):
        yield Event("step", epoch, 2, epoch + 1, 2, {}, None)
        yield Event("log", epoch, 2, epoch + 1, 2, {"step": epoch + 1, "epoch": epoch, "lr": 0.1, "loss": 0.25}, None)
        yield Event("epoch", epoch, 2, epoch + 1, 2, {"accuracy": 0.5}, None)
    yield Event("end", 2, 2, 2, 2, {"accuracy": 0.5}, None)


def test_numbers_leave_out_where_it_is():
    row = {"step": 3, "epoch": 0, "lr": 0.1, "loss": 1 / 3, "gradient_norms": {"kd": 1.0}}
    assert numbers(row) == "loss 0.3333"


def test_a_line_an_epoch(capsys):
    with Reporter(live=False) as reporter:
        (callback,) = reporter("teacher")
        for event in events():
            callback(event)
    assert capsys.readouterr().out.splitlines() == [
        "teacher: epoch 1/2, step 1/2  loss 0.25  validation: accuracy 0.5",
        "teacher: epoch 2/2, step 2/2  loss 0.25  validation: accuracy 0.5",
    ]


def test_a_bar_with_the_losses(capsys):
    with Reporter(live=True) as reporter:
        (callback,) = reporter("teacher")
        for event in events():
            callback(event)
    out = capsys.readouterr().out
    assert "teacher epoch 2/2" in out
    assert "2/2" in out


def test_the_bar_ends_with_an_error(capsys):
    reporter = Reporter(live=True)
    with pytest.raises(ValueError, match="boom"), reporter:
        raise ValueError("boom")
    assert reporter._progress.finished


def test_one_stage_as_a_block(capsys):
    with progress("teacher") as callback:
        for event in events():
            callback(event)
    assert capsys.readouterr().out.startswith("teacher: epoch 1/2")


@pytest.mark.parametrize("live", [True, False])
def test_cells_as_they_finish(live, capsys):
    watch = Cells(live=live)
    for done in (1, 2):
        watch({"method": "kd", "variant": "", "seed": done, "accuracy_best": 0.9}, done, 2)
    watch.close()
    out = capsys.readouterr().out
    assert "kd, seed 2: accuracy 0.9000" in out
    if not live:
        assert out.splitlines()[0] == "1/2  kd, seed 1: accuracy 0.9000"


@pytest.mark.parametrize(("found", "said"), [(0.25, "retrieval mAP 0.2500"), (None, "trained")])
def test_a_cell_without_accuracy(found, said, capsys):
    row = {"method": "pkt", "variant": "", "seed": 0, "accuracy_best": None, "retrieval_map": found}
    Cells(live=False)(row, 1, 1)
    assert capsys.readouterr().out == f"1/1  pkt, seed 0: {said}\n"

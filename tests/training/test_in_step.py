"""Ranks whose loaders or loops do not fit each other: found at the start or told, never waited for without end."""

import logging

import pytest
import torch
from _harness import dropping
from _harness.fits import constant, data, distiller, net
from _harness.runs import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset

import congruence as cg
from congruence.core.files import read_lines


class Stream(IterableDataset):
    """Samples without a length."""

    def __init__(self, size, fails=False):
        self.size, self.fails = size, fails

    def __iter__(self):
        points, labels = data().tensors
        for position in range(self.size):
            yield points[position], labels[position]
        if self.fails:
            raise OSError("the disk is gone")


class Log(logging.Handler):
    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def said_by(function):
    """Return what a function raises, its result, and what it logs."""
    log = Log()
    logging.getLogger("congruence").addHandler(log)
    try:
        result, error = function(), ""
    except (ValueError, RuntimeError, OSError) as raised:
        result, error = None, f"{type(raised).__name__}: {raised}"
    finally:
        logging.getLogger("congruence").removeHandler(log)
    return error, result, log.said


def fitted(loader, *terms):
    made = distiller(*terms)
    result = cg.fit(made, loader, None, constant(epochs=None, max_steps=6))
    return result.steps, made.student_state_dict()


def own_loop(wrap, *terms, around=False):
    """Four steps of a loop of one's own, each rank on samples of its own; returns the weights."""
    torch.manual_seed(0)
    student = net(1)
    made = cg.Distiller(net(0, 7), wrap(student), list(terms), example=data().tensors[0][:4])
    optimizer = torch.optim.SGD(made.parameter_groups(), lr=0.1)
    points, labels = data().tensors
    step_of = DistributedDataParallel(made, broadcast_buffers=False) if around else made
    for step in range(9):
        rows = slice(torch.distributed.get_rank() * 12, (torch.distributed.get_rank() + 1) * 12)
        optimizer.zero_grad()
        step_of(points[rows], labels[rows]).loss.backward()
        optimizer.step()
        if step == 2:
            torch.distributed.barrier()
    return student[0].weight.detach().clone()


def inside(student):
    """The module of a wrapper, which the forward then goes past."""
    inside.kept = DistributedDataParallel(student)
    return student


class Part(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body, self.reentrant = nn.Linear(5, 5), reentrant

    def forward(self, inputs):
        return checkpoint(self.body, inputs, use_reentrant=self.reentrant)


def checkpointed(reentrant):
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(6, 5), Part(reentrant), nn.Linear(5, 3))
    made = cg.Distiller(nn.Linear(6, 3), student, ["ce", "kd"], example=data().tensors[0][:4])
    cg.fit(made, cg.data.loader(data(), batch_size=8), None, constant(epochs=1))
    return student[1].body.weight.detach().clone()


def dropped(out):
    """The weights after a run with layers that drop out at random, and in which steps this rank ran the layer."""
    built = dropping.made("kd", cg.Term("pkt", **dropping.MIDDLE), chance=0.4)
    cg.fit(built, cg.data.loader(data(), batch_size=8), None, constant(epochs=4, log_every=1, out=out))
    return built.student_state_dict(), [1 in layers for layers in built.student.ran[-12:]]


def on_a_rank(rank, folder):
    points = data()
    found = {
        "lengths": said_by(lambda: fitted(DataLoader(points, batch_size=8 - 4 * rank))),
        "streams": said_by(lambda: fitted(DataLoader(Stream(16 + 8 * rank), batch_size=8), "kd", "pkt")),
        "shares": said_by(lambda: fitted(DataLoader(Stream(12 + 2 * rank), batch_size=8), "pkt")),
        "last": said_by(lambda: fitted(DataLoader(data(20 + 2 * rank), batch_size=8), "kd", "pkt")),
        "share of one": said_by(lambda: fitted(cg.data.loader(points, batch_size=2), "kd", "pkt")),
        "fails": said_by(lambda: fitted(DataLoader(Stream(16, fails=rank == 1), batch_size=8), "kd")),
        "plain": said_by(lambda: own_loop(lambda student: student, "ce", "kd")),
        "plain relations": said_by(lambda: own_loop(lambda student: student, "pkt")),
        "around": said_by(lambda: own_loop(lambda student: student, "ce", "kd", around=True)),
        "past": said_by(lambda: own_loop(inside, "ce", "kd")),
        "wrapped": said_by(lambda: own_loop(DistributedDataParallel, "ce", "kd")),
        "static": said_by(lambda: own_loop(lambda s: DistributedDataParallel(s, static_graph=True), "ce", "kd")),
    }
    del inside.kept
    for name, reentrant in (("reentrant", True), ("checkpointed", False)):
        found[name] = said_by(lambda way=reentrant: checkpointed(way))
    found["dropping"] = dropped(folder / "dropping")
    torch.save(found, folder / f"found-{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(on_a_rank, folder)
    found = Found(torch.load(folder / f"found-{rank}.pt") for rank in (0, 1))
    found.folder = folder
    return found


class Found(list):
    """What each rank left, and the folder."""


def test_last_batches_of_other_sizes_are_found_before_the_first_step(found):
    for one in found:
        assert one["last"][0] == (
            "ValueError: `fit`: `train_loader` must give every rank as many samples of a batch, but their smallest "
            "batches (the last?) have 4, 6, and the terms pkt gather all ranks' rows: use drop_last=True, or a loader "
            "of congruence.data."
        )


def test_other_lengths_are_found_before_the_first_step(found):
    for one in found:
        assert one["lengths"][0] == (
            "ValueError: `fit`: `train_loader` must have as many batches on every rank, got 3, 6: a "
            "DistributedSampler, or a loader of congruence.data, shares the samples out equally."
        )


def test_streams_end_together(found):
    (_, (steps, first), said), (_, (other, second), _) = (one["streams"] for one in found)
    assert steps == other == 6
    assert torch.equal(first["0.weight"], second["0.weight"])
    told = [text for text in said if "ended after" in text]
    assert told == [
        "The training loader of rank 0 ended after 2 batches, before another rank's: the epoch ends there for all "
        "ranks, "
        "and the remaining samples are not used in it."
    ]


def test_other_shares_and_failing_loaders_are_one_sentence_on_all_ranks(found):
    for one in found:
        assert one["shares"][0].startswith("ValueError: `fit`: `train_loader` must give every rank as many samples")
        assert "got [4, 6]" in one["shares"][0]
    assert one_error(found, "share of one").startswith(
        "ValueError: `fit`: a batch of `train_loader` has 1 sample for a rank, which cannot be trained on (Expected"
    )
    assert found[1]["fails"][0] == "OSError: the disk is gone"
    assert found[0]["fails"][0] == "RuntimeError: The training loader of rank 1 failed."


@pytest.mark.parametrize("loop", ["plain", "plain relations"])
def test_gradients_that_nobody_averages_are_told(loop, found):
    (error, first, said), (_, second, _) = (one[loop] for one in found)
    assert not error
    assert not torch.equal(first, second)
    assert [text for text in said if "differ" in text] == [
        "The students of the 2 ranks differ after 2 batches: their gradients are not averaged. Wrap the student, or "
        "the distiller, in DistributedDataParallel and call the wrapper."
    ]


def test_a_wrapped_student_is_averaged_and_a_static_graph_refused(found):
    (error, first, said), (_, second, _) = (one["wrapped"] for one in found)
    assert not error
    assert torch.equal(first, second)
    assert not [text for text in said if "differ" in text]
    assert not one_error(found, "around")
    assert torch.equal(found[0]["around"][1], found[1]["around"][1])
    assert one_error(found, "static").startswith("ValueError: `Distiller`: `student` must not be inside Distributed")
    assert one_error(found, "past") == (
        "ValueError: `Distiller`: `student` is called past the DistributedDataParallel around it, which then averages "
        "nothing: give the wrapper itself as `student`, or wrap the distiller."
    )


def one_error(found, name):
    assert found[0][name][0] == found[1][name][0]
    return found[0][name][0]


def test_reentrant_checkpointing_is_what_the_other_is(found):
    """DDP takes no gradient that comes in parts: the ranks' gradients are averaged without it."""
    assert not one_error(found, "reentrant")
    assert torch.equal(found[0]["reentrant"][1], found[1]["reentrant"][1])
    torch.testing.assert_close(found[0]["reentrant"][1], found[0]["checkpointed"][1])


def test_ranks_sit_out_together(found):
    (first, mine), (second, theirs) = (one["dropping"] for one in found)
    assert mine != theirs
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    rows = [row for row in read_lines(found.folder / "dropping" / "metrics.jsonl") if "loss" in row]
    assert ["pkt" in row for row in rows] == [all(pair) for pair in zip(mine, theirs, strict=True)]


def test_one_process_asks_nobody(caplog):
    made = cg.Distiller(None, nn.Linear(6, 3), ["ce"], example=data().tensors[0][:4])
    made(*data().tensors)
    assert not caplog.messages

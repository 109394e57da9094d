"""One step of every row looks at no value on the device, but for what says here why it must."""

from __future__ import annotations

import pytest
import torch
from _harness.cases import CASES, OWN_KEYS
from _harness.reads import LOOKING, Reads, as_moved
from torch import nn
from torch.utils.data import TensorDataset

import congruence as cg
from congruence.core.batch import grouped
from congruence.data.loading.source import BatchSource
from congruence.testing import Case
from congruence.testing.case import SmallLoader, small_distiller
from congruence.training.distributed import Objective
from congruence.training.optim import Optimization, make_optimizer
from congruence.training.options import FitOptions
from congruence.training.record import Recorder
from congruence.training.step import train_step

CPU = torch.device("cpu")


def steps(distiller, loader, options, *, warm=2, epochs=3):
    """Take steps, and return where those of the last epochs looked, but for the optimizer's flag on a CPU."""
    optimizer = make_optimizer(distiller.parameter_groups(), options.optimizer)
    optimization = Optimization([optimizer], options, None, epochs=1, device=CPU)
    objective = Objective(distiller, options.micro_batch)
    recorder, reads, step = Recorder(None, every=50, device=CPU), Reads(), 0
    for epoch in range(epochs):
        distiller.begin_epoch(epoch)
        for batches in grouped(BatchSource(loader).epoch(epoch), options.accumulate, CPU):
            moved = [as_moved(batch) for batch in batches]
            if epoch < warm:
                train_step(objective, moved, optimization, recorder, options, step)
            else:
                with reads:
                    train_step(objective, moved, optimization, recorder, options, step)
                assert reads.functions.pop("training/optim.py:step_unless") == 1
            step += 1
        distiller.end_epoch()
    assert recorder.counts
    assert not recorder.bad
    return reads.functions


def expected(functions, name):
    """Check that a step looked where it says it does."""
    if name not in LOOKING:
        assert functions == {}
        return
    allowed = LOOKING[name][0].split()
    assert functions, f"{name} does not look any more: take it off the list"
    assert all(function.startswith(tuple(allowed)) for function in functions), functions


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_of_a_row_waits_for_nothing(case):
    expected(steps(small_distiller(case), SmallLoader(case), FitOptions(epochs=4)), case.row)


VARIANTS = [
    ("", Case("crd", {"shared_negatives": True})),
    ("", Case("kda", {"landmarks": "random", "count": 4, "warmup": 1})),
    ("clusters", Case("kda", {"landmarks": "clusters", "count": 2, "warmup": 1})),
    ("", Case("perception_coherence", {"method": "fast"})),
    ("unbounded", Case("perception_coherence", {"method": "fast", "dissimilarity": "euclidean"})),
    ("", Case("gaussian_kl", {"covariance": "full", "shrinkage": 0.5})),
]


@pytest.mark.parametrize(("name", "case"), VARIANTS, ids=str)
def test_a_step_of_a_variant(name, case):
    expected(steps(small_distiller(case), SmallLoader(case), FitOptions(epochs=4)), name)


def test_the_list_is_of_rows():
    assert set(LOOKING) - set(OWN_KEYS) == {"clusters", "unbounded"}


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"gradient_clip": 0.1, "accumulate": 2},
        {"micro_batch": 4},
        {"channels_last": True},
    ],
    ids=str,
)
def test_a_step_with_an_option(options):
    case = Case("pkt")
    assert steps(small_distiller(case), SmallLoader(case), FitOptions(epochs=4, **options)) == {}


def test_a_cached_teacher_reads_the_index_that_the_host_has(tmp_path):
    points = torch.randn(16, 4)
    loader = cg.data.loader(TensorDataset(points, torch.arange(16) % 2), batch_size=4, view_cycle=1)
    teacher, student = nn.Linear(4, 2), nn.Linear(4, 2)
    cache = cg.TeacherCache(teacher, loader, tmp_path / "cache")
    distiller = cg.Distiller(cache, student, ["ce", "kd"], example=points[:2])
    assert steps(distiller, loader, FitOptions(epochs=4)) == {}


# What the harness sees


def looked(function):
    with Reads() as reads:
        function()
    return reads.kinds


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("_local_scalar_dense", lambda: int(torch.ones(()))),
        ("_local_scalar_dense", lambda: bool(torch.ones(3).any())),
        ("nonzero", lambda: torch.ones(3).nonzero()),
        ("_unique2", lambda: torch.ones(3).unique()),
        ("equal", lambda: torch.equal(torch.ones(3), torch.ones(3))),
        ("index", lambda: torch.ones(3)[torch.ones(3) > 0]),
        ("index_put_", lambda: torch.ones(3).__setitem__(torch.ones(3) > 0, torch.ones(3))),
        ("repeat_interleave", lambda: torch.ones(3).repeat_interleave(torch.ones(3).long())),
        ("linalg_svd", lambda: torch.linalg.svd(torch.eye(2))),
        ("tolist", lambda: torch.ones(3).tolist()),
        ("cpu", lambda: torch.ones(3).cpu()),
        ("tensor", lambda: torch.tensor([1.0], device="cpu")),
    ],
)
def test_a_look_is_seen(kind, function):
    assert any(kind in found for found in looked(function))


def test_what_is_no_look_is_not_seen():
    def function():
        x = torch.ones(3, requires_grad=True)
        (torch.where(x > 0, x, 0).sum() + x[torch.tensor([0, 2])].sum()).backward()
        torch.ones(3).masked_fill_(torch.ones(3) > 0, 1.0)

    assert looked(function) == set()

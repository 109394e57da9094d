"""A word about a teacher that takes most of a run, and none where keeping its answers would save little."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from _harness.fits import constant, data, net
from torch import nn
from torch.utils.data import DataLoader, Dataset

import congruence as cg


class Slow(nn.Module):
    """A network each of whose forwards takes some seconds of a clock that stands still otherwise."""

    def __init__(self, inner, clock, seconds):
        super().__init__()
        self.inner, self._tick = inner, lambda: clock.append(seconds)

    def forward(self, inputs):
        self._tick()
        return self.inner(inputs)


class Noisy(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, row):
        inputs, label = data()[row]
        return inputs + 0.01 * torch.rand_like(inputs), label


def told(
    caplog, monkeypatch, *, teacher=10.0, student=0.5, epochs=13, dataset=None, stock=False, cache=None, cycle=None
):
    """Train three batches an epoch by such a clock; return the sentences about the teacher's time."""
    clock = []
    for place in ("congruence.models.teacher.time", "congruence.training.teacher_time.time"):
        monkeypatch.setattr(place, SimpleNamespace(perf_counter=lambda: sum(clock)))
    dataset = data() if dataset is None else dataset
    loader = cg.data.loader(dataset, batch_size=8, seed=3, view_cycle=cycle)
    source = Slow(net(0, 7), clock, teacher)
    source = source if cache is None else cg.TeacherCache(source, loader, cache, dtype="float32")
    made = cg.Distiller(source, Slow(net(1), clock, student), ["ce", "kd"], example=data().tensors[0][:4])
    batches = DataLoader(dataset, batch_size=8) if stock else loader
    cg.fit(made, batches, None, constant(epochs=epochs, device="cpu", teacher_speed="exact", gradient_norms=False))
    return [record.getMessage() for record in caplog.records if "The teacher took" in record.getMessage()]


def test_what_the_answers_kept_would_save_is_said_once(caplog, monkeypatch):
    """By the clock an epoch takes 3 · (10 + 0.5) seconds; thirty are left, seven of them with new views."""
    assert told(caplog, monkeypatch, dataset=Noisy(), epochs=31) == [
        "The teacher took 95 % of the first epoch. With its answers kept for 8 views of each sample (--teacher-views 8 "
        "of the command, teacher_views=8 of `distill`, or a `TeacherCache`) the other epochs would take about "
        f"{(30 * 1.5 + 7 * 30) / 60:.0f} minutes, not {30 * 31.5 / 60:.0f} minutes."
    ]


def test_of_a_long_run_each_view_is_shown_four_times(caplog, monkeypatch):
    """Of 101 epochs 26 have new views; eight views would be shown thirteen times."""
    (sentence,) = told(caplog, monkeypatch, dataset=Noisy(), epochs=101)
    assert "kept for 26 views of each sample (--teacher-views 26 of the command, teacher_views=26 of" in sentence
    assert sentence.endswith(f"about {(100 * 1.5 + 25 * 30) / 60:.0f} minutes, not {100 * 31.5 / 60:.0f} minutes.")


def test_a_loader_that_shows_fewer_views_is_asked_about_those(caplog, monkeypatch):
    (sentence,) = told(caplog, monkeypatch, dataset=Noisy(), epochs=8, cycle=2)
    assert "kept for 2 views of each sample (--teacher-views 2 of the command, teacher_views=2 of" in sentence
    assert sentence.endswith(f"about {7 * 1.5 + 30:.0f} seconds, not {7 * 31.5 / 60:.0f} minutes.")


def test_rows_that_do_not_vary_are_asked_about_once(caplog, monkeypatch):
    (sentence,) = told(caplog, monkeypatch)
    assert "kept for each sample (--teacher-views 1 of" in sentence
    assert sentence.endswith("about 18 seconds, not 6 minutes.")


@pytest.mark.parametrize(
    "given",
    [
        {"teacher": 0.5},
        {"teacher": 1.0, "student": 0.05, "epochs": 3},
        {"dataset": Noisy(), "epochs": 8},
        {"stock": True},
    ],
    ids=["half of the time", "six seconds", "every view is new", "a loader whose answers cannot be stored"],
)
def test_where_little_would_be_saved_nothing_is_said(given, caplog, monkeypatch):
    assert told(caplog, monkeypatch, **given) == []


def test_of_answers_that_are_kept_nothing_is_said(caplog, monkeypatch, tmp_path):
    assert told(caplog, monkeypatch, cache=tmp_path, cycle=2) == []

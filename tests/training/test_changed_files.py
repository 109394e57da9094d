"""A resumed run over image files that are read batch by batch says which of them changed since it began."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from _harness.photos import dataset, overwrite, write, write_all
from torch import nn

import congruence as cg
from congruence.data import loader


@pytest.fixture
def photos(tmp_path):
    return write_all(tmp_path / "photos")


def fit(folder, out, *, epochs, resume=False):
    images = dataset(folder)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    distiller = cg.Distiller(None, student, ["ce"], example=images.batch([0, 1]))
    schedule = cg.ScheduleOptions("constant")
    options = cg.FitOptions(epochs=epochs, out=out, resume=resume, schedule=schedule)
    cg.fit(distiller, loader(images, batch_size=3), options=options)


def said(caplog):
    return [record.getMessage() for record in caplog.records if "image files" in record.getMessage()]


def test_replaced_pixels_are_told_of(photos, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "congruence")
    fit(photos, tmp_path / "run", epochs=1)
    fit(photos, tmp_path / "run", epochs=2, resume=True)
    assert said(caplog) == []  # nothing changed
    overwrite(photos, "4.bmp", 7)  # only its entry's time tells
    fit(photos, tmp_path / "run", epochs=3, resume=True)
    assert said(caplog) == [
        "1 of 6 image files were written or replaced since this run began, '4.bmp' first: if their pixels are no "
        "longer the same, the resumed run is of other data."
    ]


def test_a_run_that_begins_says_nothing(photos, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "congruence")
    fit(photos, tmp_path / "run", epochs=1)
    shutil.rmtree(tmp_path / "run")
    write(photos, "4.bmp", 7)
    fit(photos, tmp_path / "run", epochs=1)
    assert said(caplog) == []

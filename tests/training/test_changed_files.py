"""A resumed run over image files that are read batch by batch says which of them changed since it began."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import congruence as cg
from congruence.data import FileDataset, loader

FILES = [f"{number}.bmp" for number in range(6)]  # whose length does not depend on their pixels


def write(folder, name, value):
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(folder / name)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for value, name in enumerate(FILES):
        write(folder, name, 40 * value)
    return folder


def fit(folder, out, *, epochs, resume=False):
    labels = torch.arange(len(FILES)) % 2
    images = FileDataset(folder, FILES, labels, size=(4, 4), classes=2, mean=[0.5] * 3, std=[0.5] * 3)
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
    kept = os.stat(photos / "4.bmp")
    write(photos, "4.bmp", 7)
    os.utime(photos / "4.bmp", ns=(kept.st_atime_ns, kept.st_mtime_ns))  # only its entry's time tells
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

"""A folder of image files whose length does not depend on their pixels, and the dataset that reads them."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image

from congruence.data import FileDataset

FILES = [f"{number}.bmp" for number in range(6)]


def write(folder, name, value):
    """Write one picture of one colour."""
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(folder / name)


def write_all(folder):
    """Write the files, each of a colour of its own, and return the folder."""
    folder.mkdir()
    for value, name in enumerate(FILES):
        write(folder, name, 40 * value)
    return folder


def overwrite(folder, name, value):
    """Change a file's pixels, but neither its length nor its time of writing."""
    before = os.stat(folder / name)
    write(folder, name, value)
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(folder / name).st_size == before.st_size


def dataset(folder):
    """Return the files as labelled images of two classes."""
    labels = torch.arange(len(FILES)) % 2
    return FileDataset(folder, FILES, labels, size=(4, 4), classes=2, mean=[0.5] * 3, std=[0.5] * 3)

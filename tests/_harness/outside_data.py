"""A package from outside with datasets of its own: one generated, and what a row must not be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from congruence.data import Arrays, Augment, Part, Source


def read_stripes(_: Path) -> Arrays:
    labels = np.arange(60) % 2
    images = np.zeros((60, 1, 8, 8), dtype=np.uint8)
    images[labels == 0, :, ::2] = 255
    images[labels == 1, :, :, ::2] = 255
    return Arrays(Part(images, labels))


STRIPES = Source(
    name="stripes",
    about="stripes across and down",
    counts=(60, 0),
    shape=(1, 8, 8),
    class_names=("across", "down"),
    augment=Augment(pad=1, flip=False),
    validation=0.1,
    read=read_stripes,
)
AGAIN = replace(STRIPES, about="the same name")
DIGITS = replace(STRIPES, name="digits")
FOLDER = replace(STRIPES, name="image-folder")
WIDE = replace(STRIPES, name="wide", shape=(1, 8, 9))
BARE = replace(STRIPES, name="bare", read=lambda _: read_stripes(_).train.images)

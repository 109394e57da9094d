"""From EfficientNet-Lite0 to a student of another kind on CIFAR-10 as a folder of image files, with labels and without.

`python benchmarks/image_files.py`, with what `benchmarks/photographs.py` needs; its rows and settings are used. The
images are written as PNG files, a folder for each class, and read as anybody's. The teacher takes them enlarged to
224×224 with its own normalisation, the student (cnn3) as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from photographs import DEFINITION, MEAN, SIZE, STD, picture, told_of, tried
from record import write

import congruence as cg


def unpacked(count: int, folder: Path) -> Path:
    """Write the first training images of CIFAR-10 as files, a folder for each class."""
    images = cg.data.load("cifar10", validation=0).train
    for row, label in enumerate(images.labels[:count].tolist()):
        target = folder / images.class_names[label] / f"{row:05}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture(images.raw([row])[0]).save(target)
    return folder


def main() -> None:
    """Write the files, train, measure, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder of the teacher's answers, for another time")
    told = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = str(unpacked(told.train + told.test, folder / "files"))
        plain = cg.data.load(files, validation=0, test=told.test, train_size=told.train)
        own = cg.data.ImageInput(tuple(plain.train.mean), tuple(plain.train.std))
        splits = plain.for_models(teacher=cg.data.ImageInput(MEAN, STD, size=(SIZE, SIZE)), student=own)
        print([len(part) for part in splits], splits.train.class_names, flush=True)
        about = {"train": len(splits.train), "test": len(splits.test), "epochs": told.epochs}
        for rows, details in tried(splits, told.seeds, told.epochs, folder, told.cache or folder / "cache"):
            note = told_of({**about, **details}, "CIFAR-10 as files")
            write("image_files", DEFINITION, rows, note=note, **about, **details)


if __name__ == "__main__":
    main()

"""From EfficientNet-Lite0 to a student of another kind on CIFAR-10 as a folder of image files, with labels and without.

`python benchmarks/image_files.py`, with what `benchmarks/photographs.py` needs; its rows and settings are used. The
images are written as PNG files, a folder for each class, and read as anybody's. The teacher takes them enlarged to
224×224 with its own normalisation, the student (cnn3) as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from photographs import SIZE, asked, measure, picture
from photos import MEAN, STD

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
    told = asked(parser, train=2000, test=1000)

    def prepared(folder: Path) -> cg.data.Splits:
        files = str(unpacked(told.train + told.test, folder / "files"))
        plain = cg.data.load(files, validation=0, test=told.test, train_size=told.train)
        own = cg.data.ImageInput(tuple(plain.train.mean), tuple(plain.train.std))
        return plain.for_models(teacher=cg.data.ImageInput(MEAN, STD, size=(SIZE, SIZE)), student=own)

    measure("image_files", "CIFAR-10 as files", told, prepared)


if __name__ == "__main__":
    main()

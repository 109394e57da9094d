"""Images of your own: `python examples/own_images.py [--images FOLDER] [--size 32] [--out runs/own_images]`.

FOLDER has a folder of images for each class. Without one, small pictures of three patterns are made under `--out`. A
ResNet-20 is trained on them as the teacher and distilled into a three-layer network. Printed are where the student's
file lies, and the numbers of teacher and student on the test images. `--out` must be a new folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import congruence as cg


def make_images(folder: Path, each: int = 60, size: int = 32) -> None:
    """Write noisy pictures of stripes across, stripes down and a disc, each at a place of its own."""
    draws = np.random.default_rng(0)
    across, down = np.mgrid[:size, :size]
    for number in range(3 * each):
        row, column = draws.integers(size // 4, 3 * size // 4, 2)
        disc = (across - row) ** 2 + (down - column) ** 2 < (size // 4) ** 2
        name = ("across", "down", "disc")[number % 3]
        pattern = {"across": (across + row) % 8 < 4, "down": (down + column) % 8 < 4, "disc": disc}[name]
        colour = draws.integers(60, 200, 3)
        pixels = pattern[:, :, None] * colour + draws.normal(40, 20, (size, size, 3))
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03}.png")


def main() -> None:
    """Train a teacher on the images, distil it, and print what was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("runs/own_images"))
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    images = given.images or given.out / "images"
    if given.images is None and not images.exists():
        make_images(images)
    torch.manual_seed(0)
    splits = cg.data.load(images, size=given.size, validation=0.2, test=0.2)
    names = splits.train.class_names
    teacher = cg.models.build("resnet20", classes=len(names))
    student = cg.models.build("cnn3", classes=len(names))
    alone = cg.Distiller(None, teacher, ["ce"], example=splits.train[0][0][None])
    cg.fit(alone, cg.data.loader(splits.train, batch_size=32), options=cg.FitOptions(epochs=given.epochs))
    run = given.out / "student"
    done = cg.distill(teacher, student, splits, "pkt", epochs=2 * given.epochs, out=run)
    print(f"classes: {', '.join(names)}; images: {', '.join(str(len(part)) for part in splits)}")
    print(f"student: {run / 'student.safetensors'}")
    report = done.report
    print(f"accuracy: teacher {report.teacher_accuracy:.3f}, student {report.student_accuracy:.3f}")
    print(f"same class: {report.agreement:.3f}; same order of neighbours (GPCL): {report.gpcl:.3f}")
    print(f"parameters: teacher {report.teacher_parameters}, student {report.student_parameters}")


if __name__ == "__main__":
    main()

"""What was lost, what each costs, and a file: `python examples/compare_and_export.py [--to onnx] [--out FOLDER]`.

A teacher and two students of different sizes learn the 8x8 digits of scikit-learn. Printed are a table over the three,
the classes that the smaller student loses most, and the file that the better one was exported to. The file is run
beside the model before it is kept. `--to onnx` needs `pip install 'congruence[export]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import congruence as cg


def main() -> None:
    """Train, compare and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", default="torch-export", choices=["torch-export", "onnx", "safetensors"])
    parser.add_argument("--out", type=Path, default=Path("runs/exported"))
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    torch.manual_seed(0)
    splits = cg.data.load("digits")
    options = cg.FitOptions(epochs=given.epochs, optimizer=cg.OptimizerOptions("adamw", lr=3e-3))
    example = splits.train[0][0][None]
    teacher = cg.models.build("resnet8", classes=10, in_channels=1)
    alone = cg.Distiller(None, teacher, ["ce"], example=example)
    cg.fit(alone, cg.data.loader(splits.train, batch_size=64), options=options)
    students = {}
    for name, width in {"small": 16, "smaller": 4}.items():
        students[name] = cg.models.build("cnn3", classes=10, in_channels=1, width=width)
        distiller = cg.Distiller(teacher, students[name], ["ce", cg.Term("pkt", weight="balanced")], example=example)
        cg.fit(distiller, cg.data.loader(splits.train, batch_size=64), options=options)
    found = cg.compare(teacher, students, cg.data.loader(splits.test, batch_size=64, shuffle=False), latency=True)
    print(found.table())
    for lost in found["smaller"].worst_classes[:3]:
        accuracies = f"teacher {lost['teacher_accuracy']:.2f}, smaller {lost['student_accuracy']:.2f}"
        print(f"class {lost['class']}: {accuracies}")
    best = max(students, key=lambda name: found[name].student_accuracy)
    done = cg.export(students[best], given.out, to=given.to, data=splits, name=best, overwrite=True)
    print(f"exported: {best}, {', '.join(str(given.out / file) for file in done.files)}")


if __name__ == "__main__":
    main()

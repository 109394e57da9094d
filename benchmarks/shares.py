"""Which share a balanced weight wants: typical rows at several shares, judged on validation images alone.

python benchmarks/shares.py run --teacher W.safetensors [--rows kd pkt] [--labels 100] [--student cnn3]
python benchmarks/shares.py write
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, ROOT, figure, write

import congruence as cg
from congruence.core.files import append_line, read_lines

TEACHER = "resnet20"
SHARES = (0.1, 0.3, 1.0, 3.0)
ROWS: dict[str, dict[str, Any]] = {
    "kd": {},
    "kd, temperature 1": {"temperature": 1.0},
    "kd, temperature 2": {"temperature": 2.0},
    "dist": {},
    "pkt": {},
    "rkd": {},
    "cckd": {},
    "perception_coherence": {},
    "kda": {"warmup": 1},
    "kda, raw features": {"normalize": False, "warmup": 1},
    "mimic": {},
    "at": {},
    "nst": {},
    "sp": {},
    "class_wasserstein": {},
    "wasserstein": {},
    "joint_wasserstein, beta 100": {"beta": 100.0},
    "dml": {},
    "mlld": {},
    "mlld, two usual views": {"views": ["weak", "main"]},
    "crd": {},
}
DEFINITION = (
    "best accuracy on 5,000 validation images of CIFAR-10 (%) at a share / at the row's best share; the student learns "
    "from ce, with weight 1, and from the row; the test images are not read"
)


def trained(arguments: argparse.Namespace, row: str, share: float | None, seed: int, cache: Path) -> dict[str, float]:
    """Train a student and return its accuracies on validation."""
    a = arguments
    about = json.loads(a.teacher.with_suffix(".json").read_text(encoding="utf8"))
    splits = cg.data.load("cifar10", train_size=a.images, mean=about["mean"], std=about["std"])
    known = cg.data.keep_labels(splits.train, a.labels, seed=0) if a.labels else splits.train
    teacher = cg.models.build(TEACHER, classes=10)
    teacher.load_state_dict(cg.models.load_weights(a.teacher))
    terms = [cg.Term("ce")]
    if share is not None:
        terms.append(cg.Term(row.split(",")[0], weight="balanced", share=share, **ROWS[row]))
    views = tuple(dict.fromkeys(["main", *(view for term in terms for view in term.needs.views)]))
    batches = {"batch_size": 64, "augment": True, "view_cycle": 8, "view_seed": 0, "views": views}
    data = cg.data.loader(known, seed=seed, **batches)
    answers = cg.TeacherCache(teacher, cg.data.loader(splits.train, **batches), cache / "-".join(views))
    torch.manual_seed(seed)
    names = ["student", "peer"] if row == "dml" else ["student"]
    students = {name: cg.models.build(a.student, classes=10) for name in names}
    distiller = cg.Distiller(answers, students, terms, example=splits.train.batch([0, 1]), facts=cg.data.facts(known))
    validation = cg.data.loader(splits.validation, batch_size=256, shuffle=False, views=views)
    options = cg.FitOptions(
        epochs=a.epochs,
        seed=seed,
        device="cpu",
        precision=a.precision,
        gradient_norms=False,
        optimizer=cg.OptimizerOptions("adamw", lr=3e-3),
    )
    result = cg.fit(distiller, data, validation, options)
    accuracy = "accuracy/student" if "peer" in students else "accuracy"
    return {"best": 100 * result.best["student"][accuracy], "last": 100 * result.last[accuracy]}


def there(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the lines that there are: those of the kept results, and those of the file."""
    kept = RESULTS / "shares.json"
    before = json.loads(kept.read_text(encoding="utf8"))["lines"] if kept.is_file() and not arguments.afresh else []
    return [*before, *(line for line in read_lines(arguments.out) if line not in before)]


def run(arguments: argparse.Namespace) -> None:
    """Train what is not there yet, neither in the file of lines nor among the kept results."""
    a = arguments
    done = {(each["setting"], each["row"], each["share"], each["seed"]) for each in there(a)}
    setting = f"{a.student}, {a.labels or 'all'} labels a class, {a.epochs} epochs"
    setting += f", {a.precision}" if a.precision != "bf16" else ""
    with tempfile.TemporaryDirectory() as folder:
        cache = a.cache or Path(folder)
        for seed in a.seeds:
            wanted = [("ce", None), *((row, share) for row in a.rows for share in a.shares)]
            for row, share in wanted:
                if (setting, row, share, seed) not in done and (row != "ce" or a.with_ce):
                    found = trained(a, row, share, seed, cache)
                    line = {"setting": setting, "row": row, "share": share, "seed": seed, **found}
                    append_line(a.out, line)
                    print(line, flush=True)


def write_results(lines: list[dict[str, Any]]) -> None:
    """Put the curves together."""
    by_cell: dict[tuple[str, str, float | None], list[float]] = defaultdict(list)
    alone = {(line["setting"], line["seed"]): line["best"] for line in lines if line["share"] is None}
    gains: dict[tuple[str, str, float | None], list[float]] = defaultdict(list)
    for line in lines:
        cell = line["setting"], line["row"], line["share"]
        by_cell[cell].append(line["best"])
        gains[cell].append(line["best"] - alone[line["setting"], line["seed"]])
    figures = []
    for (setting, row, share), values in sorted(by_cell.items(), key=lambda item: (item[0][:2], item[0][2] or 0)):
        most = max(statistics.mean(v) for (s, r, _), v in by_cell.items() if (s, r) == (setting, row))
        mean = statistics.mean(values)
        name = f"{setting}: {row}" + (f", share {share:g}" if share is not None else "")
        numbers = {
            "accuracy": round(mean, 2),
            "above_ce": round(statistics.mean(gains[setting, row, share]), 2),
            "seeds": len(values),
        }
        figures.append(figure(name, mean / most, **numbers))
    write("shares", DEFINITION, figures, lines=lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("run", "write"))
    parser.add_argument("--teacher", type=Path, default=ROOT / "results" / "teachers" / "cifar10-resnet20.safetensors")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=100, help="a class; 0: all")
    parser.add_argument("--student", default="cnn3")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--with-ce", action="store_true", help="cross-entropy alone, too")
    parser.add_argument("--afresh", action="store_true", help="without the kept results")
    parser.add_argument("--out", type=Path, default=Path("runs/shares.jsonl"))
    parser.add_argument("--cache", type=Path, help="of the teacher's answers, for several processes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stage == "run":
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        run(arguments)
    else:
        write_results(there(arguments))


if __name__ == "__main__":
    main()

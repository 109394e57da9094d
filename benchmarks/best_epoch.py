"""Which epoch is the best where validation has a few dozen images: the test accuracy of what each rule chooses.

`python benchmarks/best_epoch.py`: digits, 120 training images, the teacher trained on all of them, by the settings of
`congruence.distill`. Every epoch of a run is kept, so that the rules choose among the same students.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import torch
from record import figure, write
from torch import Tensor, nn
from torch.nn import functional as F

import congruence as cg
from congruence.bench.against import CERTAIN, difference
from congruence.pipeline import quick
from congruence.training.saving.best import Best

IMAGES, HELD_OUT = 120, (18, 36)
METHODS = ("ce", "kd", "pkt", "rkd")
ALONE = METHODS[0]
RULES = {"highest": False, "one standard error": True}
LAST = "last"
DEFINITION = (
    "test accuracy in points (359 images) of the epoch that a rule chooses on the validation images, above that of the "
    "last epoch, mean over methods and seeds with the lowest and the highest; of a method, its gain over cross-entropy "
    f"alone by the same rule, mean over seeds and the ends of the {100 * CERTAIN:.0f} % interval by Student's t"
)


def teacher_of(splits: cg.data.Splits) -> nn.Module:
    """A wide network that saw all training images."""
    torch.manual_seed(1_000_003)
    wide = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    teacher = nn.Sequential(nn.Flatten(), *wide)
    distiller = cg.Distiller(None, teacher, ["ce"], example=splits.train.batch([0, 1]))
    options = cg.FitOptions(epochs=15, optimizer=cg.OptimizerOptions("adamw", lr=3e-3), gradient_norms=False)
    cg.fit(distiller, cg.data.loader(splits.train, batch_size=64, augment=True), options=options)
    return teacher.eval()


def outputs(student: nn.Module, part: Any) -> Tensor:
    """The logits of a whole dataset in evaluation mode."""
    was = student.training
    student.eval()
    with torch.no_grad():
        logits = student(part.batch(range(len(part))))
    student.train(was)
    return torch.as_tensor(logits)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return float((logits.argmax(1) == labels).float().mean())


def tried(teacher: nn.Module, splits: cg.data.Splits, method: str, seed: int) -> dict[str, float]:
    """Train once; return the test accuracy (%) of the epoch that each rule chooses, by rule and validation images."""
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(seed))
    train, held = splits.train.subset(order[:IMAGES]), splits.train.subset(order[IMAGES : IMAGES + max(HELD_OUT)])
    torch.manual_seed(seed)
    student = cg.models.build("cnn3", in_channels=1, classes=10)
    terms = [cg.Term("ce")] if method == ALONE else [cg.Term("ce"), cg.Term(method, weight="balanced")]
    distiller = cg.Distiller(teacher, student, terms, example=train.batch([0, 1]), facts=cg.data.facts(train))
    best = {
        (size, rule): Best(("student",), None, one_standard_error=on) for size in HELD_OUT for rule, on in RULES.items()
    }
    kept: dict[tuple[int, str], dict[str, Tensor]] = {}

    def after(event: cg.Event) -> None:
        if event.kind != "epoch":
            return
        logits = outputs(student, held)
        for (size, rule), each in best.items():
            labels = held.labels[:size]
            numbers = {
                "accuracy": accuracy(logits[:size], labels),
                "loss": float(F.cross_entropy(logits[:size], labels)),
            }
            if each.update(event.epoch, numbers, size):
                kept[size, rule] = copy.deepcopy(student.state_dict())

    options = quick.fit_options(
        epochs=quick.epochs_of(IMAGES, 64),
        seed=seed,
        device="cpu",
        gradient_norms=False,
        callbacks=(after,),
    )
    cg.fit(distiller, cg.data.loader(train, batch_size=64, seed=seed, augment=True), options=options)
    found = {LAST: 100 * accuracy(outputs(student, splits.test), splits.test.labels)}
    for (size, rule), state in kept.items():
        student.load_state_dict(state)
        found[f"{rule}, {size}"] = 100 * accuracy(outputs(student, splits.test), splits.test.labels)
    return found


def figures_of(rows: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """What the rules choose beside the last epoch, and what the methods gain by each."""
    rules = [f"{rule}, {size}" for size in HELD_OUT for rule in RULES]
    figures = []
    for rule in rules:
        apart = [each[rule] - each[LAST] for of_method in rows.values() for each in of_method]
        name = f"epoch chosen by {rule} validation images"
        figures.append(figure(name, statistics.mean(apart), low=round(min(apart), 2), high=round(max(apart), 2)))
    for method in (each for each in rows if each != ALONE):
        for rule in (*rules, LAST):
            gains = [one[rule] - alone[rule] for one, alone in zip(rows[method], rows[ALONE], strict=True)]
            found = difference(gains)
            name = f"gain of {method}, {rule}" + ("" if rule == LAST else " validation images")
            figures.append(figure(name, found.mean, low=round(found.low, 2), high=round(found.high, 2)))
    return figures


def main() -> None:
    """Try the methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(1)
    splits = cg.data.load("digits")
    teacher = teacher_of(splits)
    of_teacher = 100 * accuracy(outputs(teacher, splits.test), splits.test.labels)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(told.seeds):
        for method in told.methods:
            start = time.process_time()
            rows.setdefault(method, []).append(tried(teacher, splits, method, seed))
            shown = ", ".join(f"{rule}: {value:.1f}" for rule, value in rows[method][-1].items())
            print(f"seed {seed}, {method}: {shown} ({time.process_time() - start:.0f} s)", flush=True)
    write("best_epoch", DEFINITION, figures_of(rows), teacher=round(of_teacher, 2), seeds=told.seeds, accuracies=rows)


if __name__ == "__main__":
    main()

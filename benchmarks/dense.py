"""Dense and several labels: what distillation gains where few images are labelled, on made shapes.

Two pairs: U-Nets that say of each pixel to which shape it belongs (`kd` and `dist` beside `ce`), and networks that say
which shapes an image holds (`sigmoid_kd` beside `bce`). One teacher each, trained on all labels; the student alone has
as many steps on its labelled images as it has on all images with its teacher. `python benchmarks/dense.py`, about two
minutes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from record import figure, write
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import congruence as cg

SIZE, SHAPES, TRAIN, TEST, BATCH = 20, 3, 960, 400, 32
SEEDS = (0, 1, 2)
TEACHER_EPOCHS, EPOCHS = 10, 15
PIXELS, LABELS = 8, 24  # images whose labels a student has
SEEN_ONCE = 20261128  # of the test images: rates and weights were chosen on others
DEFINITION = (
    f"on {TEST} test images that nothing was chosen on, means over {len(SEEDS)} seeds (first weights, order, and "
    f"which images are labelled): of {TRAIN} training images the student has the labels of {PIXELS} (pixels) or "
    f"{LABELS}, its teacher had all; `kd` at temperature 1 and weight 5, `dist` with its default weight, `sigmoid_kd` "
    "balanced; `gain` is over the student alone with as many steps, `deviation` the seeds' standard deviation of it"
)


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw noisy images [N, 1, H, W] of up to four discs, squares and crosses, and the shape (or 0) of each pixel."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    classes = torch.zeros(count, SIZE, SIZE, dtype=torch.int64)
    for image in classes:
        for _ in range(number(1, 5)):
            down, right = (rows - number(2, SIZE - 2)).abs(), (columns - number(2, SIZE - 2)).abs()
            radius, shape = number(2, 5), number(1, SHAPES + 1)
            inside = {
                1: down.square() + right.square() <= radius**2,
                2: torch.maximum(down, right) <= radius - 1,
                3: (torch.minimum(down, right) == 0) & (torch.maximum(down, right) <= radius),
            }
            image[inside[shape]] = shape
    noise = torch.randn(count, SIZE, SIZE, generator=generator)
    return ((classes > 0).float() + 0.3 * noise)[:, None], classes


@dataclass(frozen=True)
class Pair:
    """A kind of model, how wide its student is, how many images of the student are labelled, and what is compared."""

    model: Callable[[int], nn.Module]
    width: int
    labelled: int
    labels: Tensor
    truth: Tensor
    alone: str
    methods: tuple[cg.Term, ...]
    metric: Callable[[Tensor, Tensor], float]


def block(before: int, after: int) -> nn.Sequential:
    """Make a convolution, a norm and a ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class UNet(nn.Module):
    """One step down and up, and the classes of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.down = block(1, width), block(width, 2 * width)
        self.deep, self.up = block(2 * width, 2 * width), nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last, self.classes = block(2 * width, width), nn.Conv2d(width, SHAPES + 1, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C, H, W]."""
        fine = self.fine(x)
        deep = self.deep(self.down(self.pool(fine)))
        logits: Tensor = self.classes(self.last(torch.cat([fine, self.up(deep)], 1)))
        return logits


class Holds(nn.Module):
    """Which shapes an image holds, one logit each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(1, width), block(width, 2 * width), nn.MaxPool2d(2), block(2 * width, 2 * width)
        )
        self.labels = nn.Linear(2 * width, SHAPES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, L]."""
        logits: Tensor = self.labels(self.body(x).amax((2, 3)))
        return logits


def trained(
    teacher: nn.Module | None,
    student: nn.Module,
    terms: list[cg.Term | str],
    x: Tensor,
    y: Tensor,
    epochs: int,
    seed: int,
) -> nn.Module:
    """Train a student, by AdamW with a cosine."""
    torch.manual_seed(seed)
    distiller = cg.Distiller(teacher, student, terms, example=x[:2])
    options = cg.FitOptions(
        epochs=epochs,
        seed=seed,
        device="cpu",
        optimizer=cg.OptimizerOptions("adamw", lr=1e-2),
        schedule=cg.ScheduleOptions("cosine"),
    )
    cg.fit(distiller, cg.data.loader(TensorDataset(x, y), batch_size=BATCH, seed=seed), None, options)
    return student.eval()


@torch.no_grad()
def said(model: nn.Module, x: Tensor) -> Tensor:
    """Return a model's logits."""
    return torch.cat([model.eval()(part) for part in x.split(200)])


def holds(classes: Tensor) -> Tensor:
    """Return which shapes images hold, [N, L]."""
    return torch.stack([(classes == shape).flatten(1).any(1) for shape in range(1, SHAPES + 1)], 1).long()


def students(pair: Pair, teacher: nn.Module, x: Tensor, test: Tensor, seed: int) -> dict[str, float]:
    """Train a student alone, and by each method, and return their numbers on the test images in percent."""
    kept = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(seed))[: pair.labelled]
    few = torch.full_like(pair.labels, -1)
    few[kept] = pair.labels[kept]
    numbers = {}
    for term in (None, *pair.methods):
        torch.manual_seed(10 + seed)
        student = pair.model(pair.width)
        if term is None:  # the same steps, on labelled images alone
            epochs = EPOCHS * -(-TRAIN // BATCH) // -(-pair.labelled // BATCH)
            trained(None, student, [pair.alone], x[kept], pair.labels[kept], epochs, seed)
        else:
            trained(teacher, student, [pair.alone, term], x, few, EPOCHS, seed)
        key = pair.alone if term is None else term.name
        numbers[key] = 100 * pair.metric(said(student, test), pair.truth)
    return numbers


def main() -> None:
    """Measure both pairs."""
    torch.set_num_threads(1)
    begun = time.process_time()
    (x, y), (test, wanted) = drawn(TRAIN, 1), drawn(TEST, SEEN_ONCE)
    kd, dist = cg.Term("kd", temperature=1.0, weight=5.0), cg.Term("dist")
    pixels = Pair(UNet, 4, PIXELS, y, wanted, "ce", (kd, dist), cg.metrics.mean_iou)
    several = cg.Term("sigmoid_kd", weight="balanced")
    labels = Pair(Holds, 3, LABELS, holds(y), holds(wanted), "bce", (several,), cg.metrics.mean_average_precision)
    figures = []
    for name, pair in (("pixels, mean IoU", pixels), ("labels, mAP", labels)):
        torch.manual_seed(0)
        teacher = trained(None, pair.model(12), [pair.alone], x, pair.labels, TEACHER_EPOCHS, 0)
        figures.append(figure(f"{name}: teacher", 100 * pair.metric(said(teacher, test), pair.truth)))
        found = [students(pair, teacher, x, test, seed) for seed in SEEDS]
        for key in found[0]:
            values = [of_seed[key] for of_seed in found]
            gains = [of_seed[key] - of_seed[pair.alone] for of_seed in found]
            more = {} if key == pair.alone else {"gain": statistics.fmean(gains), "deviation": statistics.stdev(gains)}
            rounded = {part: round(number, 2) for part, number in more.items()}
            figures.append(figure(f"{name}: {key}", statistics.fmean(values), **rounded))
    setting = {"training": TRAIN, "epochs": EPOCHS, "processor_seconds": round(time.process_time() - begun)}
    write("dense", DEFINITION, figures, setting=setting)


if __name__ == "__main__":
    main()

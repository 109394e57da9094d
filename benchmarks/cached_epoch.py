"""What an epoch with a cached teacher costs beside training the student alone: resnet20 -> resnet8, 32x32, batch 64.

python benchmarks/cached_epoch.py
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch
from record import figure, write

import congruence as cg

IMAGES, CLASSES, BATCH, VIEWS, ROUNDS, BAR = 640, 10, 64, 2, 7, 1.10
TERMS = {
    "kd": ["ce", "kd"],
    "pkt": ["ce", "pkt"],
    "cckd": ["ce", "kd", "cckd"],
    "perception_coherence": ["ce", "perception_coherence"],
}
DEFINITION = (
    "median over pairs of epochs of time(ce and the method, cached teacher) / time(ce alone), one loop for both"
)


class Training:
    """One student, its terms, and an optimizer."""

    def __init__(self, teacher: cg.TeacherCache | None, terms: list[str], batches: cg.data.Loader) -> None:
        torch.manual_seed(0)
        student = cg.models.build("resnet8", classes=CLASSES)
        self.distiller = cg.Distiller(teacher, student, terms, example=batches.dataset.batch([0, 1])).train()
        self.optimizer = torch.optim.SGD(self.distiller.parameter_groups(), lr=0.01, momentum=0.9)
        self.batches = batches

    def epoch(self, number: int) -> float:
        """Train one epoch; return its seconds."""
        self.distiller.begin_epoch(number)
        start = time.perf_counter()
        for images, labels, index in self.batches.batches(number):
            self.optimizer.zero_grad()
            self.distiller(images, labels, index).loss.backward()
            self.optimizer.step()
        return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(IMAGES) % CLASSES
    dataset = cg.data.ArrayDataset(pixels, labels, classes=CLASSES, mean=[0.5] * 3, std=[0.25] * 3)
    batches = cg.data.loader(dataset, batch_size=BATCH, augment=True, view_cycle=VIEWS)
    teacher = cg.models.build("resnet20", classes=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        alone = Training(None, ["ce"], batches)
        cached = {
            name: Training(cg.TeacherCache(teacher, batches, folder), terms, batches) for name, terms in TERMS.items()
        }
        ratios: dict[str, list[float]] = {name: [] for name in cached}
        for number in range(ROUNDS + 1):
            for name, training in cached.items():
                pair = alone.epoch(number), training.epoch(number)
                if number:  # the first round makes the cache and warms up
                    ratios[name].append(pair[1] / pair[0])
    figures = [figure(name, statistics.median(values), BAR) for name, values in ratios.items()]
    setting = {"images": IMAGES, "batch": BATCH, "views": VIEWS, "teacher": "resnet20", "student": "resnet8"}
    write("cached_epoch", DEFINITION, figures, setting=setting, rounds=ROUNDS)


if __name__ == "__main__":
    main()

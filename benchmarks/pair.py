"""What the benchmarks of training steps share: images of 32×32, always the same, and a method bound to two models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import congruence as cg
from congruence.distiller.captured import Captured
from congruence.methods import row
from congruence.methods.catalogue import ROWS

Data = tuple[Tensor, Tensor, Tensor]  # images, labels, positions in the dataset
BATCH, CLASSES = 64, 100
LATE = 50  # an epoch after all warm-ups
# Rows for transformers' tokens, whose layers must be named, have none in two residual networks.
KEYS = [row.key for row in ROWS if not (row.needs.naming and "tokens" in row.needs.roles)]


def batch(device: str = "cpu") -> Data:
    """Images, labels and positions in the dataset, always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    return images.to(device), labels.to(device), torch.arange(BATCH, device=device)


def pictures(count: int, *, batch: int, views: int) -> cg.data.Loader:
    """Batches of so many augmented pictures of 10 classes, in so many views in turn."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 10
    dataset = cg.data.ArrayDataset(pixels, labels, classes=10, mean=[0.5] * 3, std=[0.25] * 3)
    return cg.data.loader(dataset, batch_size=batch, augment=True, view_cycle=views)


def views_of(key: str, images: Tensor) -> dict[str, Tensor]:
    """The further views that a method asks for."""
    return {view: images for view in row(key).needs.views if view != "main"}


def captured_once(keys: list[str], teacher: nn.Module, student: nn.Module, data: Data) -> Captured:
    """The batch as the two models see it, with the layers and views of all these methods: one forward for all."""
    images, labels, _ = data
    facts = cg.data.DataFacts(len(images), CLASSES, labels.cpu())
    distiller = cg.Distiller(teacher, student, [cg.Term(key) for key in keys], example=images[:2], facts=facts)
    distiller.to(images.device).train()
    with torch.no_grad():
        return distiller.capture(
            *data, views={name: view for key in keys for name, view in views_of(key, images).items()}
        )


def bound(
    key: str,
    teacher: nn.Module,
    student: nn.Module,
    data: Data,
    samples: int,
    *,
    captured: Captured | None = None,
    **layers: Any,
) -> tuple[cg.Distiller, Captured]:
    """One term between the models (dml: two students), in a late epoch of a dataset of so many samples, and the batch.

    An epoch of one batch comes first, so that what a method gathers over epochs is there. A queue that is not full
    costs no second forward here. The batch can have been captured before, with more layers than the method's.
    """
    images, labels, _ = data
    together = row(key).needs.students == "all"
    students: nn.Module | Mapping[str, nn.Module] = student
    if together:
        students = {"first": student, "second": copy.deepcopy(student)}
    every = labels.cpu().repeat(-(-samples // len(labels)))[:samples]
    facts = cg.data.DataFacts(samples, CLASSES, every)
    distiller = cg.Distiller(teacher, students, [cg.Term(key, **layers)], example=images[:2], facts=facts)
    distiller.to(images.device).train()
    with torch.no_grad():
        if captured is None:
            captured = distiller.capture(*data, views=views_of(key, images))
        distiller.begin_epoch(0)
        distiller.score(captured)
        distiller.end_epoch()
        distiller.begin_epoch(LATE)
    return distiller, captured

"""From the table of diagnostics to what `fit` asks at the ends of a stage's epochs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from congruence import data
from congruence.config.diagnostics import DiagnosticsConfig
from congruence.data.datasets import split
from congruence.data.datasets.batched import BatchDataset
from congruence.evaluation.diagnostics import without_teacher
from congruence.evaluation.watch import Diagnostics, diagnostic_loader

_FEW = 16  # images on which it is found out whether everything fits


def make_diagnostics(
    config: DiagnosticsConfig | None,
    stage: str,
    splits: data.Splits,
    *,
    teacher: bool,
    views: Sequence[str] = ("main",),
    device: torch.device,
    dry: bool = False,
) -> Diagnostics | None:
    """Return what `FitOptions(diagnose=...)` takes, None if nothing is asked of a stage.

    Args:
        config: of the run.
        stage: the stage's name.
        splits: the data, with all labels.
        teacher: whether the stage has one.
        views: that its terms compare.
        device: where batches go.
        dry: over a few images, with which to rehearse.

    Raises:
        ValueError: if no image is there.
    """
    if config is None or (config.stages is not None and stage not in config.stages):
        return None
    measures = config.names()
    if not teacher:
        measures = without_teacher(measures)
    if not measures and not config.losses:
        return None
    images: BatchDataset = getattr(splits, config.images)
    if len(images) == 0:
        raise ValueError(f"The diagnostics have no {config.images} images: choose others (images = ...), or keep some.")
    if dry:
        images = images.subset(_few(images))
    loader = diagnostic_loader(images, config.samples, seed=config.seed, views=views, device=device)
    return Diagnostics(
        loader,
        measures,
        losses=config.losses,
        every=config.every,
        student_layer=config.student_layer,
        teacher_layer=config.teacher_layer,
    )


def _few(images: BatchDataset) -> torch.Tensor:
    """Choose two images of each of a few classes."""
    labels = images.labels
    if labels is None or not bool((labels >= 0).any()):
        return torch.arange(min(_FEW, len(images)))
    chosen = split.first_of_each(labels, 2, seed=0, stream=split.DIAGNOSTICS)
    return chosen[labels[chosen].argsort(stable=True)][:_FEW]

"""Batches for `fit` and for custom loops, which can be resumed at any step bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from congruence.core import ranks
from congruence.core.check import COUNT, Constraint, Flag, Real, fail, hyperparameters
from congruence.data.augment.crops import PLAIN_VIEWS
from congruence.data.datasets.arrays import ArrayDataset
from congruence.data.datasets.batched import BatchDataset, Spec
from congruence.data.loading.batches import EpochOrder, Loader, Sampler, check_divides
from congruence.data.loading.block_order import order_of_blocks

CONSTRAINTS: dict[str, Constraint] = {
    "batch_size": COUNT,
    "shuffle": Flag(),
    "drop_last": Flag(),
    "seed": Real(integer=True),
    "workers": Real(low=0, closed="low", integer=True),
    "view_cycle": Real(low=1, closed="low", integer=True, optional=True),
    "view_seed": Real(integer=True, optional=True),
}


def loader(
    dataset: Any,
    *,
    batch_size: int,
    shuffle: bool = True,
    seed: int = 0,
    drop_last: bool = False,
    augment: Spec | bool | Mapping[str, Spec | bool | None] | None = None,
    views: Sequence[str] = ("main",),
    workers: int = 0,
    sampler: Sampler | None = None,
    device: torch.device | str | None = None,
    view_cycle: int | None = None,
    view_seed: int | None = None,
) -> Loader:
    """Make batches that are a function of (seed, epoch, batch number), for `fit` and for custom loops.

    Each batch is `(inputs, labels, index)` or, if views other than "main" are requested, a mapping with the keys
    "inputs" (the "main" view, else the first), "labels", "index" and "views" (name to inputs). `index` holds the
    samples' positions in the dataset; `labels` is None if the dataset has none, and -1 marks a sample without a label.
    An `ArrayDataset` is read, augmented and normalised a batch at a time on `device`. A `FileDataset` is decoded and
    augmented by `workers`, or in this process without any, and normalised on `device`. For a `TextDataset`, batches are
    gathered from its tokens. For any other map-style dataset (items `x`, `(x, y)`, `(x, y, ...)` or mappings with
    "labels" or "label"), each item is read once for each view, with Python's, NumPy's and torch's generators seeded by
    (seed, epoch, sample, view): its random transforms then also resume exactly, with any number of workers, and the
    global generators are restored.
    If models take different inputs (a dataset's `for_models`, or items that are `congruence.Inputs`), `inputs` are
    `congruence.Inputs` of the same samples, and the distiller gives each model its own.

    Args:
        dataset: a map-style dataset.
        batch_size: size of the global batch: each of N ranks gets a contiguous N-th of it.
        shuffle: whether each epoch has a new random order; otherwise the dataset's order. For Parquet files of over
            256 MB it is that of `congruence.data.loading.block_order`, which reads each row group once.
        seed: seed of order and augmentation.
        drop_last: leave out a smaller last batch; otherwise it is truncated to a multiple of the number of ranks.
        augment: for an `ArrayDataset` or a `FileDataset`: an `Augment` (for files also a `PhotoAugment`), True for the
            dataset's own, None for none, or a mapping with one for each view. The view "clean" is never augmented;
            "strong" additionally has changed brightness and colours and a cut-out square.
        views: the names of the views; each draws independently of the others.
        workers: processes that read the dataset; an `ArrayDataset` needs none and starts none.
        sampler: an object whose `batches(epoch)` gives the global batches; `batch_size`, `shuffle` and `drop_last` then
            have no effect.
        device: device of the batches; None leaves them where they are made.
        view_cycle: V makes augmentation repeat every V epochs (view = f(seed, sample, epoch mod V)), as a cached
            teacher with V stored views needs; the order still changes each epoch.
        view_seed: a separate seed for the augmentation, so that runs of several seeds can share a cached teacher; None
            for `seed`.

    Returns:
        An iterable; each full pass advances to the next epoch. `batches(epoch, start)` resumes within an epoch.

    Raises:
        ValueError: if an argument is not allowed, the dataset is empty or not map-style, or there would be no batch.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> batches = loader(TensorDataset(torch.arange(5.0), torch.arange(5)), batch_size=2, shuffle=False)
        >>> [index.tolist() for _, _, index in batches]
        [[0, 1], [2, 3], [4]]
        >>> next(batches.batches(0, start=2))
        (tensor([4.]), tensor([4]), tensor([4]))
    """
    hyperparameters(
        "loader",
        CONSTRAINTS,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        seed=seed,
        workers=workers,
        view_cycle=view_cycle,
        view_seed=view_seed,
    )
    names = tuple(views)
    different = len(set(names)) == len(names) > 0
    if isinstance(views, str) or not different or not all(isinstance(name, str) for name in names):
        fail("loader", "views", "different names", repr(views))
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        fail("loader", "dataset", "a map-style dataset (__len__ and __getitem__)", type(dataset).__name__)
    if len(dataset) == 0:
        fail("loader", "dataset", "a dataset with samples", "an empty one")
    if sampler is None:
        check_divides(batch_size, ranks.world_size())
        least = batch_size if drop_last else ranks.world_size()
        if len(dataset) < least:
            fail("loader", "dataset", f"at least {least} samples, or no batch is left", len(dataset))
    elif not callable(getattr(sampler, "batches", None)):
        fail("loader", "sampler", "an object with `batches(epoch)`", type(sampler).__name__)
    if device is None and isinstance(dataset, ArrayDataset) and isinstance(dataset.images, Tensor):
        device = dataset.images.device
    if sampler is None and shuffle:
        sampler = order_of_blocks(dataset, batch_size, seed=seed, drop_last=drop_last)
    return Loader(
        dataset,
        batch_size=batch_size,
        sampler=EpochOrder(len(dataset), batch_size, shuffle, seed, drop_last) if sampler is None else sampler,
        seed=seed if view_seed is None else view_seed,
        augment=_augment(dataset, augment, names),
        views=names,
        workers=workers,
        device=device,
        view_cycle=view_cycle,
    )


def _augment(
    dataset: Any, augment: Spec | bool | Mapping[str, Spec | bool | None] | None, views: tuple[str, ...]
) -> dict[str, Spec | bool | None]:
    """Return the augmentation of each view."""
    per_view = dict(augment) if isinstance(augment, Mapping) else dict.fromkeys(views, augment)
    unknown = sorted(set(per_view) - set(views))
    if unknown:
        fail("loader", "augment", f"for views among {list(views)}", unknown)
    for value in per_view.values():
        if not (value is None or isinstance(value, bool | Spec)):
            wanted = "an Augment, a PhotoAugment, True, False, None or one for each view"
            fail("loader", "augment", wanted, repr(value))
        if isinstance(dataset, BatchDataset):
            dataset.check_augment(value)
    if isinstance(dataset, BatchDataset):
        dataset.check_views(views)
    else:
        if any(per_view.values()):
            fail("loader", "augment", "None for a dataset that transforms its own items", repr(augment))
        plain = [view for view in views if view in PLAIN_VIEWS]
        if plain:
            fail("loader", "views", "views that the dataset's own transforms can make", repr(plain[0]))
    return {view: per_view.get(view) for view in views}

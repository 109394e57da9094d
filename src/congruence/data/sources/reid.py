"""`read_reid`: splits to train a person re-identification model on, and queries and a gallery to measure it on.

`read_sides` returns only the queries and the gallery; `alike` prepares any image files like a given dataset's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from congruence.core.check import near
from congruence.data.datasets.files import FileDataset
from congruence.data.datasets.images import ImageDataset
from congruence.data.sources.catalogue import source
from congruence.data.sources.load import Splits, load
from congruence.data.sources.locate import locate_or_raise
from congruence.data.sources.people import PEOPLE


class Sides(NamedTuple):
    """Queries and a gallery, with the identity and camera of each image; see `Reid`."""

    query: FileDataset
    gallery: FileDataset
    query_ids: Tensor
    gallery_ids: Tensor
    query_cameras: Tensor
    gallery_cameras: Tensor


class Reid(NamedTuple):
    """Splits to train on, and the arguments of `congruence.metrics.reid_evaluate` besides the embeddings.

    Identities are those in the published names, -1 if no whole person is shown; all int64.
    """

    splits: Splits
    query: FileDataset
    gallery: FileDataset
    query_ids: Tensor
    gallery_ids: Tensor
    query_cameras: Tensor
    gallery_cameras: Tensor


def read_reid(
    name: str, root: str | Path | None = None, *, size: int | tuple[int, int] = (256, 128), **more: Any
) -> Reid:
    """Read "market1501" or "msmt17" in its published layout.

    The splits equal those of `load` with the same arguments: training identities are numbered from 0, and the test part
    is the query images without labels, of people who are not in the training part. Queries and gallery stay in their
    files and have the size and normalisation of the training images.

    Args:
        name: "market1501" or "msmt17".
        root: the folder with the data; None for the data directory.
        size: height and width of all images.
        more: further arguments of `load` (`resize`, `mean`, `std`, `train_size` and so on).

    Returns:
        The data; `embed` a model over a `loader` of `query` and of `gallery` without shuffling, and pass the features.

    Raises:
        ValueError: for another name, or a file that is absent or badly named.
    """
    if name not in PEOPLE:
        names = " or ".join(repr(key) for key in PEOPLE)
        raise ValueError(f"`read_reid`: `name` must be {names}, got {name!r}.{near(str(name), PEOPLE)}")
    splits = load(name, root=root, size=size, **more)
    return Reid(splits, *read_sides(name, root, cast(ImageDataset, splits.train)))


def read_sides(name: str, root: str | Path | None, train: ImageDataset) -> Sides:
    """Read the queries and the gallery of a layout in `PEOPLE`, prepared like the training images."""
    people = PEOPLE[name](locate_or_raise(source(name), root)[0])
    query, gallery = people.query, people.gallery
    return Sides(
        alike(train, people.root, query.files, f"{name}/query"),
        alike(train, people.root, gallery.files, f"{name}/gallery"),
        *(torch.tensor(each.identities) for each in (query, gallery)),
        *(torch.tensor(each.cameras) for each in (query, gallery)),
    )


def alike(train: ImageDataset, root: Path, files: Sequence[str], name: str) -> FileDataset:
    """Return image files without labels as a dataset that prepares them like another dataset's images.


    Args:
        train: the dataset whose size and normalisation are used.
        root: the folder that contains `files`.
        files: paths relative to `root`.
        name: the dataset's name in messages.
    """
    return FileDataset(
        root,
        files,
        None,
        size=train.shape[1:],
        resize=train.resize if isinstance(train, FileDataset) else None,
        grey=train.shape[0] == 1,
        classes=None,
        mean=train.mean,
        std=train.std,
        name=name,
        augment=train.augment,
    )

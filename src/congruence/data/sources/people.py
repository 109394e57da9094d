"""Readers of the person re-identification layouts, Market-1501 and MSMT17: one function for each layout and purpose.

`list_*` give the training images by person; `people_*` give the queries and the gallery with identities and cameras.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from congruence.core.files import damaged
from congruence.data.sources.store import Files, Tree
from congruence.data.sources.trees import table_rows

_MARKET = re.compile(r"(-1|\d{4})_c(\d+)s\d+_\d+_\d+")
_CAMERA_PART = 2  # position in an MSMT17 file name, split at "_"


class Seen(NamedTuple):
    """Files, with the identity (-1: no whole person) and the camera of each."""

    files: tuple[str, ...]
    identities: tuple[int, ...]
    cameras: tuple[int, ...]


class People(NamedTuple):
    """The queries and the gallery of a re-identification dataset."""

    root: Path
    query: Seen
    gallery: Seen


def list_market1501(folder: Path) -> Tree:
    """List bounding_box_train/ by person, and query/ without labels as test part.

    Labels count the identities in the order of their numbers.
    """
    seen = _market(folder, "bounding_box_train")
    # -1 is no whole person and 0 a distractor: neither is trained on.
    pairs = [(file, identity) for file, identity in zip(seen.files, seen.identities, strict=True) if identity > 0]
    names = sorted({identity for _, identity in pairs})
    train = _labelled([file for file, _ in pairs], [identity for _, identity in pairs], names)
    return Tree(folder, train, Files(_market(folder, "query").files, None), class_names=_names(names))


def people_market1501(folder: Path) -> People:
    """List query/ and bounding_box_test/, whose identities and cameras are in the names: 0002_c1s1_000451_03.jpg."""
    return People(folder, _market(folder, "query"), _market(folder, "bounding_box_test"))


def _market(folder: Path, part: str) -> Seen:
    if not (folder / part).is_dir():
        raise ValueError(f"The folder '{folder / part}' is absent.")
    files = sorted(path.name for path in (folder / part).glob("*.jpg"))
    if not files:
        raise ValueError(f"The folder '{folder / part}' holds no image (*.jpg).")
    rows = []
    for file in files:
        match = _MARKET.match(file)
        if match is None:
            raise ValueError(f"The file '{folder / part / file}' has no name such as 0002_c1s1_000451_03.jpg.")
        rows.append((f"{part}/{file}", int(match[1]), int(match[2])))
    return Seen(*zip(*rows, strict=True))


def list_msmt17(folder: Path) -> Tree:
    """List list_train.txt and list_val.txt, which have the same people, and list_query.txt without labels as test part.

    Labels count the identities in the order of their numbers.
    """
    train = _msmt(folder, "list_train.txt", "train")
    names = sorted(set(train.identities))
    validation = None
    if (folder / "list_val.txt").exists():
        held_out = _msmt(folder, "list_val.txt", "train")
        unknown = sorted(set(held_out.identities) - set(names))
        if unknown:
            raise damaged(folder / "list_val.txt", f"its identity {unknown[0]} has no training images")
        validation = _labelled(held_out.files, held_out.identities, names)
    test = Files(_msmt(folder, "list_query.txt", "test").files, None)
    return Tree(folder, _labelled(train.files, train.identities, names), test, validation, _names(names))


def people_msmt17(folder: Path) -> People:
    """List list_query.txt and list_gallery.txt; the camera is in the names: 0000/0000_000_01_0303morning_0015_0.jpg."""
    return People(folder, *(_msmt(folder, f"list_{part}.txt", "test") for part in ("query", "gallery")))


def _msmt(folder: Path, table: str, part: str) -> Seen:
    rows = []
    for file, number in table_rows(folder / table, 2):
        parts = Path(file).stem.split("_")
        camera = parts[_CAMERA_PART] if len(parts) > _CAMERA_PART else ""
        if not number.removeprefix("-").isdecimal() or not camera.isdecimal():
            raise damaged(folder / table, f"its line '{file} {number}' gives no identity and camera")
        rows.append((f"{part}/{file}", int(number), int(camera)))
    return Seen(*zip(*rows, strict=True))


def _labelled(files: Sequence[str], identities: Sequence[int], names: Sequence[int]) -> Files:
    labels = {identity: label for label, identity in enumerate(names)}
    return Files(tuple(files), np.array([labels[identity] for identity in identities], dtype=np.int64))


def _names(identities: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{identity:04d}" for identity in identities)


PEOPLE: Mapping[str, Callable[[Path], People]] = MappingProxyType(
    {"market1501": people_market1501, "msmt17": people_msmt17}
)

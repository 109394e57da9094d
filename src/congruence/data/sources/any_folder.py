"""`read_tree`: the images of a folder, whether they are files in class folders, tar shards or Parquet files.

`sample_names` returns the files of a dataset's samples.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from congruence.data.datasets.arrays import ArrayDataset
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.files import FileDataset
from congruence.data.datasets.packed import Names
from congruence.data.datasets.texts import TextDataset
from congruence.data.sources.folder import list_folder
from congruence.data.sources.index_file import read_index, write_index
from congruence.data.sources.shard_files import KINDS, list_shards, shards_in
from congruence.data.sources.store import Files, Tree

INDEX_FROM = 20_000  # files; smaller folders are listed anew each time
_SETTLED = 2.0  # seconds: a folder that changed so shortly before its scan may change again under the same time
_PARTS = ("train", "test", "validation")


def holds_shards(path: Path) -> bool:
    """Whether a path is a tar or Parquet file."""
    return path.suffix.lower() in KINDS and path.is_file()


def read_tree(folder: Path) -> Tree:
    """Return the images of a folder, or of one tar or Parquet file.

    A folder of more than 20,000 image files is scanned once: the result is kept in the data directory and used again as
    long as no folder in it has changed. Tar shards are likewise scanned once.

    Args:
        folder: of images, or of shards; or one shard.

    Raises:
        ValueError: as `list_folder` and `list_shards` do.
    """
    if holds_shards(folder):
        return list_shards(folder.parent, {"train": [folder.name]})
    shards = shards_in(folder)
    if shards:
        return list_shards(folder, shards)
    return _indexed(folder)


def _indexed(root: Path) -> Tree:
    kept = read_index(root, ["folder"])
    if kept is not None and _times(root, kept["stamp"]["folders"]) == kept["stamp"]["times"]:
        return _tree_of(root, kept)
    began = time.time_ns()
    tree = list_folder(root)
    count = sum(len(part.files) for part in (tree.train, tree.test, tree.validation) if part is not None)
    folders = _folders(root) if count > INDEX_FROM else []
    times = _times(root, folders)
    if folders and max(times, default=began) < began - _SETTLED * 1e9:
        arrays, stamp = _arrays_of(tree), {"folders": folders, "times": times, "classes": list(tree.class_names)}
        write_index(root, ["folder"], stamp, arrays)
        return _tree_of(root, {**arrays, "stamp": stamp})
    return tree


def _folders(root: Path) -> list[str]:
    """List a folder and those below it, as `list_folder` walks them."""
    found, seen = ["."], {os.path.realpath(root)}
    waiting = ["."]
    while waiting:
        below = waiting.pop()
        with os.scandir(root / below) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        for name in names:
            path = os.path.normpath(os.path.join(below, name))
            real = os.path.realpath(root / path)
            if real not in seen:
                seen.add(real)
                found.append(path)
                waiting.append(path)
    return found


def _times(root: Path, folders: list[str]) -> list[int]:
    """Return when each folder last changed; an entry that was added, removed or renamed changes its folder's time."""
    try:
        return [os.stat(root / each).st_mtime_ns for each in folders]
    except OSError:
        return []


def _arrays_of(tree: Tree) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for name in _PARTS:
        part = getattr(tree, name)
        if part is None:
            continue
        names = Names.of(part.files)
        arrays |= {f"{name}_text": names.text, f"{name}_ends": names.ends}
        if part.labels is not None:
            arrays[f"{name}_labels"] = part.labels
    return arrays


def _tree_of(root: Path, kept: dict[str, Any]) -> Tree:
    parts = {
        name: Files(Names(kept[f"{name}_text"], kept[f"{name}_ends"]), kept.get(f"{name}_labels"))
        for name in _PARTS
        if f"{name}_ends" in kept
    }
    names = tuple(kept["stamp"]["classes"])
    return Tree(root, parts["train"], parts.get("test"), parts.get("validation"), names, grey=None)


def sample_names(images: BatchDataset, folder: Path | None = None) -> list[str] | None:
    """Return names by which a reader can identify a dataset's samples:

    their files, relative to the folder, or their texts.

    Args:
        images: a dataset from `load`.
        folder: the folder from which it was loaded, if any; decoded images do not store it.

    Returns:
        A name for each sample in order, None if there are no names.
    """
    rows = images.index if images.rows is None else images.rows
    if isinstance(images, TextDataset):
        return [images.texts[row] for row in rows.tolist()]
    files = images.files if isinstance(images, FileDataset) else ()
    if isinstance(images, ArrayDataset) and folder is not None:
        tree = read_tree(folder)
        # A held-out part is among the training images.
        files = (getattr(tree, images.name.rpartition("/")[2], None) or tree.train).files
    return [files[row] for row in rows.tolist()] if len(files) == images.held else None

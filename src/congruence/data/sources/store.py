"""The results of readers, `Arrays` or `Tree`; and fetched arrays on disk, memory-mapped, with a manifest of checksums.

The reader of a package's dataset returns one of the two, which are also exported by `congruence.data`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from congruence.core.files import atomic, read_array, sha256, write_json

MANIFEST = "manifest.json"
_TEXTS = "train_texts.txt"
_TYPES = {"images": np.dtype(np.uint8), "labels": np.dtype(np.int64)}


class Part(NamedTuple):
    """One part of a dataset: images uint8 [N, C, H, W] and labels int64 [N], None if there are none."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None


class Arrays(NamedTuple):
    """The images of a source:

    a part is None if the source does not separate it. `class_names` are those in the files; empty if the table has
    them.
    """

    train: Part
    test: Part | None = None
    validation: Part | None = None
    class_names: tuple[str, ...] = ()


class Files(NamedTuple):
    """One part of a tree of image files: paths relative to its root, and labels int64 [N], None if there are none.

    `files` may also be images inside other files, see `congruence.data.datasets.packed`.
    """

    files: Sequence[str]
    labels: npt.NDArray[np.int64] | None


class Tree(NamedTuple):
    """A tree of image files, before decoding; `grey` None means grey if all files are."""

    root: Path
    train: Files
    test: Files | None = None
    validation: Files | None = None
    class_names: tuple[str, ...] = ()
    grey: bool | None = False


class Texts(NamedTuple):
    """One part of a file of texts: the texts, and labels int64 [N], None if there are none."""

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64] | None


class Lines(NamedTuple):
    """The content of a file of texts."""

    train: Texts
    test: Texts | None = None
    validation: Texts | None = None
    class_names: tuple[str, ...] = ()


def data_root() -> Path:
    """Return the folder of fetched datasets: $CONGRUENCE_DATA, else `congruence` in the user's cache folder."""
    chosen = os.environ.get("CONGRUENCE_DATA")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "congruence"


def write_arrays(folder: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Write a train and a test part, then the manifest."""
    rows: dict[str, Any] = {}
    for part, content in (("train", arrays.train), ("test", arrays.test)):
        for kind, array in zip(_TYPES, content or (), strict=False):
            if array is None:
                continue
            path = folder / f"{part}_{kind}.npy"
            with atomic(path) as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            rows[path.name] = {"sha256": sha256(path), "shape": list(array.shape), "dtype": str(array.dtype)}
    names = {"class_names": list(arrays.class_names)} if arrays.class_names else {}
    write_json(folder / MANIFEST, {"format": 1, **about, **names, "arrays": rows})


def write_lines(folder: Path, lines: Lines, about: Mapping[str, Any]) -> None:
    """Write unlabelled texts, one in each line, then the manifest."""
    path = folder / _TEXTS
    with atomic(path) as file:
        file.write("".join(f"{text}\n" for text in lines.train.texts).encode())
    rows = {path.name: {"sha256": sha256(path), "count": len(lines.train.texts)}}
    write_json(folder / MANIFEST, {"format": 1, **about, "arrays": rows})


def read_stored(folder: Path) -> Arrays | Lines:
    """Read what a fetch has stored in a folder, after checking its checksums.

    Raises:
        ValueError: with the file's name, if one is absent, cut short or changed.
    """
    rows = manifest(folder)["arrays"]
    return _read_lines(folder, rows) if _TEXTS in rows else read_arrays(folder)


def _read_lines(folder: Path, rows: Mapping[str, Any]) -> Lines:
    path = folder / _TEXTS
    try:
        texts = tuple(path.read_text(encoding="utf8").split("\n")[:-1])
        facts = {"sha256": sha256(path), "count": len(texts)}
    except FileNotFoundError:
        raise ValueError(f"The file '{path}' is absent.") from None
    except (OSError, ValueError):
        raise ValueError(f"The file '{path}' is damaged: it cannot be read as text.") from None
    if facts != rows[_TEXTS]:
        raise ValueError(f"The file '{path}' is damaged: it is not what its manifest says.")
    return Lines(Texts(texts, None))


def manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        ValueError: with the file's name, if it is absent or damaged.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        if content["format"] != 1 or not isinstance(content["arrays"], dict):
            raise ValueError
    except OSError as error:
        raise ValueError(f"The file '{path}' cannot be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"The file '{path}' is damaged.") from None
    return dict(content)


def read_arrays(folder: Path) -> Arrays:
    """Map the arrays of a folder into memory, after checking their checksums.

    Raises:
        ValueError: with the file's name, if one is absent, cut short or changed.
    """
    content = manifest(folder)
    rows = content["arrays"]
    test = _mapped_part(folder, "test", rows) if "test_images.npy" in rows else None
    return Arrays(_mapped_part(folder, "train", rows), test, class_names=tuple(content.get("class_names", ())))


def _mapped_part(folder: Path, part: str, rows: Mapping[str, Any]) -> Part:
    return Part(_mapped(folder, f"{part}_images.npy", rows), _mapped(folder, f"{part}_labels.npy", rows))


def _mapped(folder: Path, name: str, rows: Mapping[str, Any]) -> npt.NDArray[Any]:
    path = folder / name
    try:
        array = read_array(path, mapped=True)
        facts = {"sha256": sha256(path), "shape": list(array.shape), "dtype": str(array.dtype)}
    except FileNotFoundError:
        raise ValueError(f"The file '{path}' is absent.") from None
    except (OSError, ValueError):
        raise ValueError(f"The file '{path}' is damaged: it cannot be read as an array.") from None
    if facts != rows.get(name) or array.dtype != _TYPES[name.removesuffix(".npy").split("_")[1]]:
        raise ValueError(f"The file '{path}' is damaged: it is not what its manifest says.")
    return array

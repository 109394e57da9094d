"""Tar shards (as webdataset writes them) and Parquet files as trees of images: found once, then read in any order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from congruence.core.files import damaged
from congruence.data.datasets.packed import Names, ParquetFiles, TarFiles, pyarrow_parquet
from congruence.data.sources.folder import PART_NAMES, SUFFIXES
from congruence.data.sources.index_file import read_index, write_index
from congruence.data.sources.store import Files, Tree
from congruence.data.sources.tar_headers import TarMember, read_member, tar_members

KINDS = (".tar", ".parquet")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
CLASS_NAMES = "classes.txt"
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "jpg", "png", "picture"), ("label", "labels", "cls", "class", "target")


def shards_in(folder: Path) -> dict[str, list[str]]:
    """Return the shards of each part, by their paths below a folder; empty if there is none.

    They lie in the folder itself, in `data/`, or in folders of parts (`train/`, `val/`, `test/`). Of shards beside each
    other, the part is the word that their names begin with ("train-00000-of-00008.parquet"), else "train".
    """
    parts: dict[str, list[str]] = {}
    compressed: list[Path] = []
    if not _only_shards(folder):
        return parts
    places: dict[Path, str | None] = {folder: None, folder / "data": None}
    if folder.is_dir():
        named = {word: part for part, words in PART_NAMES.items() for word in words}
        below = sorted(each for each in folder.iterdir() if each.is_dir() and each.name.lower() in named)
        places |= {each: named[each.name.lower()] for each in below}
    for place, part in places.items():
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.name.startswith(".") or not path.is_file():
                continue
            if path.name.lower().endswith(COMPRESSED):
                compressed.append(path)
            if path.suffix.lower() in KINDS:
                parts.setdefault(part or _part_of(path.name), []).append(os.path.relpath(path, folder))
    if compressed and not parts:
        raise ValueError(
            f"The shard '{compressed[0]}' is compressed, so that no image can be read alone: make it a .tar."
        )
    return parts


def _only_shards(folder: Path) -> bool:
    """Whether a folder has no images, and no folders that may be classes: an archive beside these is no shard."""
    if not folder.is_dir():
        return False
    usual = {"data", *(word for words in PART_NAMES.values() for word in words)}
    waiting, at_root = [str(folder)], True
    below: list[str] = []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:  # up to the first that decides: a folder may have a million images
                if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    return False
                if entry.name.startswith(".") or not entry.is_dir():
                    continue
                if not at_root or entry.name.lower() not in usual:
                    return False
                below.append(entry.path)
        if at_root:
            waiting, at_root = below, False
    return True


def _part_of(name: str) -> str:
    word = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
    return next((part for part, words in PART_NAMES.items() if word in words), "train")


def list_shards(root: Path, parts: Mapping[str, Sequence[str]]) -> Tree:
    """Return the images in shards, with their labels.

    In a tar shard, members of one name up to the first dot are one sample: its image, and its label in `.cls` (a
    number) or `.json` (`"label"`, a number or a name). If no sample has one, the members' folders are classes.
    In a Parquet file, the first column of `IMAGE_COLUMNS` has the image's bytes (or a struct with "bytes"),
    and the first of `LABEL_COLUMNS` the label. Names of numbered classes come from `classes.txt` beside the shards, a
    name a line, or from the metadata that Hugging Face's datasets write.

    Args:
        root: the folder.
        parts: the shards of each part below it, see `shards_in`.

    Raises:
        ValueError: for shards of two kinds, without images, with labels for some samples alone, or damaged.
    """
    if "train" not in parts:
        raise ValueError(f"The folder '{root}' has shards of {', '.join(parts)} and none of train.")
    kinds = {Path(name).suffix.lower() for names in parts.values() for name in names}
    if len(kinds) > 1:
        raise ValueError(f"The folder '{root}' has shards of several kinds ({', '.join(sorted(kinds))}): keep one.")
    read = _tar_part if kinds == {".tar"} else _parquet_part
    found = {part: read(root, names) for part, names in parts.items()}
    for part, each in found.items():
        if not len(each.files):
            raise ValueError(f"The shards of {part} in '{root}' hold no image (of {', '.join(sorted(SUFFIXES))}).")
    class_names = _class_names(root, found)
    files = {part: Files(each.files, _numbers(root, part, each, class_names)) for part, each in found.items()}
    return Tree(root, files["train"], files.get("test"), files.get("validation"), class_names, grey=None)


class _Found(NamedTuple):
    """What the shards of a part hold: images, labels (numbers or names, None if there are none), and class names."""

    files: Any
    labels: Any
    names: tuple[str, ...] = ()


def _class_names(root: Path, found: Mapping[str, _Found]) -> tuple[str, ...]:
    path, labels = root / CLASS_NAMES, found["train"].labels
    if labels is None:
        return ()
    if path.exists():
        return tuple(line.strip() for line in path.read_text(encoding="utf8").splitlines() if line.strip())
    if found["train"].names:
        return found["train"].names
    if isinstance(labels, np.ndarray):
        return tuple(str(number) for number in range(int(max(labels.max(initial=-1), -1)) + 1))
    return tuple(sorted(set(labels)))


def _numbers(root: Path, part: str, found: _Found, class_names: Sequence[str]) -> Any:
    labels = found.labels
    if labels is None:
        return None
    if not isinstance(labels, np.ndarray):
        number_of = {name: number for number, name in enumerate(class_names)}
        unknown = sorted(set(labels) - set(number_of))
        if unknown:
            raise ValueError(
                f"The shards of {part} in '{root}' have the class '{unknown[0]}', which those of train lack."
            )
        return np.array([number_of[name] for name in labels], np.int64)
    if len(labels) and labels.max() >= len(class_names):
        raise ValueError(
            f"The shards of {part} in '{root}' have labels up to {int(labels.max())}, and there are "
            f"{len(class_names)} classes."
        )
    return labels.astype(np.int64)


# Tar


def _tar_part(root: Path, shards: Sequence[str]) -> _Found:
    """Return what tar shards hold, from an index that is kept if they have not changed."""
    stats = [os.stat(root / name) for name in shards]
    stamp = ["tar", *([name, each.st_size, each.st_mtime_ns] for name, each in zip(shards, stats, strict=True))]
    kept = read_index(root, shards, stamp)
    if kept is None:
        kept = _scanned(root, shards)
        write_index(root, shards, stamp, kept)
    names = Names(kept["text"], kept["ends"])
    files = TarFiles(root, tuple(shards), names, kept["shard"], kept["offset"], kept["length"])
    if "labels" in kept:
        return _Found(files, kept["labels"])
    if "of_class" in kept:
        classes = Names(kept["classes"], kept["class_ends"])
        return _Found(files, [classes[number] for number in kept["of_class"].tolist()])
    return _Found(files, None)


class _Member(NamedTuple):
    name: str
    shard: int
    offset: int
    length: int
    label: Any


def _scanned(root: Path, shards: Sequence[str]) -> dict[str, Any]:
    members = [member for number, name in enumerate(shards) for member in _members(root / name, name, number)]
    kept: dict[str, Any] = {
        "shard": np.array([member.shard for member in members], np.int32),
        "offset": np.array([member.offset for member in members], np.int64),
        "length": np.array([member.length for member in members], np.int64),
    }
    names = Names.of([member.name for member in members])
    kept |= {"text": names.text, "ends": names.ends}
    labels = [member.label for member in members]
    lacking = sum(label is None for label in labels)
    if labels and not lacking and all(isinstance(label, int) for label in labels):
        return kept | {"labels": np.array(labels, np.int64)}
    if lacking not in (0, len(labels)):
        lacks = next(member.name for member in members if member.label is None)
        raise ValueError(f"{lacking:,} of {len(labels):,} images in '{root}' have no label, '{lacks}' first.")
    folders = [os.path.basename(os.path.dirname(member.name)) for member in members]
    inside = all("/" in member.name.split(".tar/", 1)[-1] for member in members)
    of_class = [str(label) for label in labels] if not lacking else folders if inside else []
    if not of_class:
        return kept
    class_names = sorted(set(of_class))
    number_of = {name: number for number, name in enumerate(class_names)}
    classes = Names.of(class_names)
    kept |= {"classes": classes.text, "class_ends": classes.ends}
    return kept | {"of_class": np.array([number_of[name] for name in of_class], np.int32)}


def _members(path: Path, shard: str, number: int) -> Iterator[_Member]:
    """Yield the images of a tar file with their labels, in order; only headers and labels are read."""
    key, image, label = None, None, None
    for member in tar_members(path):
        folder, base = os.path.split(member.name)
        if base.startswith("."):
            continue
        stem, _, extension = base.partition(".")
        if (folder, stem) != key:
            if image is not None:
                yield image._replace(label=label)
            key, image, label = (folder, stem), None, None
        if f".{extension}".lower() in SUFFIXES:
            image = _Member(f"{shard}/{member.name}", number, member.offset, member.length, None)
        elif extension in ("cls", "json"):
            label = _label(path, member, extension)
    if image is not None:
        yield image._replace(label=label)


def _label(path: Path, member: TarMember, extension: str) -> int | str | None:
    content = read_member(path, member)
    try:
        if extension == "cls":
            return int(content)
        table = json.loads(content)
    except ValueError:
        raise damaged(path, f"the label '{member.name}' cannot be read") from None
    table = table if isinstance(table, dict) else {}
    label = next((table[name] for name in LABEL_COLUMNS if name in table), None)
    return label if isinstance(label, str) or (isinstance(label, int) and not isinstance(label, bool)) else None


# Parquet


def _parquet_part(root: Path, shards: Sequence[str]) -> _Found:
    """Return what Parquet files hold: their metadata and the column of labels are read, no image."""
    parquet = pyarrow_parquet()
    shard, group, position, labels = [], [], [], []
    column = ""
    class_names: tuple[str, ...] = ()
    for number, name in enumerate(shards):
        try:
            with parquet.ParquetFile(root / name) as file:
                schema, rows = (
                    file.schema_arrow,
                    [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)],
                )
                column = next((each for each in IMAGE_COLUMNS if each in schema.names), "")
                label = next((each for each in LABEL_COLUMNS if each in schema.names), None)
                values = None if label is None else file.read(columns=[label]).column(label).to_pylist()
        except Exception as error:  # pyarrow's own kinds
            raise damaged(root / name, f"it cannot be read as Parquet ({str(error).splitlines()[0][:100]})") from None
        if not column:
            raise ValueError(f"The file '{root / name}' has no column of images ({', '.join(IMAGE_COLUMNS)}).")
        class_names = class_names or _named_in(schema, label)
        labels.append(values)
        shard.append(np.full(sum(rows), number, np.int32))
        group.append(np.repeat(np.arange(len(rows), dtype=np.int32), rows))
        position.append(np.concatenate([np.arange(each, dtype=np.int64) for each in rows] or [np.zeros(0, np.int64)]))
    lengths = [len(each) for each in shard]
    names = Names.of([f"{name}/{row}" for name, length in zip(shards, lengths, strict=True) for row in range(length)])
    packed = [np.concatenate(each) for each in (shard, group, position)]
    files = ParquetFiles(root, tuple(shards), names, packed[0], packed[1], packed[2], column)
    return _Found(files, _joined(root, labels), class_names)


def _joined(root: Path, labels: Sequence[list[Any] | None]) -> Any:
    if any(values is None for values in labels):
        return None
    flat = [-1 if value is None else value for values in labels for value in values or ()]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in flat):
        return np.array(flat, np.int64)
    if all(isinstance(value, str) for value in flat):
        return flat
    raise ValueError(f"The labels in '{root}' are neither numbers nor names.")


def _named_in(schema: Any, label: str | None) -> tuple[str, ...]:
    """Return the class names that Hugging Face's datasets write into a file's metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(text)["info"]["features"][label]["names"] if text is not None else ()
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()

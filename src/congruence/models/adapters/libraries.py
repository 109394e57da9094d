"""Libraries that need not be installed: imported when a model of theirs is named, or told in one sentence."""

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
        module: to import.
        package: what to install for it.
        name: of the model, as it was given.

    Raises:
        ValueError: where it is not installed, or cannot be imported beside this torch.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises a RuntimeError
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == module.split(".")[0]
        why = "which is not installed" if missing else f"which cannot be imported ({check.sentence(error)[:200]})"
        raise ValueError(f"The model '{name}' needs {package}, {why}: pip install 'congruence[zoo]'.") from error


@contextlib.contextmanager
def loading(name: str, package: str) -> Iterator[None]:
    """Say in one sentence why a library cannot load a model.

    Raises:
        ValueError: for whatever the library raises.
    """
    try:
        yield
    except Exception as error:  # of a library, whatever it is
        raise ValueError(f"The model '{name}' cannot be loaded by {package}: {check.sentence(error)[:400]}.") from error


def folder_in(rest: str, name: str) -> Path | None:
    """Return the folder that a text names; None where it may be a name that a library knows.

    Raises:
        ValueError: for a path where there is no folder.
    """
    path = Path(rest).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or rest.startswith((".", "~")) or path.exists():
        raise ValueError(f"There is no folder '{path}' for the model '{name}'.")
    return None

"""The pages of losses and of metrics, functions first: `docs/update_reference.py` writes them.

The other pages of the public names are one directive each, and written by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import ModuleType

from generated import ROOT
from update_losses import offered

import congruence as cg

_LOSSES = """# congruence.losses

Each loss is a pure function, and a thin module of the same name in CamelCase that stores the hyper-parameters. The rows
of the [catalogue](../methods.md) are made of them.
"""
_METRICS = """# congruence.metrics

Pure functions from features, logits and labels to numbers, and after them what some of them return.
"""


def losses() -> str:
    """Return the page of losses: file by file, each with its functions and then its classes."""
    files = (ROOT / "src" / "congruence" / "losses").glob("*.py")
    groups = sorted((_sorted(offered(path)) for path in files if path.stem != "__init__"), key=lambda group: group[0])
    return "\n".join([_LOSSES, *(_directive(cg.losses, name) for group in groups for name in group)])


def metrics() -> str:
    """Return the page of metrics."""
    return "\n".join([_METRICS, *(_directive(cg.metrics, name) for name in _sorted(cg.metrics.__all__))])


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name[0].isupper(), name))  # functions first


def _directive(package: ModuleType, name: str) -> str:
    path = f"{package.__name__}.{name}"
    # A file of the same name hides what the front door offers.
    hidden = inspect.getmodule(getattr(package, name)).__name__ == path  # type: ignore[union-attr]
    return f"::: {path}.{name}\n" if hidden else f"::: {path}\n"

"""What two ranks give, by each library that is there."""

from __future__ import annotations

import importlib

import pytest
import torch
from _harness import trainers
from _harness.runs import on_ranks


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    """What each of two ranks found, by library; the ranks are started once for all of them."""
    folder, libraries = tmp_path_factory.mktemp("ranks"), []
    for library in trainers.ON_RANKS:
        try:
            importlib.import_module(library)
            libraries.append(library)
        except (ImportError, RuntimeError):  # a broken one may raise what it likes
            continue
    on_ranks(trainers.on_a_rank, folder, libraries)
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in (0, 1)]

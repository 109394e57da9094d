"""Index files: what a scan of a folder or of shards found, kept in the data directory until these change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from congruence.core.files import atomic
from congruence.data.sources.store import data_root

FORMAT = 1
LOG = logging.getLogger("congruence")


def index_path(root: Path, what: Sequence[str]) -> Path:
    """Return the index file of a folder, or of some shards in it."""
    key = json.dumps([os.path.abspath(root), *what])
    return data_root() / "indexes" / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:24]}.npz"


def read_index(root: Path, what: Sequence[str], stamp: Any = None) -> dict[str, Any] | None:
    """Return the arrays of an index.

    Args:
        root: the folder.
        what: of it.
        stamp: everything that shows a change, as JSON values; None: whatever it was, returned as "stamp".

    Returns:
        None if there is none, it cannot be read, or the stamp is another.
    """
    try:
        with open(index_path(root, what), "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        kept = json.loads(arrays.pop("stamp").tobytes())
    except Exception:  # absent, or cut short in any way: scanned again
        return None
    if kept[0] != FORMAT or (stamp is not None and kept[1] != json.loads(json.dumps(stamp))):
        return None
    return arrays | ({} if stamp is not None else {"stamp": kept[1]})


def write_index(root: Path, what: Sequence[str], stamp: Any, arrays: Mapping[str, Any]) -> None:
    """Keep the arrays of an index; a data directory that cannot be written to is only logged."""
    path = index_path(root, what)
    text = np.frombuffer(json.dumps([FORMAT, stamp]).encode(), np.uint8)
    try:
        with atomic(path) as file:
            np.savez(file, stamp=text, **arrays)
    except OSError as error:
        LOG.info("The index of '%s' could not be kept in '%s' (%s).", root, path.parent, error.strerror)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

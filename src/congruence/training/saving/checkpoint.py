"""Checkpoints: written atomically, and only the last two are kept."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from congruence.core.files import atomic, naming
from congruence.models.weights_file import ChangedError, torch_content
from congruence.training.saving import outline, shards
from congruence.training.saving.migrate import FORMAT, migrate_checkpoint

LOG = logging.getLogger("congruence")
KEPT = 2


@contextlib.contextmanager
def naming_write_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write a file (a full disk) into a clear error."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        hidden = error.__context__  # torch.save replaces the disk's error by its own
        cause = hidden if isinstance(hidden, OSError) and not isinstance(error, OSError) else error
        reason = (isinstance(cause, OSError) and cause.strerror) or str(cause).split("\n")[0]
        raise ValueError(f"'{path}' could not be written: {reason}. Earlier checkpoints are intact.") from error


class Checkpoints:
    """The folder of a run's checkpoints, named by optimizer step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[Path]:
        """Return the checkpoints, newest first."""
        steps = [(int(m[1]), p) for p in self.folder.glob("*.pt") if (m := re.fullmatch(r"step-(\d+)\.pt", p.name))]
        return [path for _, path in sorted(steps, reverse=True)]

    def last(self) -> int:
        """Return the step of the newest checkpoint, -1 if there is none."""
        return max((int(path.stem.removeprefix("step-")) for path in self.files()), default=-1)

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self.files():
            path.unlink()
        shards.drop(self.folder, set(), "", {})

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint (temporary file, fsync, rename) and drop all but the last two."""
        path = self.folder / f"step-{step:09d}.pt"
        whole = {"congruence": FORMAT, **state}
        wanted = outline.size(whole)
        with naming_write_errors(path), atomic(path) as file, naming(path, wanted=wanted):
            torch.save({**whole, outline.KEY: outline.outline(whole)}, file)
        for old in self.files()[KEPT:]:
            old.unlink(missing_ok=True)
        shards.drop(self.folder, {file.stem for file in self.files()}, path.stem, state)
        return path

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Return the content of a checkpoint.


        Raises:
            ValueError: with a clause as message, if the file is damaged or not a checkpoint of this library.
        """
        try:
            content = torch_content(path)
        except ChangedError as error:
            raise ValueError(f"'{path.name}' is damaged: {error}") from None
        except Exception as error:  # other bytes can raise anything
            raise ValueError(f"'{path.name}' is truncated or foreign ({type(error).__name__})") from None
        present = isinstance(content, dict) and content.get("congruence") == FORMAT
        if present and not shards.complete(path.parent, content):
            raise ValueError(f"'{path.name}' is damaged: its folder '{content[shards.KEY]}' is missing or incomplete")
        if present and (changed := outline.fault(content)):
            raise ValueError(f"'{path.name}' is damaged: {changed}")
        try:
            state = migrate_checkpoint(content) if isinstance(content, dict) else None
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:  # of an older one
            raise ValueError(f"'{path.name}' is damaged: its parts are not those of a checkpoint ({error})") from None
        if state is None:
            raise ValueError(f"'{path.name}' was not written by this version of congruence")
        state.pop(outline.KEY, None)
        return state

    def load(self) -> dict[str, Any] | None:
        """Load the newest intact checkpoint; None if there are no checkpoints.


        Raises:
            ValueError: if there are checkpoints but none can be read.
        """
        files = self.files()
        reasons = []
        for path in files:
            try:
                return self.read(path)
            except ValueError as error:
                reasons.append(str(error))
                LOG.warning("%s: trying the one before.", error)
        if files:
            raise ValueError(f"No checkpoint in '{self.folder}' can be read: {'; '.join(reasons)}.")
        return None

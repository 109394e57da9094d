"""A run directory: what run it holds, its students' files and its summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from congruence.core import check
from congruence.core.files import writable, write_json
from congruence.methods.term import current_descriptions
from congruence.models.weights import save_weights
from congruence.training.saving.checkpoint import Checkpoints, said

LOG = logging.getLogger("congruence")


class RunDirectory:
    """The folder of one run.

    It holds `run.json` (what makes the run the run it is), `metrics.jsonl`, `checkpoints/`, `student.safetensors` (the
    best epoch's), `student-last.safetensors` and, once finished, `summary.json`.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = writable(path) if writes else path
        self.writes = writes
        self.checkpoints = Checkpoints(path / "checkpoints")

    def open(self, description: Mapping[str, Any], *, resume: bool) -> dict[str, Any] | None:
        """Claim the folder for a run, or find this very run in it; return its last checkpoint where there is one.

        Raises:
            ValueError: where it holds another run, or this one and `resume` is off. Nothing in it is touched.
        """
        told = self.path / "run.json"
        now = json.loads(json.dumps(description))
        before = self._told()
        if before is not None:  # an older version may have named parts of a weight otherwise
            before["terms"] = current_descriptions(before["terms"])
        if before is None or ((before != now or not resume) and not self._begun()):
            if resume:
                LOG.info("There is no run in '%s' yet: starting it.", self.path)
            with said(told):
                self.checkpoints.clear()
                write_json(told, now)
            return None
        if before != now:
            raise ValueError(
                f"The folder '{self.path}' holds another run ({check.difference(before, now)}): choose another `out`. "
                f"Nothing in it was changed."
            )
        if not resume:
            raise ValueError(
                f"The folder '{self.path}' holds this run already: resume it (resume=True, or --resume), or choose "
                f"another `out`. Nothing in it was changed."
            )
        state = self.checkpoints.load()
        if state is None and self._begun():
            raise ValueError(f"The run in '{self.path}' has lost its checkpoints: choose another `out`.")
        return state

    def _told(self) -> dict[str, Any] | None:
        path = self.path / "run.json"
        try:
            told = json.loads(path.read_text(encoding="utf8")) if path.exists() else None
        except ValueError:
            told = "no JSON"
        if told is not None and not (isinstance(told, dict) and {"terms", "options"} <= set(told)):
            raise ValueError(f"The file '{path}' is damaged or foreign: choose another `out`. Nothing was changed.")
        return told

    def _begun(self) -> bool:
        """Whether the run has made a step that is kept: one that has not may make way for another."""
        metrics = self.path / "metrics.jsonl"
        return self.checkpoints.last() > 0 or (metrics.exists() and metrics.stat().st_size > 0)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run."""
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf8")) if path.exists() else None

    def student_file(self, name: str, *, last: bool = False) -> Path:
        """Return the file of a student: "student.safetensors", or "student-NAME.safetensors" of several."""
        stem = "student" if name == "student" else f"student-{name}"
        return self.path / f"{stem}{'-last' if last else ''}.safetensors"

    def save_student(self, name: str, state: Mapping[str, Tensor], *, last: bool = False) -> None:
        """Write a student's weights."""
        if self.writes:
            path = self.student_file(name, last=last)
            with said(path):
                save_weights(dict(state), path, metadata={"format": "pt"})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, by which a run counts as finished."""
        if self.writes:
            path = self.path / "summary.json"
            with said(path):
                write_json(path, summary)

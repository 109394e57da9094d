"""A run directory: the names of its files, what run it holds, and the files that `fit` writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.files import atomic, writable, write_json
from congruence.models.weights import load_weights, save_weights
from congruence.training.saving.checkpoint import Checkpoints, naming_write_errors
from congruence.training.saving.migrate import migrate_identity, without_younger

LOG = logging.getLogger("congruence")
_SUFFIX = ".safetensors"
_LAST = "-last"
_ONLY = "student"  # the name of a single student


class RunDirectory:
    """The folder of one run: the only place that knows what its files are called.

    Args:
        path: of the folder.
        writes: whether this process writes into it; the folder is made then.

    Attributes:
        identity: run.json, what makes the run the run it is.
        metrics: metrics.jsonl.
        summary_file: summary.json, by which a run counts as finished.
        config: config.toml, the resolved configuration, where one was given.
        students: students.json, how each student is built again.
        teacher_cache: the folder of the teacher's answers, unless another is named.
        superclasses: the superclasses of the teacher's features, where a sampler asks for them.
        teacher_head: the embedding head fitted on a given teacher.
        tensorboard: the folder of event files.
        checkpoints: see `Checkpoints`.
    """

    FOLDERS = ("checkpoints", "tensorboard", "teacher-cache")  # which no stage can be called: its folder lies there too

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        self.path = writable(path) if writes else path
        self.writes = writes
        self.identity = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.config = path / "config.toml"
        self.students = path / "students.json"
        self.superclasses = path / f"superclasses{_SUFFIX}"
        self.teacher_head = path / f"teacher-head{_SUFFIX}"
        checkpoints, self.tensorboard, self.teacher_cache = (path / name for name in self.FOLDERS)
        self.checkpoints = Checkpoints(checkpoints)

    def student_file(self, name: str = _ONLY, *, last: bool = False) -> Path:
        """Return the file of a student: "student.safetensors", or "student-NAME.safetensors" of several."""
        stem = _ONLY if name == _ONLY else f"{_ONLY}-{name}"
        return self.path / f"{stem}{_LAST if last else ''}{_SUFFIX}"

    def student_files(self, *, last: bool = False) -> dict[str, Path]:
        """Return the students' files that are there, by the students' names."""
        end = f"{_LAST}{_SUFFIX}" if last else _SUFFIX
        files = [path for path in sorted(self.path.glob(f"{_ONLY}*{end}")) if last or not path.stem.endswith(_LAST)]
        return {path.name.removesuffix(end).removeprefix(f"{_ONLY}-"): path for path in files}

    def test_file(self, name: str = _ONLY) -> Path:
        """Return the file of a student's test numbers: "test.json", or "test-NAME.json" of several."""
        return self.path / ("test.json" if name == _ONLY else f"test-{name}.json")

    def open(self, identity: Mapping[str, Any], *, resume: bool) -> dict[str, Any] | None:
        """Claim the folder for a run, or find this very run in it; return its last checkpoint where there is one.

        Raises:
            ValueError: where it holds another run, or this one and `resume` is off. Nothing in it is touched.
        """
        now = json.loads(json.dumps(identity))
        before, same = self._recorded_identity(), migrate_identity(now)
        same = without_younger(same, same if before is None else before)
        if before is None or ((before != same or not resume) and not self._begun()):
            if resume:
                LOG.info("There is no run in '%s' yet: starting it.", self.path)
            with naming_write_errors(self.identity):
                self.checkpoints.clear()
                write_json(self.identity, now)
            return None
        if before != same:
            raise ValueError(
                f"The folder '{self.path}' holds another run ({check.difference(before, same)}): choose another `out`. "
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

    def _recorded_identity(self) -> dict[str, Any] | None:
        try:
            recorded = json.loads(self.identity.read_text(encoding="utf8")) if self.identity.exists() else None
        except ValueError:
            recorded = "no JSON"
        if recorded is None:
            return None
        if not (isinstance(recorded, dict) and {"terms", "options"} <= set(recorded)):
            raise ValueError(
                f"The file '{self.identity}' is damaged or foreign: choose another `out`. Nothing was changed."
            )
        return migrate_identity(recorded)

    def _begun(self) -> bool:
        """Whether the run has made a step that is kept: one that has not may make way for another."""
        return self.checkpoints.last() > 0 or (self.metrics.exists() and self.metrics.stat().st_size > 0)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run."""
        return json.loads(self.summary_file.read_text(encoding="utf8")) if self.summary_file.exists() else None

    def save_student(self, name: str, state: Mapping[str, Tensor], *, last: bool = False) -> None:
        """Write a student's weights; what its state holds beside tensors (extra states) goes into another."""
        if self.writes:
            path = self.student_file(name, last=last)
            tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            with naming_write_errors(path):
                save_weights(tensors, path, metadata={"format": "pt"})
            if len(tensors) < len(state):
                with naming_write_errors(_beside(path)), atomic(_beside(path)) as file:
                    torch.save({key: value for key, value in state.items() if key not in tensors}, file)

    def load_student(self, name: str) -> dict[str, Any]:
        """Return what `save_student` wrote of the best epoch."""
        path = self.student_file(name)
        beside = _beside(path)
        more = torch.load(beside, map_location="cpu", weights_only=True) if beside.exists() else {}
        return {**load_weights(path), **more}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, by which a run counts as finished."""
        if self.writes:
            with naming_write_errors(self.summary_file):
                write_json(self.summary_file, summary)


def _beside(path: Path) -> Path:
    """Return the file of what a student's state holds beside tensors."""
    return path.with_name(f"{path.stem}-extra.pt")

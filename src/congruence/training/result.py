"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`.

    Args:
        steps: optimizer steps made.
        epochs: epochs finished.
        best_epoch: each student's best epoch, counted from 0, chosen on validation (the last without validation).
        best: each student's validation numbers at its best epoch.
        last: validation numbers of the last epoch.
        history: validation numbers, one entry for each epoch.
        seconds: seconds of training, over all resumptions.
        out: the run directory.
        student_files: each student's best weights, by name.
        best_states: each student's best weights, in memory.
        untaught: the parts of each student that no term trained, by the student's name; no entry if all were trained.
    """

    steps: int
    epochs: int
    best_epoch: dict[str, int]
    best: dict[str, dict[str, float]]
    last: dict[str, float]
    history: tuple[dict[str, float], ...]
    seconds: float
    out: Path | None
    student_files: dict[str, Path]
    best_states: dict[str, dict[str, Any]] = field(repr=False)
    untaught: dict[str, list[str]] = field(default_factory=dict)

    @property
    def student_file(self) -> Path:
        """The file of the single student; raises if there are several."""
        if len(self.student_files) != 1:
            raise ValueError(f"This run left {len(self.student_files)} student files: {list(self.student_files)}.")
        return next(iter(self.student_files.values()))

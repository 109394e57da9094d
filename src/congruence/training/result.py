"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FitResult:
    """What a run ended with.

    Args:
        steps: optimizer steps made.
        epochs: epochs finished.
        best_epoch: of each student, from 0, chosen on validation (the last where there is none).
        best: validation numbers of that epoch.
        last: validation numbers of the last epoch.
        history: one entry an epoch.
        seconds: of training, over all resumptions.
        out: the run directory.
        student_files: each student's best weights, by name.
        best_states: the same weights in memory.
        untaught: the parts of each student that no term reached, by its name; without an entry where all were.
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
        """The single student's file."""
        if len(self.student_files) != 1:
            raise ValueError(f"This run left {len(self.student_files)} student files: {list(self.student_files)}.")
        return next(iter(self.student_files.values()))

"""The best epoch of each student, chosen on validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from congruence.core import check
from congruence.training.saving.migrate import ANY_MONITOR
from congruence.training.saving.run_directory import RunDirectory
from congruence.training.saving.state import RefusedError


class Best:
    """Keeps epoch, numbers and weights of each student's best epoch (the last epoch if nothing is measured)."""

    def __init__(self, students: tuple[str, ...], monitor: str | None) -> None:
        self.students, self.monitor = students, monitor
        self.epochs: dict[str, int] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.states: dict[str, dict[str, Tensor]] = {}

    def update(self, epoch: int, metrics: Mapping[str, float]) -> list[str]:
        """Return the students for whom this epoch is the best so far."""
        improved = []
        for name in self.students:
            key = self._key(name, metrics)
            before = self.metrics.get(name)
            if key is None or before is None or self._better(name, key, metrics, before):
                self.epochs[name], self.metrics[name] = epoch, dict(metrics)
                improved.append(name)
        return improved

    def _better(self, student: str, key: str, now: Mapping[str, float], before: Mapping[str, float]) -> bool:
        """Compare the monitored number; ties, which are frequent on small sets, go to the smaller loss."""
        if now[key] != before[key]:
            return _better(key, now[key], before[key])
        losses = [name for name in (f"loss/{student}", "loss") if name in now and name in before]
        return bool(losses) and now[losses[0]] < before[losses[0]]

    def _key(self, student: str, metrics: Mapping[str, float]) -> str | None:
        """Return the deciding number's key: `monitor`, else accuracy, else the first; a student's own comes first."""
        if not metrics:
            return None
        first = next(iter(metrics))
        wanted = [self.monitor] if self.monitor else ["accuracy", first.removesuffix(f"/{self.students[0]}"), first]
        for name in wanted:
            for key in (f"{name}/{student}", name):
                if key in metrics:
                    return key
        near = check.near(str(self.monitor), metrics)
        raise ValueError(f"`FitOptions`: `monitor` must be one of {', '.join(metrics)}, got '{self.monitor}'.{near}")

    def expects(self, names: Iterable[str]) -> None:
        """Check, before the first step, that the monitored number of every student is among the given names."""
        for student in self.students:
            self._key(student, dict.fromkeys(names, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores; the weights are in the students' files."""
        return {"epochs": self.epochs, "metrics": self.metrics, "monitor": self.monitor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; raise if another number is monitored now: only the earlier choice's weights exist."""
        before = state["monitor"]
        if state["epochs"] and before not in (self.monitor, ANY_MONITOR):
            raise RefusedError(
                f"The run in `out` chose its best epoch by `monitor` {before!r}, this one by {self.monitor!r}: choose "
                f"another `out`. Nothing in it was changed."
            )
        self.epochs, self.metrics = dict(state["epochs"]), dict(state["metrics"])

    def read(self, directory: RunDirectory) -> dict[str, dict[str, Tensor]]:
        """Return the best weights from their files."""
        return {name: directory.load_student(name) for name in self.epochs}


def _better(name: str, now: float, before: float) -> bool:
    if before != before:  # nan: anything finite is better
        return now == now
    return now < before if "loss" in name or "error" in name else now > before

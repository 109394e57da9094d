"""The best epoch of each student, chosen on validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from congruence.core import check
from congruence.training.saving.migrate import ANY_MONITOR
from congruence.training.saving.run_directory import RunDirectory
from congruence.training.saving.state import RefusedError

LOG = logging.getLogger("congruence")


def standard_error(accuracy: float, samples: int) -> float:
    """Return the standard error √(p (1 − p) / n) of an accuracy measured on n samples.

    p = (accuracy · n + 1) / (n + 2), so that n right answers of n do not count as a certain accuracy of 1.

    Example:
        >>> round(standard_error(0.9, 1000), 4), round(standard_error(1.0, 18), 4)
        (0.0095, 0.0514)
    """
    p = (accuracy * samples + 1) / (samples + 2)
    return math.sqrt(p * (1 - p) / samples)


class Best:
    """Keeps epoch, numbers and weights of each student's best epoch (the last epoch if nothing is measured).

    Args:
        students: their names.
        monitor: the deciding number, see `FitOptions`.
        one_standard_error: whether an epoch whose accuracy is within one standard error of the highest replaces it.
    """

    def __init__(self, students: tuple[str, ...], monitor: str | None, *, one_standard_error: bool = False) -> None:
        self.students, self.monitor, self.one_standard_error = students, monitor, one_standard_error
        self.epochs: dict[str, int] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.states: dict[str, dict[str, Tensor]] = {}
        self.highest: dict[str, tuple[int, float, float]] = {}  # epoch, accuracy and its error, where that rule holds

    def update(self, epoch: int, metrics: Mapping[str, float], samples: int | None = None) -> list[str]:
        """Return the students for whom this epoch is the best so far.

        Args:
            epoch: counted from 0.
            metrics: the validation's numbers.
            samples: how many samples (or positions) the accuracy is of, if that is known.
        """
        improved = []
        for name in self.students:
            key = self._key(name, metrics)
            before = self.metrics.get(name)
            if key is not None and samples and self.one_standard_error and key.partition("/")[0] == "accuracy":
                chosen = self._as_good(name, epoch, metrics[key], samples) or before is None
            else:
                chosen = key is None or before is None or self._better(name, key, metrics, before)
            if chosen:
                self.epochs[name], self.metrics[name] = epoch, dict(metrics)
                improved.append(name)
        return improved

    def _as_good(self, student: str, epoch: int, accuracy: float, samples: int) -> bool:
        """Whether an accuracy is within one standard error of the highest so far, which it may be itself."""
        if math.isnan(accuracy):
            return False
        if student not in self.highest or accuracy > self.highest[student][1]:
            self.highest[student] = (epoch, accuracy, standard_error(accuracy, samples))
        _, highest, error = self.highest[student]
        return accuracy >= highest - error

    def tell(self) -> None:
        """Log where the last epoch as good as the highest was chosen in its place."""
        for name, (epoch, accuracy, error) in self.highest.items():
            if epoch != self.epochs[name]:
                LOG.info(
                    "The best epoch of '%s' is %d: the last whose validation accuracy is not more than one standard "
                    "error (%.3f) below the highest, %.3f after epoch %d.",
                    *(name, self.epochs[name] + 1, error, accuracy, epoch + 1),
                )

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
        chosen = {"epochs": self.epochs, "metrics": self.metrics, "monitor": self.monitor}
        return chosen | {"highest": {name: list(each) for name, each in self.highest.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; raise if another number is monitored now: only the earlier choice's weights exist."""
        before = state["monitor"]
        if state["epochs"] and before not in (self.monitor, ANY_MONITOR):
            raise RefusedError(
                f"The run in `out` chose its best epoch by `monitor` {before!r}, this one by {self.monitor!r}: choose "
                f"another `out`. Nothing in it was changed."
            )
        self.epochs, self.metrics = dict(state["epochs"]), dict(state["metrics"])
        self.highest = {name: (epoch, *of) for name, (epoch, *of) in state.get("highest", {}).items()}

    def read(self, directory: RunDirectory) -> dict[str, dict[str, Tensor]]:
        """Return the best weights from their files."""
        return {name: directory.load_student(name) for name in self.epochs}


def _better(name: str, now: float, before: float) -> bool:
    if before != before:  # nan: anything finite is better
        return now == now
    return now < before if "loss" in name or "error" in name else now > before

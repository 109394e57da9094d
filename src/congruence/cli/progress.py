"""Progress of a run: a bar on a terminal, elsewhere one line for each epoch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from congruence.cli.say import say
from congruence.core.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from congruence.training.options import Callback, Event


def numbers(metrics: Mapping[str, Any]) -> str:
    """Format the numbers of a record as "loss 0.1234  ce 0.0567", without its epoch and step."""
    apart = ("step", "epoch", "lr", "gradient_norm")
    shown = [(name, value) for name, value in metrics.items() if isinstance(value, int | float) and name not in apart]
    return "  ".join(f"{name} {value:.4g}" for name, value in shown)


class Reporter:
    """Shows the stages of a run; called with a stage's name, it returns callbacks for `fit`.

    Args:
        live: draw a bar; by default if stdout is a terminal.
    """

    def __init__(self, *, live: bool | None = None) -> None:
        self.live = sys.stdout.isatty() if live is None else live
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        if self.live:
            self._progress = _started()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    def __call__(self, stage: str) -> Sequence[Callback]:
        """Return the callbacks of a stage."""
        return (self._bar(stage, self._progress) if self._progress else _lines(stage),)

    def _bar(self, stage: str, progress: Progress) -> Callback:
        task: TaskID | None = None

        def show(event: Event) -> None:
            nonlocal task
            if task is None:
                task = progress.add_task(printable(stage), total=event.steps, shown="")
            progress.update(task, completed=event.step, description=printable(f"{stage} {_epoch(event)}"))
            if event.kind in ("log", "epoch"):
                progress.update(task, shown=printable(numbers(event.metrics)))

        return show


def _started() -> Progress:
    """Start bars with a description, a count, the remaining time and their field `shown`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # No markup: a name such as "[/x]" is text.
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bars = Progress(*columns, TextColumn("{task.fields[shown]}", markup=False))
    bars.start()
    return bars


@contextlib.contextmanager
def progress(stage: str) -> Iterator[Callback]:
    """Show one stage for the duration of a block; yields its callback."""
    with Reporter() as reporter:
        yield reporter(stage)[0]


class Cells:
    """Shows the cells of a plan as they finish: a bar on a terminal, elsewhere one line for each cell."""

    def __init__(self, *, live: bool | None = None) -> None:
        self.live = sys.stdout.isatty() if live is None else live
        self._progress: Progress | None = None

    def __call__(self, row: Mapping[str, Any], done: int, total: int) -> None:
        """Show a finished cell."""
        name = " ".join(part for part in (row["method"], row["variant"]) if part)
        if "failed" in row:
            text = f"{name}, seed {row['seed']}: failed: {row['failed']}"
        elif "accuracy" in row:  # a trial of a search
            found = row.get("found", {}) if "candidate" in row else {"weight ×": row["factor"]}
            tried = ", ".join(f"{key} {value:g}" for key, value in found.items()) or "as it is"
            rung = f", {row['epochs']} epochs" if "candidate" in row else ""
            text = f"{name}, {tried}{rung}: validation accuracy {row['accuracy']:.4f}"
        else:
            text = f"{name}, seed {row['seed']}: {_result(row)}"
        if not self.live:
            say(f"{done}/{total}  {text}")
            return
        if self._progress is None:
            self._progress = _started()
            self._task = self._progress.add_task("students", total=total, shown="")
        self._progress.update(self._task, completed=done, shown=printable(text))

    def close(self) -> None:
        """Stop the bar and restore the terminal."""
        if self._progress:
            self._progress.stop()


def _result(row: Mapping[str, Any]) -> str:
    from congruence.evaluation.numbers import numbers_in

    for key in ("accuracy_best", "retrieval_map"):
        number = numbers_in("plan")[key]
        if row.get(key) is not None:
            return f"{number.label} {row[key]:{number.form}}"
    return "trained"


def _lines(stage: str) -> Callback:
    trained = ""

    def show(event: Event) -> None:
        nonlocal trained
        if event.kind == "log":
            trained = numbers(event.metrics)
        if event.kind == "epoch":
            validated = f"  validation: {numbers(event.metrics)}" if event.metrics else ""
            say(f"{stage}: {_epoch(event)}, step {event.step}/{event.steps}  {trained}{validated}")

    return show


def _epoch(event: Event) -> str:
    return f"epoch {min(event.epoch + 1, event.epochs)}/{event.epochs}"

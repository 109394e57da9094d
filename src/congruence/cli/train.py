"""What `teach` and `distill` share: running, measuring on the test set, and printing the student's path."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congruence.cli.progress import Reporter
from congruence.cli.progress import numbers as written
from congruence.cli.say import say

if TYPE_CHECKING:
    from torch import nn

    from congruence.config import RunConfig
    from congruence.data import BatchDataset, Splits
    from congruence.evaluation import Number
    from congruence.evaluation.embed import Embedded
    from congruence.evaluation.kept import KeptRows
    from congruence.evaluation.measure import Seen
    from congruence.evaluation.protocol import Fitted
    from congruence.pipeline.stages import StageRun
    from congruence.training.saving.run_directory import RunDirectory

LOG = logging.getLogger("congruence")
Numbers = Mapping[str, Mapping[str, Any]]


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool,
    trust: bool,
    only: str | None = None,
    splits: Splits | None = None,
    metrics: Sequence[str] = (),
) -> None:
    """Run a configuration, measure the last stage's students on the test set, and print their paths."""
    from congruence.core import ranks
    from congruence.evaluation.own import own_numbers
    from congruence.pipeline import run
    from congruence.training.saving.run_directory import RunDirectory

    allow(trust)
    own = own_numbers(metrics, trust=trust)
    with Reporter() as reporter:
        finished = run(config, out, resume=resume, trust=trust, callbacks=reporter, only=only, splits=splits)
    if ranks.rank() != 0:
        return
    stage = only or config.last
    ended = finished[stage]
    if not len(ended.splits.test):
        say("The data holds no test images: no test numbers were measured.", err=True)
    taught = functools.cache(functools.partial(_taught, ended, RunDirectory(out), config.stages[stage].train.device))
    for name in ended.students if len(ended.splits.test) else ():
        several = len(ended.students) > 1
        tested = _tested(ended, name, RunDirectory(out), config.stages[stage].train.device, own, taught)
        say(table(tested, title=name if several else "test set"), lines=True)
    if weights := _balanced(RunDirectory(out).metrics):
        say(f"balanced weights, from the last line of metrics.jsonl: {written(weights)}")
    for name, path in ended.result.student_files.items():
        say(f"{name}: {path}")
    if config.diagnostics is not None:
        say(f"diagnostics: {RunDirectory(out).metrics}")


def allow(trust: bool) -> None:
    """Let factories and metrics be imported from the working directory, as with `python`."""
    if trust and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _balanced(metrics: Path) -> dict[str, float]:
    """Return the balanced weights that a run logged last."""
    from congruence.core.files import read_lines

    rows = read_lines(metrics, {"weights?": {"*": float}, "*": object})
    found: dict[str, float] = next((row["weights"] for row in reversed(rows) if row.get("weights")), {})
    return found


def _taught(ended: StageRun, directory: RunDirectory, device: str) -> dict[str, Seen]:
    """Return each teacher's embeddings of the images, read from the run's folder or saved there."""
    from congruence.evaluation.kept import KeptRows
    from congruence.training.distributed import pick_device

    kept = KeptRows(directory.teacher_rows)
    return seen_of(ended.teachers, ended.splits, pick_device(device), kept, ended.protocol)


def _tested(
    ended: StageRun,
    name: str,
    directory: RunDirectory,
    device: str,
    own: Sequence[Number],
    taught: Callable[[], Mapping[str, Seen]],
) -> Numbers:
    """Measure the best and the last weights and the teachers; later calls read the saved file.

    With several teachers, the students have separate columns for each. If the file lacks a metric that a package or the
    user has added, everything is measured again. If the last epoch was the best, its weights are measured once.
    """
    from congruence.core.content import same_content
    from congruence.core.files import write_json
    from congruence.data.datasets.model_facts import ModelFacts, check_same_classes
    from congruence.evaluation.measure import has_labels, run_numbers, see
    from congruence.evaluation.stored import lacking, test_numbers
    from congruence.models import load_into, load_weights
    from congruence.training.distributed import pick_device
    from congruence.training.saving.migrate import migrate_numbers

    path, before, protocol = directory.test_file(name), {}, ended.protocol
    numbers = run_numbers(own, labelled=has_labels(ended.splits.test))
    wanted = (*numbers, *(protocol.numbers if protocol is not None else ()))
    if path.exists():
        try:
            before = {column: migrate_numbers(values) for column, values in test_numbers(path).items()}
        except ValueError as error:
            LOG.warning("%s The student is measured again.", error)
        if before and not lacking(next(iter(before.values())), wanted):
            return before
    student, teachers, train = ended.students[name], taught(), ended.splits.train
    beside = {of: teacher.as_teacher(ended.splits) for of, teacher in teachers.items()}

    def measured(weights: str) -> dict[str, dict[str, Any]]:
        if ended.classifies:
            check_same_classes(student, ModelFacts.of(train))
        seen = see(student, ended.splits, numbers, device=pick_device(device), protocol=protocol)
        columns = measured_beside(seen, numbers, beside, weights, classifies=ended.classifies, protocol=protocol)
        beside.update({of: rows._replace(left_out="") for of, rows in beside.items()})  # which has been told
        return columns

    tested = measured("best")
    best = {key: value.clone() for key, value in student.state_dict().items()}
    last = load_weights(directory.student_file(name, last=True))
    if same_content({key: value.cpu() for key, value in best.items() if key in last}, last):
        tested |= {f"last{column.removeprefix('best')}": dict(values) for column, values in tested.items()}
    else:
        load_into(student, last, source="the last epoch")
        tested |= measured("last")
        load_into(student, best, source="the best epoch")
    tested |= measured_alone(teachers, train, protocol)
    tested = {column: {**before.get(column, {}), **values} for column, values in tested.items()}
    write_json(path, tested)
    return tested


def seen_of(
    teachers: Mapping[str, nn.Module],
    splits: Splits,
    device: Any,
    kept: KeptRows | None,
    protocol: Fitted | None = None,
) -> dict[str, Seen]:
    """Return each teacher's embeddings of the images, including those that a protocol needs."""
    from congruence.core.inputs import TEACHER
    from congruence.evaluation.measure import run_numbers, see

    asked: dict[str, Any] = {"kind": TEACHER, "device": device, "kept": kept, "protocol": protocol}
    return {name: see(teacher, splits, run_numbers(), name=name, **asked) for name, teacher in teachers.items()}


def measured_alone(
    teachers: Mapping[str, Seen], train: BatchDataset, protocol: Fitted | None = None
) -> dict[str, dict[str, Any]]:
    """Return a column of numbers for each teacher, by its displayed name."""
    from congruence.evaluation.measure import knows_classes, measure_seen, run_numbers
    from congruence.models.teacher import called

    return {
        called(name): measure_seen(
            seen, run_numbers(), classifies=knows_classes(seen.model, train, name), protocol=protocol
        ).to_dict()
        for name, seen in teachers.items()
    }


def measured_beside(
    seen: Seen,
    numbers: Sequence[Number],
    teachers: Mapping[str, Embedded],
    column: str,
    *,
    classifies: bool,
    protocol: Fitted | None = None,
) -> dict[str, dict[str, Any]]:
    """Return a student's columns: one, or with several teachers, one for each."""
    from congruence.evaluation.measure import measure_seen

    how: dict[str, Any] = {"classifies": classifies, "protocol": protocol}
    if not teachers:
        return {column: measure_seen(seen, numbers, **how).to_dict()}
    return {
        column if len(teachers) == 1 else f"{column}, {of}": measure_seen(
            seen, numbers, teacher=teacher, **how
        ).to_dict()
        for of, teacher in teachers.items()
    }


def table(columns: Numbers, *, title: str, detail: bool = False) -> str:
    """Format test numbers with a column for each model; `detail` adds the numbers marked as details.

    Example:
        >>> print(table({"best": {"accuracy": 0.5, "parameters": 1200}}, title="test set"))
        test set              best
        accuracy            0.5000
        parameters           1,200
    """
    from congruence.core.printable import printable
    from congruence.evaluation.stored import described

    lines = [(printable(title), list(map(printable, columns)))]
    numbers = described("run", [key for column in columns.values() for key in column])
    for number in sorted(numbers, key=lambda number: number.detail):
        label = printable(number.key) if number.label is None else number.label
        values = [column.get(number.key) for column in columns.values()]
        if label and (detail or not number.detail) and any(value is not None for value in values):
            lines.append((label, ["-" if value is None else format(value, number.form) for value in values]))
    longest = max(len(label) for label, _ in lines)
    width = max(16, longest + (longest > 16))
    widths = [
        max(10, *(len(cell) + 2 for cell in column)) for column in zip(*(cells for _, cells in lines), strict=True)
    ]
    return "\n".join(
        label.ljust(width) + "".join(cell.rjust(wide) for cell, wide in zip(line, widths, strict=True))
        for label, line in lines
    )


def folder(out: Path | None, config: RunConfig) -> Path:
    """Return the run's folder: the one given, or runs/NAME.

    Raises:
        ValueError: for a name whose folder would lie outside runs/, or that cannot be a folder's name.
    """
    from congruence.core import names
    from congruence.core.brevity import brief

    parts = config.name.split("/")
    wrong = next(filter(None, map(names.wrong, parts)), "")
    if out is None and wrong:
        got = brief(config.name)
        raise ValueError(
            f"The name of the configuration must be of parts {wrong}, got {got}: rename it, or give --out."
        )
    return out or Path("runs", *parts)

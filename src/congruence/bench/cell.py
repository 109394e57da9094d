"""Run one cell of a plan: train, measure on the test split once, and write one result."""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from congruence.bench.failed import FAILED, sentence
from congruence.bench.identity import Made
from congruence.bench.plan import Cell
from congruence.bench.teachers import digest_of
from congruence.bench.written import MADE, NUMBERS, ROW, TRIAL
from congruence.config.references import StudentRef
from congruence.config.schema import RunConfig
from congruence.config.tables import ModelConfig
from congruence.core.content import same_content
from congruence.core.files import naming, read_json, read_lines, write_json
from congruence.core.inputs import TEACHER
from congruence.core.kinds import ANY_TABLE
from congruence.data import Splits
from congruence.evaluation.embed import Embedded
from congruence.evaluation.kept import KeptRows
from congruence.evaluation.measure import embed_test, knows_classes, measured, of_seen, see
from congruence.evaluation.number import Number, Value
from congruence.evaluation.numbers import measured_in
from congruence.evaluation.own import own_numbers
from congruence.evaluation.stored import lacking
from congruence.models.parameters import count_parameters
from congruence.pipeline.build import as_teachers_take, build_teacher
from congruence.pipeline.context import RunContext
from congruence.pipeline.measured_by import protocol_of
from congruence.pipeline.stages import StageRun, run
from congruence.pipeline.student import load_student
from congruence.training import NonFiniteLossError
from congruence.training.saving.migrate import migrate_numbers
from congruence.training.saving.run_directory import RunDirectory

RESULT, FAILURE, RUNNING = "cell.json", "failed.json", ".running"
Row = dict[str, Any]
_NAME = ("method", "variant", "seed")


@dataclass(frozen=True)
class Job:
    """A cell, its folder, the weights of its teacher (None without a teacher), and whether it is a trial.

    A trial is judged on validation and never uses the test split. `metrics` are the user's metrics, as text, because
    jobs are sent to other processes; `trust` allows importing them and the configuration's factories. `shared` is the
    folder for files that the cells of one teacher share (by default that of its weights), `made` is everything that
    determines the numbers.
    """

    cell: Cell
    folder: Path
    weights: Path | None
    trial: bool = False
    metrics: tuple[str, ...] = ()
    trust: bool = False
    shared: Path | None = None
    made: Made | None = None

    def numbers(self) -> tuple[Number, ...]:
        """Return the numbers by which the cell is measured."""
        return (*measured_in("plan"), *own_numbers(self.metrics, trust=self.trust))

    def finished(self) -> Row | None:
        """Return the result of a cell that is finished and has every number.


        Raises:
            ValueError: if the folder holds the result of another configuration.
        """
        result = self.stored()
        return None if result is None or (not self.trial and lacking(result, self.numbers())) else result

    def stored(self) -> Row | None:
        """Return the result in the folder.


        Raises:
            ValueError: if the folder holds the result of another configuration.
        """
        path = self.folder / RESULT
        if not path.exists():
            return None
        stored = read_json(path, {"key": str, "result": TRIAL if self.trial else ROW})
        if stored["key"] != self.cell.key():
            raise ValueError(
                f"The folder '{self.folder}' holds a cell of another plan or config: choose another --out. "
                "Nothing was changed."
            )
        return migrate_numbers(stored["result"])

    def failed(self) -> Row | None:
        """Return the row of a job that failed before; None if it did not fail, or was another job."""
        path = self.folder / FAILURE
        stored = read_json(path, {"key": str, "result": {**ROW, "failed": str}, "*": object}) if path.exists() else {}
        return stored["result"] if stored.get("key") == self.cell.key() else None

    def fail(self, why: str, trace: str = "") -> Row:
        """Store the reason for a failure, and return the row with it; a failed trial has no accuracy."""
        about = self.asked() | {"accuracy": None} if self.trial else {key: self.asked()[key] for key in _NAME}
        row = {**about, FAILED: why}
        told = {"traceback": trace.splitlines()} if trace else {}
        write_json(self.folder / FAILURE, {"key": self.cell.key(), "result": row, **told})
        return row

    def asked(self) -> Row:
        """Return the part of the row that identifies the run."""
        cell = self.cell
        row: Row = {"method": cell.method, "variant": cell.variant, "seed": cell.seed, "factor": cell.factor}
        if self.trial and cell.candidate is not None:
            row |= {"candidate": cell.candidate, "rung": cell.rung, "epochs": cell.epochs}
        return row | ({"found": dict(cell.found)} if cell.found else {})

    def take_over(self, line: Row) -> Row:
        """Store a kept line as the cell's result, and return it."""
        write_json(self.folder / RESULT, {"key": self.cell.key(), "result": line})
        return line

    def config(self) -> RunConfig:
        """Return the last stage with its teacher's weights; cells of one teacher share its cache."""
        config = self.cell.config
        return config.with_teacher(self.weights, cache=self.of_teacher) if self.weights else config

    @property
    def of_teacher(self) -> Path:
        """The folder of what the cells of one teacher share; without a common one, that of the cells."""
        return self.shared or (self.folder.parent if self.weights is None else self.weights.parent)


def teach(cell: Cell, teacher: StudentRef, folder: Path, made: Made | None = None, **options: Any) -> Row:
    """Train the stages that the cell's student learns from, unless finished; return the teacher's numbers.

    These include everything that determines them (`made`) and the hash of the resulting weights.
    """
    path = folder / "teacher.json"
    numbers = measured_in("plan")
    before = migrate_numbers(read_json(path, NUMBERS)) if path.exists() else {}
    if before and not lacking(before, numbers):
        return before
    made = _began(folder, made)
    with one_thread():
        trained = run(cell.config, folder, resume=True, only=teacher.stage, **options)[teacher.stage]
        kept = _rows_of_teacher(folder)  # of the network that teaches the cells, and of its own teacher
        taught = None if trained.teacher is None else embed_test(trained.teacher, trained.splits, kept=kept)
        row = {**before, **_numbers(trained, teacher.student, folder, taught, numbers, kept)}
    if made is not None and not before:
        row["made"] = {**made, "weights": digest_of(RunDirectory(folder).student_file(teacher.student))}
    write_json(path, row)
    return row


def measure_kept(cell: Cell, folder: Path, made: Made | None, *, trust: bool = False) -> Row:
    """Measure a kept teacher on the cell's data, unless that was done; return its numbers.

    It was not trained here: it has no seconds, and no last epoch.
    """
    path, numbers = folder / "teacher.json", measured_in("plan")
    if path.exists():
        before = migrate_numbers(read_json(path, NUMBERS))
        if before.get("made") == made and not lacking(before, numbers):
            return before
    with one_thread():
        context = RunContext(trust=trust).with_splits(cell.config.data)
        stage = _taught_by_kept(cell)
        teacher = build_teacher(cell.config, stage, context)
        if teacher is None or context.splits is None:
            raise ValueError(f"The row '{cell.row}' has no teacher.")
        facts = {"parameters": count_parameters(teacher)}
        splits = as_teachers_take(cell.config, stage, context.splits, {TEACHER: teacher})
        protocol = protocol_of(cell.config, splits)
        asked: Row = {"kept": _rows_of_teacher(folder), "protocol": protocol}
        seen = see(teacher, splits, numbers, name=TEACHER, kind=TEACHER, **asked)
        classes = knows_classes(teacher, splits.train)
        of = of_seen(seen._replace(test=seen.as_teacher(splits)))
        row: Row = {}
        for number in numbers:
            row |= measured([number], None if number.last else of, facts=facts, classifies=classes)
        if protocol is not None:
            row |= protocol.measure(of, seen.further, classifies=classes)
    row["made"] = made
    write_json(path, row)
    return row


def _taught_by_kept(cell: Cell) -> str:
    """Return the first stage that learns from the kept teacher."""
    stages = cell.config.stages.items()
    return next(name for name, stage in stages if isinstance(stage.teacher, ModelConfig) and stage.teacher.weights)


class Loaded:
    """Caches the data of the last configuration, which the cells of one process share."""

    def __init__(self) -> None:
        self._key = ""
        self._splits: Splits | None = None

    def splits(self, config: RunConfig, *, trust: bool) -> Splits | None:
        """Return the data of a configuration."""
        key = repr(config.data)
        if key != self._key:
            self._splits = None  # before the next is read
            self._splits, self._key = RunContext(trust=trust).with_splits(config.data).splits, key
        return self._splits


def attempt(job: Job, loaded: Loaded | None = None) -> Row:
    """Run a cell, and return its row; if it fails, the row has the reason."""
    try:
        with _marked(job.folder):
            return run_cell(job, loaded)
    except Exception as error:
        return job.fail(sentence(error), traceback.format_exc())


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[None]:
    """Say in a folder which process is at work there."""
    mark = folder / RUNNING
    folder.mkdir(parents=True, exist_ok=True)
    with naming(mark):
        mark.write_text(f"{socket.gethostname()} {os.getpid()}", encoding="utf8")
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def run_cell(job: Job, loaded: Loaded | None = None) -> Row:
    """Run a cell with one thread, and return its row."""
    config, began = job.config(), _began(job.folder, job.made)
    splits = (loaded or Loaded()).splits(config, trust=job.trust)
    with one_thread():
        numbers = _tried(config, job, splits) if job.trial else _measured(config, job, splits)
    before = job.stored()
    row = {**job.asked(), **(before or {}), **numbers}  # what was measured by another metric before stays
    made = row.pop("made", None) if before else began
    row |= {} if made is None else {"made": made}  # last in the line
    write_json(job.folder / RESULT, {"key": job.cell.key(), "result": row})
    (job.folder / FAILURE).unlink(missing_ok=True)  # of a try before
    return row


def _began(folder: Path, made: Made | None) -> Made | None:
    """Return what decides a run's numbers, None of one that began under something else and goes on."""
    path = folder / "made.json"
    if path.exists():
        return made if read_json(path, MADE) == made else None
    if made is None or RunDirectory(folder).identity.exists():
        return None
    write_json(path, made)
    return made


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: the number of threads changes the last bits, and cells run in parallel."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(config: RunConfig, job: Job, splits: Splits | None) -> Row:
    numbers = job.numbers()  # what cannot be imported shows before the training
    trained = run(config, job.folder, resume=True, trust=job.trust, splits=splits)[config.last]
    first = next(iter(trained.students))  # of several that teach each other
    taught = None
    if trained.teacher is not None:  # common to cells: its rows lie beside its weights, or where the plan's cells are
        kept = _rows_of_teacher(job.of_teacher)
        taught = embed_test(trained.teacher, trained.splits, kept=kept)
    return {**_numbers(trained, first, job.folder, taught, numbers), **_diagnosed(job.folder)}


def _diagnosed(folder: Path) -> Row:
    """Return what the diagnostics, where the plan has them, said after the first and the last epoch they looked at."""
    rows = read_lines(RunDirectory(folder).metrics, {"diagnostics?": ANY_TABLE, "*": object})
    lines = [row["diagnostics"] for row in rows if "diagnostics" in row]
    return {"diagnosed": {"first": lines[0], "last": lines[-1]}} if lines else {}


def _rows_of_teacher(folder: Path) -> KeptRows:
    return KeptRows(RunDirectory(folder).teacher_rows)


def _tried(config: RunConfig, job: Job, splits: Splits | None) -> Row:
    """Return a trial's validation accuracy (of the first student), 0 where its weight made the loss overflow."""
    try:
        trained = run(config, job.folder, resume=True, trust=job.trust, splits=splits)[config.last]
    except NonFiniteLossError:
        return {"accuracy": 0.0, "diverged": True}
    name, best = next(iter(trained.result.best.items()))
    accuracy = best.get(f"accuracy/{name}", best.get("accuracy"))
    if accuracy is None:
        method = job.cell.method
        raise ValueError(f"The weight of '{method}' is found by validation accuracy: its terms teach no class.")
    return {"accuracy": accuracy}


def _numbers(
    trained: StageRun,
    name: str,
    folder: Path,
    teacher: Embedded | None,
    numbers: Sequence[Number],
    kept: KeptRows | None = None,
) -> Row:
    """Return a row's numbers: those of the student of a name, whose rows are kept where that is given."""
    student, splits = trained.students[name], trained.splits
    facts = {"parameters": count_parameters(student), "seconds": round(trained.result.seconds, 3)}
    seen = see(student, splits, numbers, kept=kept, protocol=trained.protocol)
    of_best = of_seen(seen, teacher)
    of_last = None
    if trained.classifies:
        best = {key: value.clone() for key, value in student.state_dict().items()}
        last = load_student(folder, lambda: student, name=name, last=True)  # into the module that had the best weights
        of_last = of_best
        if not same_content(best, dict(last.state_dict())):
            of_last = of_seen(see(last, splits, [number for number in numbers if number.last]))
    values: dict[str, Value] = {}
    for number in numbers:
        of = of_last if number.last else of_best
        values |= measured([number], of, facts=facts, classifies=trained.classifies)
    if trained.protocol is not None:
        values |= trained.protocol.measure(of_best, seen.further, classifies=trained.classifies)
    return values

"""`Desk`: the jobs of a plan in a folder, which of them are done there, and for which there is a kept line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from congruence.bench.cell import Job, Row
from congruence.bench.identity import Identities, Made, differs
from congruence.bench.kept import RESULTS, TUNING, Shelf
from congruence.bench.plan import Cell, Plan
from congruence.bench.teachers import digest_of
from congruence.config.tables import DataConfig
from congruence.data import Splits
from congruence.evaluation.stored import lacking
from congruence.training.saving.run_directory import RunDirectory


class Desk:
    """What the jobs of one call of `run_plan` have in common.

    Args:
        plan: of them.
        out: the plan's folder.
        metrics: see `run_plan`.
        trust: see `run_plan`.
        afresh: see `run_plan`.
        retry: see `run_plan`.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        *,
        metrics: tuple[str, ...] = (),
        trust: bool = False,
        afresh: bool = False,
        retry: bool = False,
    ) -> None:
        self.plan, self.out, self.metrics, self.trust, self.retry = plan, out, metrics, trust, retry
        self.shelf = Shelf(None if plan.results is None else plan.results / plan.name, afresh=afresh)
        self._identities = Identities(trust=trust, same=self.shelf.same)
        self._taken: Counter[str] = Counter()
        self._older: Counter[str] = Counter()
        self._failed = 0

    def splits(self, data: DataConfig) -> Splits:
        """Return the data of a configuration."""
        return self._identities.splits(data)

    def settled(self) -> None:
        """Let go of the images, and of why lines did not fit before the teachers were there: `take` finds out again."""
        self._identities.forget_data()
        self.shelf.why.clear()

    # Teachers

    def folder_of(self, cell: Cell) -> Path:
        """Return the folder of a cell's teacher, which cells of the same one share."""
        return self.out / "teachers" / cell.teacher_key()

    def made_of_teacher(self, cell: Cell) -> Made | None:
        """Return what decides the numbers of a cell's teacher."""
        if cell.teacher is not None:
            return self._identities.of_teacher(cell.config, cell.teacher)
        return (
            None if cell.kept is None else self._identities.of_kept(cell.kept, cell.config.data, cell.config.protocol)
        )

    def kept_teacher(self, cell: Cell) -> Row | None:
        """Return the kept numbers of a cell's teacher."""
        row = self.shelf.teacher(self.made_of_teacher(cell))
        self._taken["teacher"] += row is not None
        return row

    def weights_of(self, cell: Cell) -> str | None:
        """Return the hash of the weights of the earlier stage that teaches a cell: here, or of what is kept."""
        if cell.teacher is None:
            return None
        folder = self.folder_of(cell)
        if (folder / "teacher.json").exists():  # else it may still be training
            return digest_of(RunDirectory(folder).student_file(cell.teacher.student))
        kept = self.shelf.teacher(self.made_of_teacher(cell))
        return None if kept is None else kept["made"].get("weights")

    # Jobs

    def jobs(self, cells: Sequence[Cell], *, trial: bool = False) -> dict[str, Job]:
        """Return the jobs of cells, by their names."""
        hashes: dict[str, str | None] = {}
        for cell in cells:
            if cell.teacher is not None and cell.teacher_key() not in hashes:
                hashes[cell.teacher_key()] = self.weights_of(cell)
        jobs = {}
        for cell in cells:
            name = cell.trial if trial else cell.name
            taught = hashes[cell.teacher_key()] if cell.teacher is not None else None
            known = cell.teacher is None or taught is not None
            jobs[name] = Job(
                cell,
                self.out / ("trials" if trial else "cells") / name,
                self._weights(cell),
                trial,
                self.metrics,
                self.trust,
                self.folder_of(cell) if cell.has_teacher else None,
                self._identities.of_cell(cell, taught) if known else None,
            )
        return jobs

    def _weights(self, cell: Cell) -> Path | None:
        if cell.teacher is not None:
            return RunDirectory(self.folder_of(cell)).student_file(cell.teacher.student)
        return None if cell.kept is None else cell.kept.weights

    def take(self, jobs: Mapping[str, Job]) -> dict[str, Row]:
        """Return the rows of the jobs that are done, having stored those that are kept, and of those that failed."""
        rows = {}
        for name, job in jobs.items():
            row = job.finished()
            if row is not None:
                why = differs(row, job.made) if job.made is not None and "made" in row else ""
                self._older.update([why] if why else [])
            else:
                line = self._kept(job)
                if line is not None:
                    row = job.take_over(line)
                    self._taken["trial" if job.trial else "cell"] += 1
                else:
                    row = self._failure(job)
                    self._failed += row is not None
            if row is not None:
                rows[name] = row
        return rows

    def begun(self, job: Job) -> bool:
        """Whether a job has a run in its folder, or a kept line."""
        return RunDirectory(job.folder).identity.exists() or self._kept(job) is not None

    def pending(self, cells: Sequence[Cell], trials: Sequence[Cell]) -> set[str]:
        """Return the rows of which something is still to be trained; nothing is stored.

        Args:
            cells: of the plan.
            trials: the first ones of the plan.
        """
        missing: set[str] = set()
        rung, last, rows = list(trials), list(trials), dict[str, Row]()
        while rung:
            there = self._there(self.jobs(rung, trial=True))
            rows |= there
            missing |= {cell.row for cell in rung if cell.trial not in there}
            last = [cell for cell in rung if cell.row not in missing]
            rung = self.plan.next_trials(last, {name: row["accuracy"] for name, row in there.items()})
        others = [cell for cell in self.plan.chosen(cells, last, rows) if cell.row not in missing]
        there = self._there(self.jobs(others))
        return missing | {cell.row for cell in others if cell.name not in there}

    def _there(self, jobs: Mapping[str, Job]) -> dict[str, Row]:
        rows = {name: job.finished() or self._kept(job) or self._failure(job) for name, job in jobs.items()}
        return {name: row for name, row in rows.items() if row is not None}

    def _failure(self, job: Job) -> Row | None:
        return None if self.retry else job.failed()

    def _kept(self, job: Job) -> Row | None:
        """Return the kept line of a job, unless it lacks one of the numbers."""
        line = self.shelf.find(TUNING if job.trial else RESULTS, job.asked(), job.made)
        if line is None or (not job.trial and lacking(line, job.numbers())):
            return None
        return line

    def sentences(self) -> list[str]:
        """Say what was taken over since the last call, and what of the kept lines is not what the plan asks for now."""
        told = []
        if self._taken:
            listed = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in self._taken.items() if count)
            told.append(f"Taken over from '{self.shelf.folder}': {listed}." if listed else "")
        if self.shelf.why:
            reasons = ", ".join(f"{count} × {why}" for why, count in Counter(self.shelf.why.values()).most_common())
            told.append(f"Kept in '{self.shelf.folder}' but not valid for the plan now: {reasons}.")
        if self._older:
            reasons = ", ".join(f"{count} × other {why}" for why, count in self._older.items())
            told.append(f"Finished in '{self.out}' before, and left unchanged: {reasons}.")
        if self._failed:
            told.append(f"Failed in '{self.out}' before, and not run again: {self._failed}; `retry` runs them again.")
            self._failed = 0
        for each in (self._taken, self.shelf.why, self._older):
            each.clear()
        return [sentence for sentence in told if sentence]

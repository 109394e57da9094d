"""Write docs/results.md from the plans' results under results/: `python docs/update_results.py [runs/NAME ...]`.

With folders of plans (`congruence bench NAME --out runs/NAME`), finished or not, their lines are first stored there,
beside those that are kept already and still are what the plan asks for; `congruence bench` goes on from them. With
`--teacher runs/NAME TEACHER` the weights of a run's student, or of a plan's only teacher, go to results/teachers/.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generated import OF_EVERY_ROW, OWN_KEYS, ROOT, filled, lines, origin, results, teachers

from congruence.bench import rank_agreement
from congruence.bench.against import against, told
from congruence.bench.desk import Desk
from congruence.bench.failed import whole
from congruence.bench.identity import NO_RECORD, WORDS, differs
from congruence.bench.kept import is_trial, name_of
from congruence.bench.plan import Cell, Plan, teacher_names
from congruence.bench.planfile import load_plan
from congruence.bench.published import AVERAGE
from congruence.bench.table import averaged, split, text
from congruence.bench.teachers import MOST, digest_of, told_of
from congruence.config.load import load_config
from congruence.config.save import resolved_toml
from congruence.config.shipped import shipped
from congruence.core.files import write_json
from congruence.evaluation.measure import measure
from congruence.pipeline import load_splits, load_student
from congruence.training.saving.run_directory import RunDirectory, facts_of

PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "results"
TEACHERS, PAPERS = "teachers", "paper"
_ANOTHER = ("plan", WORDS["settings"], WORDS["data"])  # of a run with --set, say: its numbers are not the plan's
Line = dict[str, Any]


def keep(folder: Path) -> list[str]:
    """Store the results of a plan, finished or not: a line for each cell, trial and teacher, and where they come from.

    Returns:
        What is to be told: the kept lines that are not what the plan asks for any more.
    """
    name = f"{PAPERS}-{folder.name}" if folder.resolve().parent.name == PAPERS else folder.name
    shipped_as, run = shipped_name(name), lines(folder / "results.jsonl")
    plan = load_plan(shipped_as)
    trials = lines(folder / "tuning.jsonl")
    if not run and not trials:
        raise ValueError(f"'{folder}' has no results yet.")
    target = RESULTS / name
    about = origin(f"congruence bench {shipped_as} --out runs/{shipped_as}")
    judge = Judge(plan, folder)
    told: list[str] = []
    run, trials = whole(run), whole(trials)  # what failed is no result
    stored = {"results.jsonl": run, "tuning.jsonl": trials}
    for file, of_run in stored.items():
        before = lines(target / file)
        stored[file], sentences = judge.merged(before, of_run)
        told += [f"results/{name}/{file}: {sentence}" for sentence in sentences]
    target.mkdir(parents=True, exist_ok=True)
    for file, found in {**stored, "teachers.jsonl": judge.teachers()}.items():
        text = "".join(json.dumps(_with_commit(line, about["commit"])) + "\n" for line in found)
        if text:
            (target / file).write_text(text, encoding="utf8")
    (target / "origin.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")
    return told


def shipped_name(name: str) -> str:
    """Return where a plan lies: those of papers' tables are in a folder, and their results beside the others'.

    Example:
        >>> shipped_name("paper-cckd-1"), shipped_name("evidence-2")
        ('paper/cckd-1', 'evidence-2')
    """
    return f"{PAPERS}/{name.removeprefix(f'{PAPERS}-')}" if name.startswith(f"{PAPERS}-") else name


class Judge:
    """Tells which kept lines of a plan are what it asks for today."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.desk = Desk(plan, folder)
        self.cells = plan.cells()
        self.trials = plan.trials()
        self._by_name = {(cell.method, cell.variant, cell.seed): cell for cell in self.cells}
        self._rows = list(dict.fromkeys((cell.method, cell.variant) for cell in self.cells))

    def merged(self, kept: Sequence[Line], run: Sequence[Line]) -> tuple[list[Line], list[str]]:
        """Return the lines of a run and the kept ones that are still right, in the plan's order, and what is said."""
        left: Counter[str] = Counter()
        lines_of_run: dict[tuple[Any, ...], Line] = {}
        told: list[str] = []
        other = Counter(why for line in run if (why := self.why_not(line)) in _ANOTHER)
        for line in run:
            if self.why_not(line) not in _ANOTHER:
                lines_of_run[name_of(line, trial=is_trial(line))] = line
        told += [f"{count} lines of the run are left out (other {why})." for why, count in other.items()]
        chosen = dict(lines_of_run)
        for line in kept:
            why, name = self.why_not(line), name_of(line, trial=is_trial(line))
            if name in lines_of_run:
                if not why and self.why_not(lines_of_run[name]):
                    chosen[name] = line
            elif why:
                left[why] += 1
            else:
                chosen[name] = line
        if left[NO_RECORD]:
            raise ValueError(
                f"'{self.folder}' is unfinished, and results/{self.plan.name}/ holds {left[NO_RECORD]} lines from "
                f"before it was recorded what decides them, which cannot stand beside its own: let it finish, or "
                f"remove results/{self.plan.name}/ first."
            )
        of_plan = [line for line in chosen.values() if (line["method"], line["variant"]) in self._rows]
        told += [f"{count} kept lines are left out (other {why})." for why, count in left.items()]
        return sorted(of_plan, key=self._place), told

    def why_not(self, line: Line) -> str:
        """Say in a word why a line is not what the plan asks for, "" where it is."""
        cell = self._cell(line)
        if cell is None:
            return "plan"
        if "made" not in line:
            return NO_RECORD
        trial = is_trial(line)
        (job,) = self.desk.jobs([cell], trial=trial).values()
        return "teacher" if job.made is None else differs(line, job.made)

    def _cell(self, line: Line) -> Cell | None:
        if not is_trial(line):
            cell = self._by_name.get((line["method"], line["variant"], line["seed"]))
            if cell is None:
                return None
            return cell.with_found(line["found"]) if line.get("found") else cell.weighted(line["factor"])
        row = [trial for trial in self.trials if (trial.method, trial.variant) == (line["method"], line["variant"])]
        if line.get("candidate") is None:
            return next((trial for trial in row if trial.factor == line["factor"]), None)
        found = next((trial for trial in row if trial.candidate == line["candidate"]), None)
        return None if found is None else found.longer(line["epochs"], line["rung"])

    def _place(self, line: Line) -> tuple[Any, ...]:
        row = self._rows.index((line["method"], line["variant"]))
        return (
            line.get("rung", 0),
            row,
            line.get("candidate") or 0,
            line["factor"] if is_trial(line) else 1.0,
            line["seed"],
        )

    def teachers(self) -> list[Line]:
        """Return the lines of the teachers, of the run or kept, under the names that the whole plan gives them."""
        run = teachers(self.folder)
        names = teacher_names(self.cells)
        found: dict[str, Line] = {}
        for cell in self.cells:
            key = cell.teacher_key() if cell.has_teacher else None
            if key is None or key in found:
                continue
            made = self.desk.made_of_teacher(cell)
            here = next((line for line in run if made is not None and not differs(line, made)), None)
            kept = self.desk.kept_teacher(cell)
            same = here and kept and here["made"].get("weights") == kept["made"].get("weights")
            line = kept if same or here is None else here
            if line is not None:
                found[key] = {**line, "name": names[key]}
        return list(found.values()) or run


def _with_commit(line: Line, commit: str) -> Line:
    return {**line, "made": {"commit": commit, **line["made"]}} if line.get("made") else line


def keep_teacher(folder: Path, name: str) -> None:
    """Keep the weights of a run's student, or of a plan's only teacher, with what is known of them.

    Three files: NAME.safetensors, NAME.json, and NAME.toml, the configuration that made them.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"A kept teacher's name must be of letters, digits, '-' and '_', got '{name}'.")
    directory = RunDirectory(_run_of(folder))
    weights, target = directory.student_file(), RESULTS / TEACHERS
    if weights.stat().st_size > MOST:
        size = weights.stat().st_size / 1e6
        raise ValueError(f"The weights '{weights}' have {size:.1f} MB: at most {MOST / 1e6:g} MB are kept.")
    described = json.loads(directory.students.read_text(encoding="utf8"))["student"]
    if described["model"] is None:
        raise ValueError(f"The student in '{directory.path}' is not a model of the zoo: nobody could build it again.")
    config = load_config(directory.config)
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": None})})
    if re.search(r"^(weights|start|folder) = ", resolved_toml(config), re.MULTILINE):
        raise ValueError(f"The run in '{directory.path}' began from other files: how it was made could not be told.")
    facts = facts_of(weights)
    verb = "teach" if len(config.stages) == 1 else "distill"
    about = {
        **origin(f"congruence {verb} results/{TEACHERS}/{name}.toml --out runs/{name}"),
        "model": {"model": described["model"], "options": described["options"]},
        **({} if facts is None else {key: value for key, value in facts.to_dict().items() if key in ("mean", "std")}),
        "weights": digest_of(weights),
        "terms": [told_of(term) for term in config.stages[config.last].terms],
        "numbers": _numbers(directory),
    }
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, target / f"{name}.safetensors")
    (target / f"{name}.toml").write_text(resolved_toml(config), encoding="utf8")
    write_json(target / f"{name}.json", about)


def _run_of(folder: Path) -> Path:
    """Return the folder of the one student that is meant."""
    if RunDirectory(folder).student_file().is_file():
        return folder
    found = [path.parent for path in sorted(folder.glob("teachers/*/student.safetensors"))]
    if len(found) == 1:
        return found[0]
    several = f"several teachers: name one of {', '.join(map(str, found))}" if found else "no single student's weights"
    raise ValueError(f"'{folder}' has {several}.")


def _numbers(directory: RunDirectory) -> Mapping[str, Any]:
    """Return a teacher's test numbers: those that its plan measured, or measure them."""
    path = directory.path / "teacher.json"
    if path.exists():
        return {k: v for k, v in json.loads(path.read_text(encoding="utf8")).items() if k not in ("name", "made")}
    splits = load_splits(load_config(directory.config).data)
    return measure(load_student(directory.path), splits).to_dict()


def missing(name: str) -> list[str]:
    """Return a plan's methods that have no results, and the catalogue's where it should have them all."""
    measured = {row["method"] for row in lines(RESULTS / name / "results.jsonl")}
    wanted = dict.fromkeys([*load_plan(shipped_name(name)).recipes, *(OWN_KEYS if name == OF_EVERY_ROW else ())])
    return [method for method in wanted if method not in measured]


def part(name: str) -> str:
    """Return what a plan is for, its tables, and where its numbers come from; an unfinished one says so."""
    folder, shipped_as = RESULTS / name, shipped_name(name)
    plan, path = load_plan(shipped_as), ROOT / "plans" / f"{shipped_as}.toml"
    written = (path if path.is_file() else shipped("plans", shipped_as)).read_text(encoding="utf8").splitlines()
    comment = written[: next(number for number, line in enumerate(written) if not line.startswith("#"))]
    rows, teacher_rows = (lines(folder / file) for file in ("results.jsonl", "teachers.jsonl"))
    about = json.loads((folder / "origin.json").read_text(encoding="utf8"))
    count = len(rows)
    if plan.average:
        rows = [*rows, *averaged(rows, list(plan.variants), AVERAGE)]
    if plan.published is not None:
        rows, teacher_rows = (plan.published.beside(each) for each in (rows, teacher_rows))
    paragraphs = [" ".join(line.removeprefix("#").strip() for line in comment)]
    if count < plan.count():
        paragraphs.append(f"**Unfinished: {count} of {plan.count()} cells are there.**")
    methods, tables = {row["method"] for row in rows}, split(rows)
    for number, (title, table) in enumerate(tables.items()):
        paragraphs += [f"**{title}**"] if len(tables) > 1 else []
        without = [] if title in methods else missing(name)  # a method's own table has its variants alone
        paragraphs.append(results(_marked(table, plan), () if number else teacher_rows, without, more=True))
        if plan.baseline and (differences := against(table, plan.baseline)):
            paragraphs += [told(plan.baseline), text(differences)]
        paragraphs += [agreed] if (agreed := rank_agreement.told(table)) else []
    paragraphs += [] if plan.published is None else [plan.published.told(about.get("holds_out", plan.holds_out()))]
    paragraphs += _kept_teachers(teacher_rows)
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    commits = dict.fromkeys(row.get("made", {}).get("commit", about["commit"]) for row in rows)
    paragraphs.append(
        f"`{about['command']}`; seeds {seeds}; commit{'s' * (len(commits) > 1)} {', '.join(commits)}; "
        f"{about['processor']}; Python {about['python']}, torch {about['torch']}. Every line: `results/{name}/`."
    )
    return "\n\n".join(paragraphs)


def _marked(table: Sequence[Mapping[str, Any]], plan: Plan) -> list[Mapping[str, Any]]:
    """Say of the rows that lack seeds how many they have."""
    there = Counter(row["method"] for row in table)
    marked = []
    for row in table:
        have, want = there[row["method"]], len(plan.seeds_in(row["variant"]))  # of averages: as the plan's
        marked.append(row if have >= want else {**row, "method": f"{row['method']} ({have} of {want} seeds)"})
    return marked


def _kept_teachers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which teachers were not trained by the plan, and what made them."""
    sentences = []
    for row in rows:
        kept = row.get("made", {}).get("kept")
        if kept is not None:
            about = json.loads((RESULTS / TEACHERS / f"{kept}.json").read_text(encoding="utf8"))
            sentences.append(
                f"The {row['name'].replace(', ', ' of ')} is kept: `results/{TEACHERS}/{kept}.safetensors`, made by "
                f"`{about['command']}`, commit {about['commit']}."
            )
    return [" ".join(sentences)] if sentences else []


def names() -> list[str]:
    """Return the plans that have results."""
    return sorted(path.parent.name for path in RESULTS.glob("*/results.jsonl"))


def page(now: str) -> str:
    """Return the page with the results as they are now; a plan that it does not have yet comes last."""
    for name in names():
        if f"<!-- begin {name}:" not in now:
            now += f"\n## {name}\n\n<!-- begin {name}: written by docs/update_results.py -->\n<!-- end {name} -->\n"
    return filled(now, {name: part(name) for name in names()})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--teacher"]:
        if len(sys.argv) != 4:
            raise SystemExit("python docs/update_results.py --teacher runs/NAME TEACHER")
        keep_teacher(Path(sys.argv[2]), sys.argv[3])
    for argument in () if sys.argv[1:2] == ["--teacher"] else sys.argv[1:]:
        sys.stdout.write("".join(f"{sentence}\n" for sentence in keep(Path(argument))))
    PAGE.write_text(page(PAGE.read_text(encoding="utf8")), encoding="utf8")

"""`congruence demo` and `congruence bench`: run a plan and print its table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from congruence.cli.errors import FAILED
from congruence.cli.options import Metric, Trust
from congruence.cli.page import Report, command, tell_page
from congruence.cli.say import say

if TYPE_CHECKING:
    from congruence.bench.plan import Plan
    from congruence.bench.runner import Results

Retry = Annotated[bool, typer.Option("--retry", help="Run cells that failed before again.")]
_DEMOS = {"digits": "demo", "fashion-mnist": "demo-fashion-mnist", "cifar10": "demo-cifar10"}


def demo(
    data: Annotated[str, typer.Option(help="digits, fashion-mnist or cifar10.")] = "digits",
    out: Annotated[
        Path | None, typer.Option(help=r"Folder for all results; a second run continues there. \[default: runs/demo]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; by default one a core.")] = None,
    retry: Retry = False,
    report: Report = True,
) -> None:
    """Distil a small student from a teacher in five ways, over three seeds, and print a table of the results."""
    from congruence.bench.planfile import load_plan
    from congruence.core import check

    if data not in _DEMOS:
        raise ValueError(f"--data must be one of {', '.join(_DEMOS)}, got '{data}'.{check.near(data, _DEMOS)}")
    run(load_plan(_DEMOS[data]), out or Path("runs", _DEMOS[data]), workers, more=False, retry=retry, page=report)


def bench(
    plan: Annotated[str, typer.Argument(help="A plan (TOML), or the name of a shipped one.")],
    out: Annotated[Path, typer.Option(help="Folder for all results; a second run continues there.")],
    workers: Annotated[int | None, typer.Option(help="Processes; by default one a core.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value in every recipe, as KEY=VALUE.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Run only this variant; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Run only this method; repeatable.")] = None,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Also train cells whose results are kept in results/.")
    ] = False,
    retry: Retry = False,
    status: Annotated[bool, typer.Option("--status", help="Print the progress so far and run nothing.")] = False,
    one_table: Annotated[
        bool,
        typer.Option("--one-table", help="Put all variants in one table, with a line for each method and variant."),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run cells in a Ray cluster: local (on this machine, with --workers processors), or an address."
        ),
    ] = None,
    trust: Trust = False,
    metric: Metric = None,
    report: Report = True,
) -> None:
    """Run a plan: methods × variants × seeds, each cell once, after a hyper-parameter search if the plan has one.

    A cell that fails is reported with its reason, and the others continue.

    In a checkout, results kept in results/NAME/ are reused for cells that would give the same numbers.
    """
    from congruence.bench.planfile import load_plan

    loaded = load_plan(plan, overrides=tuple(set_ or ())).only(*(variant or ()), methods=method or ())
    if status:
        _tell(loaded, out)
        return
    run(
        loaded,
        out,
        workers,
        more=True,
        trust=trust,
        metrics=metric or (),
        afresh=afresh,
        retry=retry,
        ray=ray,
        one=one_table,
        page=report,
    )


def _tell(plan: Plan, out: Path) -> None:
    from congruence.bench.status import begun, status
    from congruence.bench.table import text

    say(text(status(plan, out)), lines=True)
    if told := begun(out):
        say(told)


def run(
    plan: Plan,
    out: Path,
    workers: int | None,
    *,
    more: bool,
    trust: bool = False,
    metrics: Sequence[str] = (),
    afresh: bool = False,
    retry: bool = False,
    ray: str | None = None,
    one: bool = False,
    page: bool = False,
) -> None:
    """Run a plan with progress, and print its tables and the best student's folder; exit with 1 if cells failed.

    With `page`, also write an HTML page of the results.
    """
    from congruence.bench import front, rank_agreement
    from congruence.bench.against import against, told
    from congruence.bench.costs import with_costs
    from congruence.bench.failed import failures, whole
    from congruence.bench.published import AVERAGE
    from congruence.bench.runner import run_plan
    from congruence.bench.table import averaged, cells, split, text, together
    from congruence.cli.progress import Cells, progress
    from congruence.cli.train import allow

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("A plan starts worker processes of its own (--workers, or --ray): start it without torchrun.")
    allow(trust)  # worker processes inherit the paths of this process
    with progress("teacher") as callback:
        watch = Cells()
        results = run_plan(
            plan,
            out,
            workers=workers,
            report=watch,
            teacher_options={"callbacks": (callback,)},
            metrics=metrics,
            trust=trust,
            say=say,
            afresh=afresh,
            retry=retry,
            ray=ray,
        )
        watch.close()
    every: Sequence[Mapping[str, Any]] = results.rows
    taught: Mapping[str, Mapping[str, Any]] = results.teachers
    if more:  # `demo` has students of one kind
        every, taught = with_costs(every, taught, plan.cells(), out, trust=trust)
    teachers = list(taught.values())
    if plan.average:
        every = [*every, *averaged(every, list(plan.variants), AVERAGE)]
    source = ""
    if plan.published is not None:
        every, teachers = plan.published.beside(every), plan.published.beside(teachers)
        source = plan.published.told(plan.holds_out())
    if one:
        say(f"\n{text(cells(together(every), teachers, more=more))}", lines=True)
    for title, rows in split(every).items():
        if not one or plan.baseline:
            say()
            if title:
                say(title)
        if not one:
            say(text(cells(rows, teachers, more=more)), lines=True)
        if plan.baseline and (differences := against(rows, plan.baseline, corrected=True)):
            say(f"\n{told(plan.baseline, corrected=True)}\n{text(differences)}", lines=True)
        if agreed := rank_agreement.told(rows):
            say(f"\n{agreed}", lines=True)
    say()
    if best := front.told(every):
        say(best, lines=True)
    if lost := failures(results.rows):
        for line in (*lost, ""):
            say(line)
    counts = sorted({len(plan.seeds_in(variant)) for variant in plan.variants})
    seeds = " or ".join(map(str, counts))
    say(f"Mean ± standard deviation over {seeds} seeds, on test images read once. Best epoch: chosen on validation.")
    if source:
        say(source)
    say(f"Every number: {results.path}")
    if whole(results.rows):
        _tell_best(results)
    if page:
        from congruence.report import write_plan
        from congruence.report.as_html import NAME

        how: dict[str, Any] = {"rows": every, "teachers": teachers, "baseline": plan.baseline, "trust": trust}
        how |= {"published": source, "commands": [command()]}
        tell_page(lambda: write_plan(out, out / NAME, **how))
    if lost:
        again = "the same command with --retry runs them again"
        say(f"{len(lost)} of {len(results.rows)} cells failed, and the others are done: {again}.")
        raise typer.Exit(FAILED)


def _tell_best(results: Results) -> None:
    chosen = _best(results.rows)
    if chosen is None:
        return
    number, best = chosen
    row, folder = results.rows[best], results.cells[best]
    single = folder / "student.safetensors"
    if any(folder.glob("student*.safetensors")):
        where: object = single if single.exists() else folder  # of several students
    else:
        where = "from kept results, without weights" if row.get("made") else single
    say(f"The best student by {number} ({row['method']}, seed {row['seed']}): {where}")


def _best(rows: Sequence[Mapping[str, Any]]) -> tuple[str, int] | None:
    """Return by which number a row is the best, and its index, the first of equal rows; None if none has any of them.

    That is the accuracy if all rows have one, else the retrieval mAP, or without labels the coherence with the teacher.
    """
    from congruence.bench.failed import whole

    classified = all(row.get("accuracy_best") is not None for row in whole(rows))
    keys = {"accuracy_best": "accuracy"} if classified else {"retrieval_map": "retrieval mAP", "gpcl": "GPCL"}
    for key, number in keys.items():
        values = [-1.0 if row.get(key) is None else row[key] for row in rows]
        if max(values) >= 0:
            return number, values.index(max(values))
    return None

"""`congruence compare`: compare a teacher and trained students on the same samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from congruence.cli.options import Trust, data_table
from congruence.cli.page import Report, command, tell_page
from congruence.cli.say import say
from congruence.core.printable import printable

if TYPE_CHECKING:
    from congruence.config import RunConfig
    from congruence.data import BatchDataset, Splits
    from congruence.report.rebuilt import Models

_WORDS = (
    "a run's folder, a model of the zoo, package.module:callable, hf:FOLDER, st:FOLDER, timm:NAME, or a file: "
    "onnx:FILE, export:FILE, jit:FILE"
)
_NAMED = re.compile(r"([\w.-]+)=(.+)")
_SHOWN = 5  # rows shown of worst classes, and of changed samples, for each student
_LONGEST = 50  # characters in a table cell: paths keep their end, other texts their beginning
Rows = Sequence[Mapping[str, Any]]


def compare(
    student: Annotated[
        list[str],
        typer.Option(
            help="A small model, named in the same ways as --teacher; repeatable. NAME=WORD gives it a name.",
            metavar="[NAME=]WORD",
            show_default=False,
        ),
    ],
    teacher: Annotated[
        str | None,
        typer.Option(
            help=f"The large model: {_WORDS}; by default the teacher that the first student's run learned from.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of images, a file of texts, a dataset's name, or package.module:function (with --trust); by "
            "default the data of the first student's run.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The part of the data to compare on: test, validation or train.")] = "test",
    teacher_weights: Annotated[
        str | None,
        typer.Option(
            help="File of the teacher's weights, if --teacher names a model without weights.", show_default=False
        ),
    ] = None,
    student_weights: Annotated[
        list[str] | None,
        typer.Option(
            help="File of a student's weights, if --student names a model without weights; repeatable. FILE is "
            "enough for a single student.",
            metavar="[NAME=]FILE",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Of students' runs, take the last epoch's weights, not the best one's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Also measure W2² with the exact transport plan, which is slow.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Fit a linear classifier on each model's features of the training part.")
    ] = False,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency/--no-latency", help="Measure the cost of a call of each model: time, multiply-adds, memory."
        ),
    ] = True,
    keep: Annotated[
        Path | None,
        typer.Option(help="A folder in which the models' outputs are kept for later comparisons.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override how the data is loaded (data.size=64) or the test protocol (protocol.kind=retrieval).",
            metavar="data.KEY=VALUE",
        ),
    ] = None,
    trust: Trust = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Samples in a batch; chosen for the device by default.", min=1, show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    out: Annotated[
        Path, typer.Option(help="Folder for the page and compare.json; those of an earlier comparison are replaced.")
    ] = Path("runs/compare"),
    page: Report = True,
) -> None:
    """Compare students with their teacher on the same samples: what was lost, where, and what each model costs."""
    from congruence import evaluation
    from congruence.cli.train import allow
    from congruence.core.inputs import TEACHER
    from congruence.data import loader
    from congruence.data.sources.any_folder import sample_names
    from congruence.evaluation.channels import batch_of
    from congruence.pipeline.any_model import any_model, data_of, is_untrained, teacher_of
    from congruence.pipeline.measured_by import protocol_of
    from congruence.pipeline.run_projection import run_projection
    from congruence.pipeline.taken import as_taken
    from congruence.training.distributed import pick_device

    allow(trust)
    words = _named(student)
    weights = _weights(student_weights or (), words)
    first = next(iter(words.values()))
    if teacher is None and teacher_weights is not None:
        raise ValueError("--teacher-weights is for a --teacher, and none is given.")
    if teacher is not None and is_untrained(teacher) and teacher_weights is None:
        raise ValueError(f"Give --teacher-weights: the teacher '{teacher}' comes without weights.")
    table = data_of(first) if data is None else data_table(data)
    config, splits, folder = _loaded(table, set_ or (), trust=trust)
    _part(splits, split)
    if config.protocol is not None and split != "test":
        raise ValueError(f"--split must be test with a protocol, which measures the test part, got '{split}'.")
    place = pick_device(device)
    if teacher is None:
        taught = teacher_of(first, splits, trust=trust)
    else:
        taught = any_model(teacher, splits, who="the teacher", weights=teacher_weights, trust=trust)
    takers = {
        name: any_model(word, splits, who=f"the student '{name}'", weights=weights.get(name), last=last, trust=trust)
        for name, word in words.items()
    }
    for name, word in words.items():
        if is_untrained(word) and name not in weights:
            say(
                f"No --student-weights for '{name}': '{word}' is compared with its initial, untrained weights.",
                err=True,
            )
    splits = as_taken(splits, takers, {TEACHER: taught}, told=not as_json, alike=False)
    maps = {name: run_projection(word, takers[name].model, taught.model) for name, word in words.items()}
    protocol = protocol_of(config, splits) if split == "test" else None
    with_training = probe or (protocol is not None and protocol.database)
    part, size = _part(splits, split), batch_size or batch_of(place)
    batches: dict[str, Any] = {"batch_size": size, "shuffle": False, "device": place}
    found = evaluation.compare(
        taught.model,
        {name: taker.model for name, taker in takers.items()},
        loader(part, **batches),
        device=place,
        train_loader=loader(splits.train, **batches) if with_training else None,
        keep=keep,
        exact=exact,
        probe=probe,
        latency=latency,
        projection={name: each for name, each in maps.items() if each is not None},
        protocol=protocol,
    )
    names = sample_names(part, folder)
    plain = _plain(found, names)
    say(json.dumps(plain, indent=2) if as_json else report(found, names), lines=True)
    if page:
        from congruence.report.rebuilt import Models

        students = {name: taker.model for name, taker in takers.items()}
        models = Models(students, taught.model, splits, split, device=place, names=names)
        tell_page(lambda: _page(plain, out, models), err=as_json)


def _page(found: Mapping[str, Any], out: Path, models: Models) -> Path:
    """Write a comparison's numbers and its page, and return the page's path."""
    from congruence.core.files import write_json
    from congruence.report import write_comparison
    from congruence.report.as_html import NAME

    write_json(out / "compare.json", found)
    return write_comparison(found, out / NAME, models=models, commands=[command()])


# Reading the arguments


def _named(words: Iterable[str]) -> dict[str, str]:
    """Return the students' words by name: given names, otherwise short names that tell the students apart."""
    given = [(match[1], match[2]) if (match := _NAMED.fullmatch(word)) else (None, word) for word in words]
    short = [name or _short(word) for name, word in given]
    names = [
        name or (word if short.count(brief) > 1 or brief == "teacher" else brief)
        for (name, word), brief in zip(given, short, strict=True)
    ]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two students are called '{twice}': tell them apart by --student NAME=WORD.")
    if "teacher" in names:
        raise ValueError("A student cannot be called 'teacher': give it another name by --student NAME=WORD.")
    return {name: word for name, (_, word) in zip(names, given, strict=True)}


def _short(word: str) -> str:
    """Return the short name that a table shows for a model's word.

    Example:
        >>> [_short(word) for word in ("runs/pkt", "onnx:out/small.onnx", "timm:resnet18.a1_in1k", "nets:small")]
        ['pkt', 'small', 'resnet18.a1_in1k', 'small']
    """
    path = Path(word.rpartition(":")[2].rstrip("/") or word)
    return path.stem if path.suffix in (".onnx", ".pt2", ".pt") else path.name or word


def _weights(given: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    weights: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or (name not in words and len(words) == 1):
            if len(words) > 1:
                raise ValueError(
                    f"Say whose weights '{text}' are: --student-weights NAME=FILE, with NAME one of {', '.join(words)}."
                )
            name, file = next(iter(words)), text
        if name not in words:
            raise ValueError(f"--student-weights {text}: there is no student '{name}', only {', '.join(words)}.")
        if name in weights:
            raise ValueError(f"--student-weights: '{name}' has two files, '{weights[name]}' and '{file}'.")
        weights[name] = file
    return weights


def _loaded(
    table: Mapping[str, Any], overrides: Sequence[str], *, trust: bool
) -> tuple[RunConfig, Splits, Path | None]:
    """Return a configuration of the data, given as its table, and protocol, the data itself, and its folder if any."""
    from congruence.config import from_values
    from congruence.pipeline.context import folder_of, load_splits

    wrong = next((text for text in overrides if not text.strip().startswith(("data.", "protocol."))), None)
    if wrong is not None:
        raise ValueError(f"--set {wrong}: expected data.KEY=VALUE, which changes how the data is loaded.")
    # A configuration needs a stage; only its data and its protocol are used.
    stage = {"student": {"model": "cnn3"}, "terms": [{"key": "ce"}], "train": {"epochs": 1}}
    values = {"name": "compare", "data": table, "stages": {"student": stage}}
    config = from_values(values, "command line", overrides=overrides)
    return config, load_splits(config.data, trust=trust), folder_of(config.data)


def _part(splits: Splits, name: str) -> BatchDataset:
    parts: dict[str, BatchDataset] = splits._asdict()
    if name not in parts:
        raise ValueError(f"--split must be one of test, validation, train, got '{name}'.")
    if not len(parts[name]):
        others = ", ".join(f"--split {other}" for other, part in parts.items() if len(part))
        raise ValueError(f"The data has no {name} samples: choose {others}.")
    return parts[name]


# Printing the results


def _table(title: str, rows: Rows) -> str:
    """Format rows below their keys, with a title line above."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[key.replace("_", " ") for key in keys], *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    left = [all(isinstance(row.get(key, ""), str) for row in rows) for key in keys]

    def written(line: Sequence[str]) -> str:
        cells = zip(line, widths, left, strict=True)
        padded = (cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in cells)
        return f"  {'  '.join(padded)}".rstrip()

    return "\n".join([title, *map(written, lines)])


def report(found: Any, names: Sequence[str] | None = None) -> str:
    """Format comparisons as the command prints them.

    Args:
        found: `congruence.Comparisons`.
        names: names of the samples in the loader's order, None if they have none.
    """
    parts = [found.table()]
    for name, comparison in found.items():
        values = comparison.to_dict()
        worst, changed = [row for row in values["worst_classes"] if _lost(row)], values["changed"]
        if worst:
            title = f"{name}: the classes that lost most{_of(worst)}"
            parts.append(_table(title, worst[:_SHOWN]))
        if changed:
            title = f"{name}: the samples that changed most{_of(changed)}"
            parts.append(_table(title, [_with_name(row, names) for row in changed[:_SHOWN]]))
    left_out = _left_out({name: comparison.left_out for name, comparison in found.items()})
    return "\n\n".join([*parts, *(["\n".join(left_out)] if left_out else [])])


def _lost(row: Mapping[str, Any]) -> bool:
    return bool(row["student_accuracy"] < row["teacher_accuracy"])


def _of(rows: Rows) -> str:
    return f" ({_SHOWN} of {len(rows)}; all with --json)" if len(rows) > _SHOWN else ""


def _plain(found: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """Return comparisons as plain values for JSON, with the names of changed samples."""
    values: dict[str, Any] = json.loads(found.to_json())
    for student in values["students"].values():
        student["changed"] = [_with_name(row, names) for row in student["changed"]]
    return values


def _with_name(row: Mapping[str, Any], names: Sequence[str] | None) -> Mapping[str, Any]:
    return row if names is None else {"sample": names[row["index"]], **row}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4f}" if isinstance(value, float) else printable(" ".join(str(value).split()))
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}" if "/" in text else f"{text[: _LONGEST - 1]}…"


def _left_out(by_student: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each reason why numbers are missing; it names the students unless it applies to all."""
    lines: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for key in dict.fromkeys(key for reasons in by_student.values() for key in reasons):
        for reason in dict.fromkeys(reasons[key] for reasons in by_student.values() if key in reasons):
            whose = tuple(name for name, reasons in by_student.items() if reasons.get(key) == reason)
            lines.setdefault((whose, reason), []).append(key)
    return [
        f"left out{_whose(whose, by_student)}: {', '.join(_of_both(keys))} ({_as_option(reason).rstrip('.')})"
        for (whose, reason), keys in lines.items()
    ]


def _of_both(keys: Sequence[str]) -> list[str]:
    """Return keys, with the teacher's and the student's key of one number joined.

    Example:
        >>> _of_both(["kl", "teacher_ece", "student_ece", "teacher_accuracy"])
        ['kl', 'ece', 'teacher_accuracy']
    """
    bare = {key: key.removeprefix("teacher_").removeprefix("student_") for key in keys}
    both = {name for name in bare.values() if f"teacher_{name}" in bare and f"student_{name}" in bare}
    return list(dict.fromkeys(bare[key] if bare[key] in both else key for key in keys))


def _as_option(reason: str) -> str:
    """Return a reason with the function's arguments replaced by the command's options."""
    for argument, option in (("exact=True", "exact"), ("probe=True", "probe"), ("latency=True", "latency")):
        reason = reason.replace(argument, f"--{option}")
    return reason.replace("train_loader", "--probe")


def _whose(names: Sequence[str], all_names: Iterable[str]) -> str:
    return "" if list(names) == list(all_names) else f" of {', '.join(names)}"

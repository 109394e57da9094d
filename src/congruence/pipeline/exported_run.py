"""What an export takes from a run's folder: the student, its data, a term's trained map, and what its card says."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from congruence import data
from congruence.config.references import StudentRef
from congruence.core import check
from congruence.data.datasets.model_facts import ModelFacts, check_prepared
from congruence.evaluation.exporting.card import CardFacts
from congruence.evaluation.stored import test_numbers
from congruence.pipeline.context import load_splits
from congruence.pipeline.models import rebuild
from congruence.pipeline.run_config import configured
from congruence.pipeline.student import load_student
from congruence.pipeline.taken import Taker, as_taken
from congruence.training.saving.run_directory import RunDirectory

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig, StageConfig
    from congruence.config.tables import ModelConfig

LOG = logging.getLogger("congruence")
_ON_CARD = ("accuracy", "retrieval_map", "agreement", "gpcl")
_SEED = re.compile(r"(.+)-seed\d+")  # a plan's cells: the same run with another seed lies beside it
# Where methods keep the linear map from the student's embedding to the teacher's width.
_MAPS = re.compile(r"(projectors\.(\d+)|projector)\.(weight|bias)")


@dataclass(frozen=True)
class RunStudent:
    """A run's student.

    Args:
        directory: of the run.
        name: of the student.
        model: with its weights, in evaluation mode.
        described: how it is built again, {} if that was not written down.
        splits: the data as the student takes it; None if the run does not say.
    """

    directory: RunDirectory
    name: str
    model: nn.Module
    described: Mapping[str, Any]
    splits: data.Splits | None
    config: RunConfig | None = None
    stage: StageConfig | None = None


def student_of(
    run: str | Path,
    *,
    factory: Callable[[], nn.Module] | None = None,
    name: str | None = None,
    last: bool = False,
    trust: bool = False,
    given: data.Splits | None = None,
) -> RunStudent:
    """Return a run's student with its data.

    Args:
        run: the folder.
        factory: see `load_student`.
        name: see `load_student`.
        last: see `load_student`.
        trust: whether the factory that the run names may be imported.
        given: data in place of the run's own.

    Raises:
        ValueError: for a folder without a run or a student, a factory that is not trusted, or other data.
    """
    directory = RunDirectory(Path(run))
    if not directory.path.is_dir():
        raise ValueError(f"'{run}' is no run's folder: there is none of that name.")
    files = directory.student_files(last=last)
    if not files and not directory.identity.is_file():
        raise ValueError(f"The folder '{run}' holds no run (no {directory.identity.name}).")
    if name is None and files and "student" not in files:
        raise ValueError(f"The run in '{run}' has the students {', '.join(files)}: say which (name=, --student).")
    chosen = name or "student"
    described = directory.described(chosen) or {}
    if factory is None and described.get("factory") and trust:
        factory = _made_again(described)
    model = load_student(run, factory, name=name, last=last)
    config, stage = configured(directory)
    splits = given if given is not None else _data(config, trust=trust)
    if splits is not None:
        table = None if stage is None else stage.students().get(chosen)
        taker = Taker(model) if table is None else Taker.of(model, table)
        splits = as_taken(splits, {chosen: taker}, {}, told=False)
        check_prepared(model, ModelFacts.of(splits.train))
    return RunStudent(directory, chosen, model, described, splits, config, stage)


def _made_again(described: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: rebuild(described, trust=True)


def _data(config: RunConfig | None, *, trust: bool) -> data.Splits | None:
    if config is None:
        return None
    try:
        return load_splits(config.data, trust=trust)
    except (ValueError, OSError) as error:
        LOG.warning("The run's data is not here, so that the export is not tried on it: %s", check.sentence(error))
        return None


# A term's trained map from the student's embedding to the teacher's width


def projection_of(run: RunStudent, term: str) -> tuple[nn.Linear, str | None]:
    """Return the map that a term has trained beside the student, and the layer that the term reads (None: the default).

    It is read from the checkpoint whose student has the very weights that are exported.

    Raises:
        ValueError: if the run has no such term, its term no such map, or the checkpoint is gone.
    """
    terms = {each["name"]: each for each in run.directory.terms()}
    if term not in terms:
        names = ", ".join(terms) or "none"
        raise ValueError(
            f"The run in '{run.directory.path}' has no term '{term}', only {names}.{check.near(term, terms)}"
        )
    state = _state_with(run)
    prefix = f"methods.{term}."
    if not any(key.startswith(prefix) for key in state) and any(k.startswith(f"methods.{term}:") for k in state):
        prefix = f"methods.{term}:{run.name}."
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    maps = {key: value for key, value in found.items() if _MAPS.fullmatch(key)}
    weights = {key: value for key, value in maps.items() if key.endswith("weight")}
    if not weights:
        raise ValueError(
            f"The term '{term}' has trained no linear map from the student's embedding to the teacher's width (its "
            "method has none, or both are equally wide): export the embedding as it is (features=True, --features)."
        )
    key, weight = next(iter(weights.items()))
    if len(weights) > 1 or weight.dim() != 2:
        what = f"{len(weights)} maps" if len(weights) > 1 else f"a map of shape {list(weight.shape)}"
        raise ValueError(f"The term '{term}' has {what}, not one of an embedding's rows: it cannot be exported.")
    bias = maps.get(key.removesuffix("weight") + "bias")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()}))
    layer = terms[term].get("student_layer")
    if isinstance(layer, Mapping):
        layer = layer.get("features")
    return linear.eval(), layer if isinstance(layer, str) else None


def _state_with(run: RunStudent) -> dict[str, Tensor]:
    """Return the distiller's state of the checkpoint that has the student's weights."""
    own = run.model.state_dict()
    prefix = f"students.{run.name}."
    files = run.directory.checkpoints.files()
    for file in files:
        try:
            state = run.directory.checkpoints.read(file).get("distiller")
        except ValueError as error:  # what cannot be read is passed over, as a resumed run does
            LOG.warning("%s: trying the one before.", error)
            continue
        state = state if isinstance(state, dict) else {}  # an older one may have lost it
        mine = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if all(key in mine and torch.equal(mine[key], value) for key, value in own.items()):
            return dict(state)
    if not files:
        raise ValueError(
            f"The run in '{run.directory.path}' has no checkpoints any more, which alone hold what its terms trained."
        )
    raise ValueError(
        f"No checkpoint left in '{run.directory.path}' is of the student that is exported (the last two are kept, the "
        "best epoch may be older; an averaged student is in none): the last epoch's student has one (last=True, "
        "--last)."
    )


# The card


def card_of(run: RunStudent) -> CardFacts:
    """Return what a card says of a run's student."""
    options = run.directory.options()
    terms = tuple(
        (each["method"], _weight(each), each.get("hyperparameters") or {})
        for each in run.directory.terms()
        if each.get("student") in (None, run.name)
    )
    training = {"epochs": options.get("epochs"), "seed": options.get("seed"), "precision": options.get("precision")}
    if options.get("optimizer"):
        training["optimizer"] = f"{options['optimizer']['name']} (rate {options['optimizer']['lr']})"
    measured, teacher = _measured(run)
    return CardFacts(
        name=run.config.name.replace("/", "-")
        if run.config is not None and run.config.name
        else run.directory.path.name,
        student=_in_words(run.described.get("model"), run.described.get("factory")),
        teachers=tuple(_teachers(run)) or (("a teacher that was given",) if run.directory.teachers() else ()),
        terms=terms,
        training={key: value for key, value in training.items() if value is not None},
        data=None if run.config is None else shared_name(run.config.data.called),
        measured=measured,
        teacher_numbers=teacher,
    )


def shared_name(data: str) -> str:
    """Return what a card calls the data: of a path only the last part, since a card is shared and paths are private.

    Example:
        >>> shared_name("/home/me/photos"), shared_name("cifar10"), shared_name("package.module:make")
        ('photos', 'cifar10', 'package.module:make')
    """
    return Path(data).name


def _weight(term: Mapping[str, Any]) -> str:
    weight = term["weight"]
    if isinstance(weight, Mapping):
        return ", ".join(f"{part} {value}" for part, value in weight.items())
    return f"{weight} (share {term['share']})" if weight == "balanced" else str(weight)


def _in_words(model: str | None, factory: str | None, weights: str | None = None) -> str:
    name = model or factory
    if name is None:
        return ""
    return f"`{Path(name).name if '/' in name else name}`" + (
        f" with the weights {Path(weights).name}" if weights else ""
    )


def _teachers(run: RunStudent) -> Iterator[str]:
    if run.config is None or run.stage is None:
        return
    tables: dict[str, ModelConfig] = run.config.teachers_of(run.stage)
    for name, teacher in run.stage.teachers().items():
        table = tables[name]
        words = _in_words(table.model, table.factory, table.weights)
        yield f"{words} (trained in the same run, {StudentRef.parse(teacher)})" if isinstance(teacher, str) else words


def _measured(run: RunStudent) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the test numbers of this run and, after them, of those beside it with other seeds; and the teacher's."""
    mine = _test_numbers(run.directory, run.name)
    own = run.directory.path.absolute()
    seeded = _SEED.fullmatch(own.name)
    beside = []
    if seeded:
        folders = sorted(own.parent.glob(f"{glob_safe(seeded[1])}-seed*"))
        beside = [_test_numbers(RunDirectory(f), run.name) for f in folders if f != own and _SEED.fullmatch(f.name)]
    every = [mine, *beside]
    measured = {
        key: [each["best"][key] for each in every if (each.get("best") or {}).get(key) is not None]
        for key in _ON_CARD
        if (mine.get("best") or {}).get(key) is not None
    }
    teacher = {k: v for k in _ON_CARD if (v := (mine.get("teacher") or {}).get(k)) is not None}
    return measured, teacher


def glob_safe(name: str) -> str:
    """Return a name as a pattern that matches it alone.

    Example:
        >>> glob_safe("a[1]*")
        'a[[]1][*]'
    """
    return re.sub(r"([*?[])", r"[\1]", name)


def _test_numbers(directory: RunDirectory, name: str) -> dict[str, Any]:
    path = directory.test_file(name)
    try:
        return dict(test_numbers(path)) if path.is_file() else {}
    except ValueError as error:
        LOG.warning("%s The card says no test numbers of it.", error)
        return {}

"""The costs of a plan's models: one model of each kind, measured on one thread after the cells are finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from congruence.bench.cell import one_thread
from congruence.bench.plan import Cell
from congruence.core.files import read_json, write_json
from congruence.core.kinds import ANY_TABLE
from congruence.evaluation.cost import costs
from congruence.pipeline.build import channels_of
from congruence.pipeline.context import load_splits
from congruence.pipeline.models import build_model
from congruence.pipeline.taken import Taker, as_taken

if TYPE_CHECKING:
    from congruence.config.tables import DataConfig, ModelConfig

FILE = "costs.json"
BATCHES = (1, 64)
Row = Mapping[str, Any]
_Kind = tuple["DataConfig", "ModelConfig"]


def with_costs(
    rows: Iterable[Row], teachers: Mapping[str, Row], cells: Sequence[Cell], out: Path, *, trust: bool = False
) -> tuple[list[Row], dict[str, Row]]:
    """Return a plan's rows and its teachers, by key, each with its model's cost under "cost".

    The numbers are those of `evaluation.cost` at batches of 1 and 64, and `weights_mb`, the 10⁶ bytes of the model's
    weights and buffers. Of several students the first counts, as in the rows' other numbers. They are measured once
    and lie in `costs.json`; of a model that cannot be built or called without its weights they are left out.

    Args:
        rows: of the plan.
        teachers: by the key that cells share.
        cells: of the plan.
        out: the plan's folder.
        trust: whether factories may be imported.
    """
    kinds, of_row, of_teacher = dict[str, _Kind](), dict[tuple[str, str], str](), dict[str, str]()
    for cell in cells:
        stage = cell.config.stages[cell.config.last]
        name, kind = _named(cell.config.data, next(iter(stage.students().values())))
        kinds[name] = kind
        of_row[cell.method, cell.variant] = name
        teacher = cell.config.teacher_of(stage)
        if teacher is not None and cell.has_teacher and cell.teacher_key() in teachers:
            name, kind = _named(cell.config.data, teacher)
            kinds[name] = kind
            of_teacher[cell.teacher_key()] = name
    found = _known(out / FILE) if (out / FILE).is_file() else {}
    if kinds.keys() - found.keys():
        found |= _measured({name: kind for name, kind in kinds.items() if name not in found}, trust=trust)
        write_json(out / FILE, found)
    return (
        [{**row, "cost": found.get(of_row.get((row["method"], row["variant"]), ""))} for row in rows],
        {key: {**row, "cost": found.get(of_teacher.get(key, ""))} for key, row in teachers.items()},
    )


def _named(data: DataConfig, model: ModelConfig) -> tuple[str, _Kind]:
    """Return a model's kind under a name: whatever its weights, and however many samples have labels."""
    data = data.model_copy(update={"labels_per_class": None})
    model = model.model_copy(update={"weights": None, "start": None, "start_stage": None})
    name = model.model or (model.factory or "").rpartition(":")[2]
    return f"{name} {hashlib.sha256(repr((data, model)).encode()).hexdigest()[:12]}", (data, model)


def _known(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(read_json(path, {"*": ANY_TABLE}))
    except ValueError:  # damaged, and soon measured again
        return {}


def _measured(kinds: Mapping[str, _Kind], *, trust: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for data in dict.fromkeys(repr(data) for data, _ in kinds.values()):
        together = {name: kind for name, kind in kinds.items() if repr(kind[0]) == data}
        with one_thread():
            found |= dict(_side_by_side(together, trust=trust))
    return found


def _side_by_side(kinds: Mapping[str, _Kind], *, trust: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    splits = load_splits(next(iter(kinds.values()))[0], trust=trust)
    classes, channels = splits.train.classes, channels_of(splits)
    models: dict[str, nn.Module] = {}
    for name, (_, table) in kinds.items():
        try:
            models[name] = build_model(table, classes=classes, in_channels=channels, trust=trust)
        except (ValueError, OSError) as error:
            yield name, {"left_out": str(error)}
    takers = {name: Taker.of(model, kinds[name][1]) for name, model in models.items()}
    example = as_taken(splits, takers, {}, told=False, alike=False).train.example() if models else None
    for group in (list(models), *([name] for name in models)):  # one by one where one of them does not run
        try:
            measured = costs({name: models[name] for name in group}, example, batches=BATCHES)
        except ValueError as error:
            if len(group) == 1:
                yield group[0], {"left_out": str(error)}
            continue
        for name, cost in measured.items():
            yield name, {"weights_mb": _megabytes(models[name]), **cost}
        if len(group) == len(models):
            return


def _megabytes(model: nn.Module) -> float:
    tensors = {id(each): each for each in model.state_dict(keep_vars=True).values() if isinstance(each, torch.Tensor)}
    return round(sum(each.numel() * each.element_size() for each in tensors.values()) / 1e6, 3)

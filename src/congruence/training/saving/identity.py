"""The identity of a run: the settings that must stay the same when it is resumed, and the exceptions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from congruence.core import ranks
from congruence.core.inputs import TEACHER
from congruence.data.loading.source import BatchSource
from congruence.distiller import Distiller
from congruence.models.sharded import is_sharded

LOG = logging.getLogger("congruence")
# `FitOptions` that may change: where a run is, what observes it and how often it saves, not what it computes. `monitor`
# is compared with the checkpoint, which knows whether a best epoch has been chosen by it.
OPTIONS_APART = frozenset(
    (
        *("out", "device", "resume", "evaluate", "monitor", "callbacks", "diagnose"),
        *("gradient_norms", "checkpoint_seconds", "tensorboard"),
    )
)
# Configuration keys that may change ("*" is any name): the same options, the paths of data and caches, and what is
# measured.
CONFIG_APART = (
    "data.root",
    "diagnostics",
    "protocol",
    "stages.*.teacher_cache.folder",
    *(f"stages.*.train.{key}" for key in ("device", "workers", "gradient_norms", "checkpoint_seconds", "tensorboard")),
)
# Configuration keys that may differ for a plan's teacher: cells of several recipes share one teacher.
TEACHER_APART = ("name", "extends")


def run_identity(
    distiller: Distiller, source: BatchSource, options: Mapping[str, Any], *, steps: int, stepped: Collection[Any]
) -> dict[str, Any]:
    """Return the identity of a run of `fit` as plain values.

    Args:
        distiller: the distiller with its terms.
        source: the source of training batches.
        options: the result of `FitOptions.describe`.
        steps: steps in an epoch.
        stepped: the optimizers, and the caller's scheduler.
    """
    found = {name: teacher.fingerprint() for name, teacher in distiller.teachers.items()}
    for teacher in found.values():
        if teacher.unreadable:
            LOG.warning("This run cannot be resumed: %s.", teacher.reason())
    contents = {name: teacher.content for name, teacher in found.items()}
    structures = {name: teacher.structure for name, teacher in found.items()}
    arithmetics = {name: teacher.arithmetic for name, teacher in distiller.teachers.items()}
    stored = {name: cache.describe() for name, cache in distiller.caches.items()}
    return {
        "terms": [term.describe() for term in distiller.terms],
        "students": {name: _architecture(module) for name, module in distiller.students.items()},
        "teacher": _alone(contents, None),
        "teacher_structure": _alone(structures, None),
        "teacher_arithmetic": _alone(arithmetics, ""),
        "teacher_cache": _alone(stored, None),
        "options": dict(options),
        "data": {"steps": steps, **source.describe()},
        "ranks": None if options.get("shard") or is_sharded(distiller.students) else ranks.world_size(),
        "stepped": [type(part).__name__ for part in stepped],
    }


def more_epochs(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two nested tables (a run's identity, or a stage's training) differ only by a larger `epochs`.

    Runs that `max_steps` ends may have ended within an epoch, so they cannot get more epochs.

    Example:
        >>> schedule = {"name": "constant"}
        >>> more_epochs({"epochs": 2, "schedule": schedule}, {"epochs": 3, "schedule": schedule})
        True
        >>> more_epochs({"epochs": 2, "schedule": schedule}, {"epochs": 1, "schedule": schedule})
        False
    """
    first, second = before.get("epochs"), now.get("epochs")
    if not (isinstance(first, int) and isinstance(second, int) and first < second):
        return False
    known = "schedule" in now and now.get("max_steps") is None
    return known and {**before, "epochs": second} == dict(now)


def check_goes_on(
    where: str, before: Mapping[str, Any], now: Mapping[str, Any], way: str, *, own: str | None = None
) -> str:
    """Describe what the learning rate does in a run that gets more epochs.


    Args:
        where: the run's folder.
        before: the run's options, with `epochs` and `schedule`.
        now: these options with more epochs.
        way: how a new run can start from the last weights, for the error.
        own: the class of the caller's scheduler, if there is one.

    Raises:
        ValueError: for a schedule that depends on the earlier number of epochs.
    """
    name = dict(now.get("schedule") or {}).get("name")
    if own is None and name not in ("constant", "step"):
        raise ValueError(
            f"The run in '{where}' cannot go on from {before['epochs']} to {now['epochs']} epochs: its {name} schedule "
            f"is laid out to bring the learning rate down over {before['epochs']}. Start another run from its student "
            f"({way}), or train anew with a schedule that can be lengthened (constant or step). Nothing in it was "
            f"changed."
        )
    course = (
        f"goes on as your {own} has it" if own else "falls at its milestones" if name == "step" else "stays the same"
    )
    epochs = f"from {before['epochs']} to {now['epochs']} epochs"
    return f"The run in '{where}' goes on {epochs}: its learning rate {course}."


def options_identity(options: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of options, without those of `OPTIONS_APART`, as plain values."""
    return {
        each.name: _plain(getattr(options, each.name)) for each in fields(options) if each.name not in OPTIONS_APART
    }


def config_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, given as plain values, without what `CONFIG_APART` names."""
    return _without(values, [key.split(".") for key in CONFIG_APART])


def _without(values: Mapping[str, Any], paths: Collection[list[str]]) -> dict[str, Any]:
    left = {}
    for key, value in values.items():
        below = [path[1:] for path in paths if path[0] in (key, "*")]
        if [] not in below:
            left[key] = _without(value, below) if isinstance(value, Mapping) and below else value
    return left


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _alone(by_teacher: Mapping[str, Any], none: Any) -> Any:
    """Return a single teacher's value as it is, several teachers' values by name."""
    return by_teacher.get(TEACHER, none) if set(by_teacher) <= {TEACHER} else dict(by_teacher)


def _architecture(module: nn.Module) -> str:
    state = module.state_dict().items()
    shapes = str([(key, list(value.shape)) for key, value in state if isinstance(value, Tensor)])
    return hashlib.sha256(shapes.encode()).hexdigest()[:16]

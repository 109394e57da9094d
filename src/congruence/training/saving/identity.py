"""What makes a run the run it is. Two runs that differ in it are not one run; what may differ stands here alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from congruence.core import ranks
from congruence.core.fingerprint import fingerprint
from congruence.data.loading.source import BatchSource
from congruence.distiller import Distiller

# Of `FitOptions`: where a run is, what watches it and how often it saves, not what it computes. `monitor` is asked of
# the checkpoint, which knows whether a best epoch was chosen by it yet.
OPTIONS_APART = frozenset(
    (
        *("out", "device", "resume", "evaluate", "monitor", "callbacks", "diagnose"),
        *("gradient_norms", "checkpoint_seconds", "tensorboard"),
    )
)
# Of a configuration, "*" for any name: the same, and where the data and the teacher's answers lie.
CONFIG_APART = (
    "data.root",
    "diagnostics",
    "stages.*.teacher_cache.folder",
    *(f"stages.*.train.{key}" for key in ("device", "workers", "gradient_norms", "checkpoint_seconds", "tensorboard")),
)
# Of the configuration of a plan's teacher: cells of several recipes share one.
TEACHER_APART = ("name", "extends")


def run_identity(
    distiller: Distiller, source: BatchSource, options: Mapping[str, Any], *, steps: int, stepped: Collection[Any]
) -> dict[str, Any]:
    """Return the identity of a run of `fit` as plain values.

    Args:
        distiller: with its terms.
        source: of the training batches.
        options: of `FitOptions.describe`.
        steps: in an epoch.
        stepped: the optimizers, and the caller's scheduler.
    """
    return {
        "terms": [term.describe() for term in distiller.terms],
        "students": {name: _architecture(module) for name, module in distiller.students.items()},
        "teacher": fingerprint(distiller.teacher.module.state_dict()) if distiller.teacher else None,
        "teacher_cache": distiller.cache.describe() if distiller.cache else None,
        "options": dict(options),
        "data": {"steps": steps, **source.describe()},
        "ranks": ranks.world_size(),
        "stepped": [type(part).__name__ for part in stepped],
    }


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


def _architecture(module: nn.Module) -> str:
    state = module.state_dict().items()
    shapes = str([(key, list(value.shape)) for key, value in state if isinstance(value, Tensor)])
    return hashlib.sha256(shapes.encode()).hexdigest()[:16]

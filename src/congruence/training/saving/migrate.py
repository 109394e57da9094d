"""Converts files of older versions to the current format; the only place that knows about versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from congruence.methods.descriptions import current_descriptions

FORMAT = 3  # of a checkpoint
ANY_MONITOR = "*"  # for a checkpoint from before the monitored number was recorded
# The old name of the cosine version; files that have both use today's names.
_RENAMED_NUMBERS = {"kernel_transfer_error": "cosine_kernel_transfer_error"}
# Options that an older `run.json` does not contain.
_YOUNGER_FACTS = frozenset(("teacher_structure", "teacher_arithmetic"))
_YOUNGER_OPTIONS = {
    "micro_batch": None,
    "channels_last": False,
    "compile": False,
    "teacher_speed": "exact",
    "one_standard_error": False,
    "sync_batch_norm": False,
    "shard": None,
}


def migrate_checkpoint(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a checkpoint in the current format; None for an unknown version.

    Format 1 had lists instead of parts with their own `state_dict`; in format 2 the recorder still had one tensor for
    each value.

    Example:
        >>> migrate_checkpoint({"congruence": 1, "position": [0, 2, 2, 1.5]})["position"]
        {'epoch': 0, 'batch': 2, 'step': 2, 'seconds': 1.5}
        >>> migrate_checkpoint({"congruence": 99}) is None
        True
    """
    if state.get("congruence") not in (1, 2, FORMAT):
        return None
    changed = {**state, "congruence": FORMAT}
    if state["congruence"] != FORMAT and "recorder" in state:
        recorder = state["recorder"]
        changed["recorder"] = {**recorder, **_by_group(recorder["sums"], recorder["counts"])}
    if state["congruence"] != 1:
        return changed
    if "position" in state:
        changed["position"] = dict(zip(("epoch", "batch", "step", "seconds"), state["position"], strict=True))
    for number, optimizer in enumerate(changed.pop("optimizers", [])):
        changed[f"optimizer.{number}"] = optimizer
    if changed.get("scheduler", {}) is None:
        del changed["scheduler"]
    for name, key in (("generators", "ranks"), ("loader", "generators"), ("history", "epochs")):
        if name in state:
            changed[name] = {key: state[name]}
    if "best" in state:
        changed["best"] = {"monitor": ANY_MONITOR, **state["best"]}
    return changed


def _by_group(sums: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """Return sums and counts grouped by names with a common count, instead of by single name."""
    groups = {count: tuple(name for name in counts if counts[name] == count) for count in counts.values()}
    together = {names: torch.stack([sums[name] for name in names]) for names in groups.values()}
    return {"sums": together, "counts": {names: count for count, names in groups.items()}}


def migrate_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an older `run.json` with the options that it lacks, and with today's names of parts."""
    options = {**_YOUNGER_OPTIONS, **identity["options"]}
    return {**identity, "options": options, "terms": current_descriptions(identity["terms"])}


def without_younger(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the keys that an older one lacks, for comparing the two."""
    return {key: value for key, value in now.items() if key in before or key not in _YOUNGER_FACTS}


def migrate_numbers(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a run's test.json or a plan's cell under today's names.

    Example:
        >>> migrate_numbers({"gpcl": 0.9, "kernel_transfer_error": 0.2})
        {'gpcl': 0.9, 'cosine_kernel_transfer_error': 0.2}
        >>> migrate_numbers({"kernel_transfer_error": 0.3, "cosine_kernel_transfer_error": 0.2})
        {'kernel_transfer_error': 0.3, 'cosine_kernel_transfer_error': 0.2}
    """
    renamed = {old: new for old, new in _RENAMED_NUMBERS.items() if new not in stored}
    return {renamed.get(key, key): value for key, value in stored.items()}

"""The sharded tensors of a checkpoint, in a folder of torch.distributed.checkpoint beside the checkpoint's own file.

The file holds a mark in the place of each DTensor. Each rank writes and reads its own parts alone, so that a run can
be resumed on another number of ranks.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from congruence.core.ranks import on_rank_zero, world_size
from congruence.models.sharded import is_shard

KEY = "shards"  # of a checkpoint: the name of the folder
_MARK = "congruence shard"
Keys = tuple[Any, ...]  # keys from the state of all parts down to a tensor


def split(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a state with a mark in the place of each DTensor, and the DTensors by the marks' names.

    Example:
        >>> split({"model": {"weight": torch.ones(1)}})
        ({'model': {'weight': tensor([1.])}}, {})
    """
    shards: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if is_shard(value):
            shards[path] = value.detach()
            return {_MARK: path, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        if isinstance(value, Mapping):
            return {key: walk(inner, f"{path}/{key}".lstrip("/")) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner, f"{path}/{number}") for number, inner in enumerate(value)]
        return value

    return {key: walk(value, key) for key, value in state.items()}, shards


def write(folder: Path, step: int, shards: dict[str, Tensor]) -> str:
    """Write DTensors into a new folder among a run's checkpoints, and return its name; all ranks must call this."""
    from torch.distributed.checkpoint.state_dict_saver import save

    def unused() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        taken = {path.name for path in folder.iterdir()}
        return next(name for name in (f"step-{step:09d}-{n}.dcp" for n in range(10**6)) if name not in taken)

    name = on_rank_zero(unused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(shards, checkpoint_id=folder / name)
    return name


def complete(folder: Path, state: Mapping[str, Any]) -> bool:
    """Whether the folder that a checkpoint names is there, and was written to its end; True if it names none."""
    return KEY not in state or (folder / str(state[KEY]) / ".metadata").is_file()


def drop(folder: Path, kept: Collection[str], newest: str, state: Mapping[str, Any]) -> None:
    """Remove the folders of checkpoints that are gone, and those of the newest that it does not name.

    Args:
        folder: the folder of checkpoints.
        kept: stems of the files that are left ("step-000000010").
        newest: the stem of the newest file.
        state: the newest file's content.
    """
    for path in folder.glob("step-*.dcp"):
        of_file = path.name.rpartition("-")[0]
        if of_file not in kept or (of_file == newest and path.name != state.get(KEY)):
            shutil.rmtree(path, ignore_errors=True)


def joined(state: Mapping[str, Any], folder: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state with its tensors as the parts of this run want them: sharded over its ranks, or not.

    Args:
        state: the content of the checkpoint's file.
        folder: the folder of checkpoints.
        parts: of the run, whose models and optimizers tell how each tensor is sharded now. All ranks must call this.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    wanted = _templates(parts)
    marked = _marks(state)
    read = {name: _empty(mark, wanted.get(path)) for path, (name, mark) in marked.items()}
    if read:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(read, checkpoint_id=folder / str(state[KEY]))

    def walk(value: Any, path: Keys) -> Any:
        if path in marked:
            return read[marked[path][0]]
        if isinstance(value, Tensor) and value.dim() and path in wanted and not is_shard(value):
            return _divided(value, wanted[path])  # of a run on a single process
        if isinstance(value, Mapping):
            return {key: walk(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner, (*path, number)) for number, inner in enumerate(value)]
        return value

    whole = {key: walk(value, (key,)) for key, value in state.items() if key != KEY}
    for name, part in parts.items() if read or wanted else ():
        if isinstance(part, Optimizer) and name in whole:
            whole[name] = {**whole[name], "param_groups": _with_own_kernels(whole[name]["param_groups"], part)}
    return whole


def _with_own_kernels(saved: Sequence[Mapping[str, Any]], optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return saved parameter groups with the kernels of this process: fused ones take no shards."""
    now = [{key: group.get(key) for key in ("fused", "foreach")} for group in optimizer.param_groups]
    return [{**group, **kernels} for group, kernels in zip(saved, now, strict=True)]


def _marks(state: Mapping[str, Any]) -> dict[Keys, tuple[str, Mapping[str, Any]]]:
    found: dict[Keys, tuple[str, Mapping[str, Any]]] = {}

    def walk(value: Any, path: Keys) -> None:
        if isinstance(value, Mapping) and _MARK in value:
            found[path] = str(value[_MARK]), value
        elif isinstance(value, Mapping | list):
            for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
                walk(inner, (*path, key))

    walk(state, ())
    return found


class _Everywhere(dict[Keys, Any]):
    """DTensors by path; the state of an optimizer is sharded as its parameter, whatever the name of the tensor."""

    def get(self, path: Keys, default: Any = None) -> Any:
        return super().get(path, super().get(path[:3], default))

    def __contains__(self, path: object) -> bool:
        return isinstance(path, tuple) and self.get(path) is not None

    def __getitem__(self, path: Keys) -> Any:
        return self.get(path)


def _templates(parts: Mapping[str, Any]) -> _Everywhere:
    """Return the DTensors of a run by their paths in its state, those of optimizers by (part, "state", number)."""
    found = _Everywhere()
    for name, part in parts.items():
        if isinstance(part, Optimizer):
            stepped = [parameter for group in part.param_groups for parameter in group["params"]]
            found.update({(name, "state", at): p for at, p in enumerate(stepped) if is_shard(p)})
        elif isinstance(part, torch.nn.Module):
            found.update({(name, key): value for key, value in part.state_dict().items() if is_shard(value)})
    return found


def _empty(mark: Mapping[str, Any], like: Any) -> Tensor:
    """Return the tensor into which what a mark stands for is read."""
    dtype = getattr(torch, mark["dtype"])
    if like is None:
        return torch.empty(mark["shape"], dtype=dtype)
    from torch.distributed.tensor import empty

    return empty(mark["shape"], dtype=dtype, device_mesh=like.device_mesh, placements=like.placements)


def _divided(value: Tensor, like: Any) -> Any:
    """Return a whole tensor sharded as another, which must have its shape."""
    from torch.distributed.tensor import distribute_tensor

    if value.shape != like.shape or world_size() == 1:
        return value
    device = like.device_mesh.device_type
    return distribute_tensor(value.to(device), like.device_mesh, like.placements, src_data_rank=None)

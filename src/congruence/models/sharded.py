"""Models that FSDP2 (`torch.distributed.fsdp.fully_shard`) has sharded, by the caller or by `fit`.

A sharded model's parameters are DTensors, of which each rank holds a part. During a forward they are whole, plain
tensors; hooks see plain tensors, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core.graph import leaves
from congruence.core.ranks import means_over_ranks
from congruence.models.layers import LayerPath, Layers

_FSDP = "torch.distributed.fsdp"


def is_group(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on this very module.

    Example:
        >>> is_group(nn.Linear(2, 2))
        False
    """
    # Where FSDP was never imported nothing is sharded; importing it here would load all of it in every process.
    loaded = sys.modules.get(_FSDP)
    return loaded is not None and isinstance(module, loaded.FSDPModule)


def is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on a module or on a part of it.

    Example:
        >>> is_sharded(nn.Sequential(nn.Linear(2, 2)))
        False
    """
    # Where FSDP was never imported nothing is, and a forward need not walk over its model.
    return _FSDP in sys.modules and any(is_group(part) for part in module.modules())


def is_shard(tensor: Any) -> bool:
    """Whether a tensor is a DTensor, of which each rank holds a part.

    Example:
        >>> is_shard(torch.ones(2))
        False
    """
    return hasattr(tensor, "placements") and hasattr(tensor, "full_tensor")


def whole(value: Any) -> Any:
    """Return a DTensor as a plain tensor with the values of all ranks, which must all call this; others as they are.

    Example:
        >>> whole(torch.ones(2))
        tensor([1., 1.])
    """
    return value.detach().full_tensor() if is_shard(value) else value


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with whole tensors in place of DTensors; all ranks must call this.

    Example:
        >>> sorted(whole_state(nn.Linear(2, 2).state_dict()))
        ['bias', 'weight']
    """
    return {name: whole(value) for name, value in state.items()}


def at_rest(module: nn.Module) -> None:
    """Let a sharded model hold its own parts of the parameters alone, as before a forward that no backward follows.

    FSDP keeps the root's parameters whole from a forward to its backward, and `parameters()` gives the whole ones
    meanwhile: an optimizer that is made then would step copies.

    Example:
        >>> at_rest(nn.Linear(2, 2))
    """
    for part in module.modules() if _FSDP in sys.modules else ():
        if is_group(part):
            group: Any = part
            group.reshard()


def wake_in_backward(model: nn.Module, module: nn.Module, side: str, tensor: Tensor) -> None:
    """Let the backward of a tapped tensor gather the parameters that it goes through.

    FSDP gathers a group's parameters when a gradient reaches the group's output. A gradient that starts at a tensor
    inside the group does not pass there: without this hook it would meet freed memory, or not be reduced at all.

    Args:
        model: the whole model.
        module: the layer that was tapped.
        side: "input" or "output" of the layer.
        tensor: what was taken there.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> wake_in_backward(layer, layer, "output", layer(torch.ones(1, 2)))
    """
    if not tensor.requires_grad:
        return
    around = [part for part in model.modules() if is_group(part) and any(inner is module for inner in part.modules())]
    groups: list[Any] = [part for part in around if side == "output" or part is not module]
    states = [group._get_fsdp_state() for group in groups]

    def hook(gradient: Tensor) -> None:
        for state in states:
            state._pre_backward(gradient)

    if states:
        tensor.register_hook(hook)


def dtype_of_shards(model: nn.Module) -> torch.dtype | None:
    """Return the dtype of a model's sharded parameters; None if none is sharded, or all are whole in a forward.

    Example:
        >>> dtype_of_shards(nn.Linear(2, 2)) is None
        True
    """
    return next((p.dtype for p in model.parameters() if is_shard(p) and p.is_floating_point()), None)


class ShardedForward:
    """What taps do around a model's forward if the model is sharded; nothing where it is not.

    Example:
        >>> around, layer = ShardedForward(), nn.Linear(2, 2)
        >>> around.before(layer)
        >>> around.after(Layers(layer, "student"), {"output": torch.ones(1)}, {}, {})
        {'output': tensor([1.])}
    """

    def __init__(self) -> None:
        self._sharded = False
        self._dtype: torch.dtype | None = None

    def before(self, model: nn.Module) -> None:
        """Note whether the model is sharded by now, and the dtype of its parameters."""
        self._sharded = is_sharded(model)
        if self._sharded:
            self._dtype = dtype_of_shards(model) or self._dtype

    def after(
        self, layers: Layers, values: dict[str, Tensor], paths: Mapping[str, LayerPath], targets: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Return the tapped tensors in the dtype of the parameters, with what a backward needs of FSDP.

        Inside, a policy of mixed precision computes in another dtype, which the terms' own modules do not have. Under
        autocast tensors stay as they are.

        Args:
            layers: of the model.
            values: what was tapped, by the text of the path.
            paths: the paths by their text.
            targets: the name of the layer of each path.
        """
        if not self._sharded:
            return values
        if not torch.is_grad_enabled():
            at_rest(layers.inner)
        for text, value in values.items():
            wake_in_backward(layers.inner, layers.modules[targets[text]], paths[text].side, value)
        return {text: self._in_dtype(value) for text, value in values.items()}

    def _in_dtype(self, tensor: Tensor) -> Tensor:
        if self._dtype is None or not tensor.is_floating_point() or torch.is_autocast_enabled(tensor.device.type):
            return tensor
        return tensor.to(self._dtype)


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm over all gradients: √(Σ ‖g‖²), where a DTensor counts as the whole; all ranks must call this.

    Example:
        >>> global_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    shards = [gradient for gradient in gradients if is_shard(gradient)]
    plain = [gradient for gradient in gradients if not is_shard(gradient)]
    if not shards:
        return torch.nn.utils.get_total_norm(plain)
    norms: list[Tensor] = [whole(torch.nn.utils.get_total_norm(each)) for each in _by_mesh(shards)]
    norms += [torch.nn.utils.get_total_norm(plain)] if plain else []
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms])) if norms[1:] else norms[0]


def _by_mesh(shards: Iterable[Any]) -> list[list[Any]]:
    """Group DTensors that can be computed with together: those of one mesh with equal placements."""
    found: dict[Any, list[Any]] = {}
    for shard in shards:
        found.setdefault((shard.device_mesh, shard.placements), []).append(shard)
    return list(found.values())


def mean_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of the ranks' mean gradient; FSDP has taken the mean of DTensors already.

    Example:
        >>> mean_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    plain = [gradient for gradient in gradients if not is_shard(gradient)]
    shards = [gradient for gradient in gradients if is_shard(gradient)]
    return global_norm([*means_over_ranks(plain), *shards]) if shards else global_norm(means_over_ranks(plain))


def own_backward(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return ∂loss/∂parameters by a backward of its own, which leaves every `.grad` as it was.

    Under FSDP2 `torch.autograd.grad` gives unaveraged gradients of the root's parameters and none of the others'.

    Args:
        loss: a scalar whose graph is kept.
        parameters: the students' parameters at rest (see `at_rest`): DTensors, and plain ones of other students.

    Returns:
        The gradients, 0 where the loss does not reach.
    """
    known = {id(p) for p in parameters}
    touched = [*parameters, *(leaf for leaf in leaves([loss]) if leaf.is_leaf and id(leaf) not in known)]
    before = [parameter.grad for parameter in touched]
    for parameter in touched:
        parameter.grad = None
    try:
        loss.backward(retain_graph=True)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for parameter, gradient in zip(touched, before, strict=True):
            parameter.grad = gradient

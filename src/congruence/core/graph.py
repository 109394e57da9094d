"""The graph that a tensor's backward goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import CheckpointFunction


def nodes(tensors: Sequence[Tensor]) -> Iterator[Node]:
    """Yield the nodes that the backward of some tensors goes through, each once.

    Example:
        >>> import torch
        >>> [node.name() for node in nodes([torch.ones(2, requires_grad=True).exp()])]
        ['ExpBackward0', 'torch::autograd::AccumulateGrad']
    """
    stack: list[Node | None] = [tensor.grad_fn for tensor in tensors]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack += [before for before, _ in node.next_functions]


def function_of(node: Node) -> type | None:
    """Return the `torch.autograd.Function` of a node, None where it is torch's own operation."""
    function: type | None = getattr(node, "_forward_cls", None)
    return function


def checkpoints_reentrantly(tensors: Sequence[Tensor]) -> bool:
    """Whether the backward of some tensors goes through activation checkpointing with use_reentrant=True."""
    return any(function_of(node) is CheckpointFunction for node in nodes(tensors))

"""Walks over the autograd graph of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import CheckpointFunction

_WITHOUT = ("NotImplemented", "torch::autograd::Error")  # the node of an operation without a derivative


def nodes(tensors: Sequence[Tensor], *, passing: bool = False) -> Iterator[Node]:
    """Yield each node of the autograd graph behind some tensors once.

    With `passing`, the walk stops at operations without a derivative (quantised ones): torch gives them a node that
    passes no gradient on.

    Example:
        >>> import torch
        >>> [node.name() for node in nodes([torch.ones(2, requires_grad=True).exp()])]
        ['ExpBackward0', 'torch::autograd::AccumulateGrad']
    """
    stack: list[Node | None] = [tensor.grad_fn for tensor in tensors]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen and not (passing and node.name().endswith(_WITHOUT)):
            seen.add(node)
            yield node
            stack += [before for before, _ in node.next_functions]


def leaves(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield each leaf tensor (usually a parameter) that gets a gradient from some tensors, once.

    Example:
        >>> import torch
        >>> weight = torch.ones(2, requires_grad=True)
        >>> [leaf is weight for leaf in leaves([weight.exp()])], list(leaves([weight.exp().detach()]))
        ([True], [])
    """
    yield from (tensor for tensor in tensors if tensor.requires_grad and tensor.grad_fn is None)
    for node in nodes(tensors, passing=True):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf


def leads_to(tensors: Sequence[Tensor], sources: Sequence[Tensor]) -> bool:
    """Whether a gradient goes from any of some tensors to any of the sources.

    Example:
        >>> import torch
        >>> hidden = torch.ones(2, requires_grad=True) * 2
        >>> leads_to([hidden.exp()], [hidden]), leads_to([hidden.detach().exp()], [hidden])
        (True, False)
    """
    ends = {tensor.grad_fn for tensor in sources if tensor.grad_fn is not None}
    ids = {id(tensor) for tensor in sources}
    if any(id(tensor) in ids for tensor in tensors):
        return True
    return any(node in ends or id(getattr(node, "variable", None)) in ids for node in nodes(tensors, passing=True))


def function_of(node: Node) -> type | None:
    """Return the `torch.autograd.Function` of a node, None if it is one of torch's own operations."""
    function: type | None = getattr(node, "_forward_cls", None)
    return function


def checkpoints_reentrantly(tensors: Sequence[Tensor]) -> bool:
    """Whether the backward of some tensors goes through activation checkpointing with use_reentrant=True."""
    return any(function_of(node) is CheckpointFunction for node in nodes(tensors))


class _NoFurther(torch.autograd.Function):
    """The identity, whose derivative raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, function: str, reason: str) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str, str], output: Tensor) -> None:
        ctx.function, ctx.reason = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        raise ValueError(f"`{ctx.function}` must be differentiated once, got a second time: {ctx.reason}.")

    jvp = backward


def differentiable_once(function: str, reason: str, *tensors: Tensor) -> None:
    """Make a second derivative through `tensors` raise, where it would be silently wrong or impossible.

    The tensors must be results of operations, not leaves, because a leaf's other uses may have second derivatives; and
    the gradient must depend on them, since for a constant torch itself raises that there is no graph.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = x * 1
        >>> differentiable_once("squares", "y stands in its gradient as a constant", y)
        >>> (gradient,) = torch.autograd.grad((y * y * y.detach()).sum(), x, create_graph=True)
        >>> gradient.sum().backward()
        Traceback (most recent call last):
        ValueError: `squares` must be differentiated once, got a second time: y stands in its gradient as a constant.
    """
    if torch.compiler.is_compiling():  # a compiled graph has no second derivative at all
        return
    for tensor in tensors:
        if tensor.requires_grad:
            tensor.register_hook(lambda g: _NoFurther.apply(g, function, reason) if torch.is_grad_enabled() else None)

"""Numerics that all relational losses use: float32 under autocast, and norms with a gradient at zero."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
_SHORTEST, _LONG, _PART = 1e-30, 1e30, 2.0**-64


def widen(tensor: Tensor) -> Tensor:
    """Return half-precision tensors as float32, all others unchanged.

    Example:
        >>> widen(torch.ones(2, dtype=torch.bfloat16)).dtype, widen(torch.ones(2, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def as_float64(tensor: Tensor) -> Tensor:
    """Return the tensor in float64 if its device supports it: the last digits of a Gram matrix separate tight clusters.

    Example:
        >>> as_float64(torch.ones(2)).dtype
        torch.float64
    """
    return tensor if tensor.device.type == "mps" else tensor.double()


def _widen_any(value: Any) -> Any:
    if isinstance(value, Tensor):
        return widen(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, Tensor) for item in value):
        return type(value)(widen(item) for item in value)
    return value


def _device_type(values: Iterable[Any]) -> str:
    for value in values:
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(first, Tensor):
            return "cpu" if first.is_meta else first.device.type  # the device meta has no autocast
    return "cpu"


def float32_island(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` with autocast off and its half-precision tensor arguments widened to float32.

    In bfloat16, distances and Gram matrices of tight clusters lose all their digits, and autocast would compute them
    so.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(device_type=_device_type((*args, *kwargs.values())), enabled=False):
            wide_args = [_widen_any(a) for a in args]
            wide_kwargs = {name: _widen_any(a) for name, a in kwargs.items()}
            try:
                return function(*wide_args, **wide_kwargs)
            except RuntimeError as error:
                if torch._C._are_functorch_transforms_active():
                    raise ValueError(
                        f"`{function.__name__}`: it reads values, which torch.func and torch.vmap keep back "
                        f"({str(error).splitlines()[0][:80]}...). Take torch.autograd.grad, or a loop over the batches."
                    ) from error
                raise

    return wrapper


def safe_sqrt(squares: Tensor) -> Tensor:
    """Square root of max(x, 0) whose gradient is 0, not infinite, where the root is 0; NaN stays NaN."""
    positive = ~(squares <= 0)
    return torch.where(positive, squares, torch.ones_like(squares)).sqrt() * positive


def safe_norm(tensor: Tensor, dim: int = -1, *, keepdim: bool = False) -> Tensor:
    """Euclidean norm along `dim` with gradient 0 at zero rows, without overflow or underflow of the squares.

    Example:
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
        >>> safe_norm(x).sum().backward()
        >>> x.grad.tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    root, scale = _root_and_scale(tensor, dim)
    norm = root * scale
    return norm if keepdim else norm.squeeze(dim)


def _root_and_scale(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return two factors whose product is the norm; the second is the largest magnitude, treated as a constant."""
    scale = tensor.detach().abs().amax(dim, keepdim=True)
    scale = torch.where(~(scale <= 0), scale, torch.ones_like(scale))
    return safe_sqrt((tensor / scale).square().sum(dim, keepdim=True)), scale


def unit(tensor: Tensor, dim: int = -1) -> Tensor:
    """Divide by the Euclidean norm along `dim`; zero rows stay zero, with zero gradient.

    Rows shorter than 1e-30 count as zero, because 1/length would overflow in a float32 gradient. A row with a
    non-finite entry becomes all NaN.
    """
    root, scale = _root_and_scale(tensor, dim)
    # Scaled by a power of two, since the norm itself may exceed the range of the type.
    part = torch.where(scale > _LONG, _PART, torch.ones_like(scale))
    norm = root * (scale * part)
    positive = ~(norm <= _SHORTEST)
    return tensor / torch.where(positive, norm, torch.ones_like(norm)) * (positive * part)


def rescaled(tensor: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """Divide by the largest magnitude over `dims` (None:

    all), as a constant, for functions that ignore the scale. Squares of the result neither overflow nor underflow.
    Tensors without an entry above 1e-30 are returned unchanged.

    Example:
        >>> rescaled(torch.tensor([[1e30, -2e30], [0.0, 0.0]]), (1,)).tolist()
        [[0.5, -1.0], [0.0, 0.0]]
    """
    largest = tensor.detach().abs()
    largest = largest.amax() if dims is None else largest.amax(dims, keepdim=True)
    return tensor / torch.where(~(largest <= _SHORTEST), largest, torch.ones_like(largest))

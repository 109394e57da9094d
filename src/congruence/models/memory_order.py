"""The memory order of a network's weights, and so of its maps, and the rule that chooses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from congruence.core.devices import tensors
from congruence.models.layers import has_compiled

FEWEST = 2  # convolutions: a single one before a transformer changes nothing
WIDEST = 128  # channels that enter a convolution: beyond, float32 on a processor is slower (1.05 to 2.7 times)
TENSOR_CORES = (7, 0)  # compute capability from which a GPU has them
CLOSE = 1e-3  # of the largest value: rounding moves an output by some 1e-6 of it, a wrong reading by all of it


def prefers_channels_last(module: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a network's two-dimensional convolutions are faster with the channels last in memory.

    The rule, read off `benchmarks/memory_order.py` and depending on nothing that changes between two runs on machines
    of one kind:

    * the device is an x86 processor with AVX2 or AVX-512, or a CUDA GPU with tensor cores (others were not measured);
    * there are two such convolutions or more, most of all convolutions;
    * none is grouped, unless each group is one channel (depthwise): what mixes groups between them reorders the maps;
    * in float32 on a processor at most 128 channels enter any that is larger than 1×1.

    Args:
        module: the network, in float32.
        device: where it runs.
        dtype: in which it computes: bfloat16 under autocast, say.

    Example:
        >>> layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)]
        >>> prefers_channels_last(nn.Sequential(*layers), torch.device("meta"))
        False
    """
    if not _measured(device) or has_compiled(module):  # the guards of a compiled one look at its weights
        return False
    convolutions = [part for part in module.modules() if isinstance(part, _ConvNd)]
    flat = [part for part in convolutions if isinstance(part, nn.Conv2d)]
    if len(flat) < FEWEST or 2 * len(flat) <= len(convolutions) or any(map(_unusual, flat)):
        return False
    dense = [part for part in flat if part.groups == 1 and max(part.kernel_size) > 1]
    return dtype != torch.float32 or device.type != "cpu" or all(part.in_channels <= WIDEST for part in dense)


def _unusual(part: nn.Conv2d) -> bool:
    """Whether a convolution was not measured: grouped, in another precision, or with a weight made of others."""
    weight = part._parameters.get("weight")
    plain = type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.layout is torch.strided
    return 1 < part.groups < part.in_channels or not plain


def _measured(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= TENSOR_CORES
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def says_the_same(plain: Any, last: Any) -> bool:
    """Whether two outputs of a model, in both memory orders, differ only by rounding.

    A model that reads the memory of its maps directly gives other outputs in another order.
    """
    pairs = list(zip(tensors(plain), tensors(last), strict=False))
    return len(tensors(plain)) == len(tensors(last)) and all(_close(*pair) for pair in pairs)


def _close(plain: Tensor, last: Tensor) -> bool:
    if plain.shape != last.shape:
        return False
    if not plain.is_floating_point():
        return torch.equal(plain, last)
    largest = float(plain.abs().nan_to_num(0, 0, 0).max()) if plain.numel() else 0.0
    return torch.allclose(plain, last, rtol=CLOSE, atol=CLOSE * largest, equal_nan=True)


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 numbers in hardware made for it, several times faster than float32.

    Of processors these are the ones with matrix tiles (AMX). Those with `avx512_bf16` alone gain little.

    Example:
        >>> native_bfloat16(torch.device("meta"))
        False
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def emulates(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a processor has no instructions for bfloat16 or float16, which are then far slower than float32.

    Torch multiplies by plain loops there, seven to thirteen times slower, without a word: for bfloat16 these are most
    x86 processors without AVX-512. Torch is asked by a name that is not documented; without it the answer is no.

    Example:
        >>> emulates(torch.device("cpu"), torch.float32), emulates(torch.device("meta"), torch.bfloat16)
        (False, False)
    """
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    if device.type != "cpu" or name is None or not torch.backends.mkldnn.is_available():
        return False
    supported = getattr(torch.ops.mkldnn, name, None)
    return supported is not None and not supported()


def ordered(module: nn.Module, *, last: bool) -> nn.Module:
    """Put the weights of two-dimensional convolutions into an order in memory; no value changes.

    Example:
        >>> module = ordered(nn.Conv2d(3, 8, 3), last=True)
        >>> module(torch.ones(1, 3, 5, 5)).is_contiguous(memory_format=torch.channels_last)
        True
    """
    order = torch.channels_last if last else torch.contiguous_format
    for tensor in four_dimensional(module):
        tensor.data = tensor.data.contiguous(memory_format=order)
    return module


def four_dimensional(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers that can have their channels last."""
    return [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.dim() == 4]


@contextlib.contextmanager
def held_last(weights: Sequence[Tensor]) -> Iterator[None]:
    """Hold weights with their channels last; afterwards each has the very memory that it had before."""
    before = [(weight, weight.data) for weight in weights]
    try:
        for weight, data in before:
            weight.data = data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for weight, data in before:
            weight.data = data


def same_in_either_order(weights: Sequence[Tensor], read: Callable[[], Any]) -> bool:
    """Whether a model says the same with its channels last, on an example.

    One that views its maps as rows cannot be run so, and one that reads their memory itself would say something else.

    Args:
        weights: of the model, those that change their order.
        read: runs it over the example.
    """
    with torch.no_grad():
        plain = read()
    try:
        with torch.no_grad(), held_last(weights):
            return says_the_same(plain, read())
    except Exception:  # what its own code makes of it: the other order of memory alone is to blame
        return False

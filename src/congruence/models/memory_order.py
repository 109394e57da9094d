"""The order of a network's weights, and so of its maps, in memory; and the rule by which it is chosen."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

FEWEST = 2  # convolutions: a single one before a transformer changes nothing
TENSOR_CORES = (7, 0)  # compute capability from which a GPU has them


def prefers_channels_last(module: nn.Module, device: torch.device) -> bool:
    """Whether a network's two-dimensional convolutions are faster with the channels last in memory.

    The rule, read off `benchmarks/memory_order.py` and depending on nothing that changes between two runs on machines
    of one kind:

    * the device is an x86 processor with AVX2 or AVX-512, or a CUDA GPU with tensor cores (others were not measured);
    * there are two such convolutions or more, most of all convolutions;
    * none is grouped, unless each group is one channel (depthwise): what mixes groups between them reorders the maps.

    Example:
        >>> layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)]
        >>> prefers_channels_last(nn.Sequential(*layers), torch.device("meta"))
        False
    """
    if not _measured(device):
        return False
    convolutions = [part for part in module.modules() if isinstance(part, _ConvNd)]
    flat = [part for part in convolutions if isinstance(part, nn.Conv2d)]
    grouped = any(1 < part.groups < part.in_channels for part in flat)
    return len(flat) >= FEWEST and 2 * len(flat) > len(convolutions) and not grouped


def _measured(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= TENSOR_CORES
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


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


def ordered(module: nn.Module, *, last: bool) -> nn.Module:
    """Put the weights of two-dimensional convolutions into an order in memory; no value changes.

    Example:
        >>> module = ordered(nn.Conv2d(3, 8, 3), last=True)
        >>> module(torch.ones(1, 3, 5, 5)).is_contiguous(memory_format=torch.channels_last)
        True
    """
    order = torch.channels_last if last else torch.contiguous_format
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=order)
    return module

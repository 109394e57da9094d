"""Random numbers as a pure function of (seed, epoch, sample), and the state of the process's global generators."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from congruence.core.devices import tensors

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer, the increment of SplitMix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical right shift of int64."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Finish a SplitMix64 step: every input bit affects every output bit."""
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def keyed_uniform(seed: int, epoch: int | Tensor, samples: Tensor, draws: int, *, stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) that depend only on their key.

    Args:
        seed: seed of the run.
        epoch: counted from 0; an int64 tensor of shape [] also works, and is not read, to avoid waiting for a device.
        samples: int64 [B], the samples' positions in the dataset.
        draws: how many numbers a sample gets.
        stream: separates different uses, such as two views, of the same sample.

    Returns:
        float64 [B, draws] on the device of `samples`.

    Example:
        >>> a = keyed_uniform(0, 3, torch.tensor([5, 9]), 2)
        >>> bool((a == keyed_uniform(0, 3, torch.tensor([9, 5]), 2).flip(0)).all())
        True
    """
    key = torch.zeros_like(samples, dtype=torch.int64)
    for part in (seed, stream, epoch):
        key = _mix(key + _GOLDEN + part)
    key = _mix(key + _GOLDEN + samples.to(torch.int64))
    steps = torch.arange(1, draws + 1, device=samples.device, dtype=torch.int64) * _GOLDEN
    bits = _mix(key[:, None] + steps[None, :])
    return _shift(bits, 11).to(torch.float64) * 2.0**-53


def keyed_generator(*key: int) -> torch.Generator:
    """Return a CPU generator seeded by a sequence of integers (seed, epoch, ...)."""
    state = torch.zeros(1, dtype=torch.int64)
    for part in key:
        state = _mix(state + _GOLDEN + part)
    return torch.Generator().manual_seed(int(_shift(state, 1)))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_state() -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy and torch as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_state(state: dict[str, Any]) -> None:
    """Restore what `get_state` returned."""
    torch.set_rng_state(state["torch"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def differs(state: dict[str, Any]) -> bool:
    """Whether a global generator has drawn since `get_state` returned this state.

    Example:
        >>> state = get_state()
        >>> differs(state), torch.rand(1) is not None and differs(state)
        (False, True)
    """
    return _values(state) != _values(get_state())


def _values(state: dict[str, Any]) -> Any:
    """Return a state as values that can be compared."""
    return [tensor.numpy().tobytes() for tensor in tensors(state)], state["python"], state["numpy"][2:]


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Restore all global generators when the block ends."""
    state = get_state()
    try:
        yield
    finally:
        set_state(state)

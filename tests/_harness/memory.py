"""How much a computation holds at once, counted in entries or bytes: no clock, no allocator."""

from __future__ import annotations

import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                # What an expanded view or a scalar keeps is its storage, not its shape.
                self.entries = max(self.entries, value.untyped_storage().nbytes() // value.element_size())
        return found


def largest_tensor(call: Callable[[], object]) -> int:
    """Entries of the largest tensor that any operation of `call` returned; NumPy's own arrays are not seen."""
    with _Largest() as mode:
        call()
    return mode.entries


class _Peak(TorchDispatchMode):
    """Follows the storages that operations return, from the first tensor on one to the end of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: Counter[int] = Counter()
        self.held = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        found = function(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            if storage._cdata in given and storage._cdata not in self.tensors:
                continue  # a view of what was there before
            if not self.tensors[storage._cdata]:
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
            self.tensors[storage._cdata] += 1
            weakref.finalize(value, self.forget, storage._cdata, storage.nbytes())
        return found

    def forget(self, storage: int, size: int) -> None:
        self.tensors[storage] -= 1
        if not self.tensors[storage]:
            del self.tensors[storage]
            self.held -= size


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that the tensors which `call` makes take at once, and NumPy's arrays; what is given to it is free.

    Tensors and arrays are counted apart and their peaks added: at most twice the truth, and never below it but for
    what one operation of torch takes inside itself.
    """
    largest_tensor(call)  # what a first call imports, and what a tracer of lines notes, is no array
    tracemalloc.start()
    try:
        with _Peak() as mode:
            call()
        return mode.peak + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def largest_array(function: Callable[[np.ndarray], object], seen: list[int]) -> Callable[[np.ndarray], object]:
    """Wrap a function of arrays so that the sizes it is given are kept in `seen`."""

    def wrapper(array: np.ndarray, *rest: Any) -> object:
        seen.append(array.size)
        return function(array, *rest)

    return wrapper

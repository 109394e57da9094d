"""How much a computation holds at once, counted in entries: no clock, no allocator."""

from __future__ import annotations

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


def largest_array(function: Callable[[np.ndarray], object], seen: list[int]) -> Callable[[np.ndarray], object]:
    """Wrap a function of arrays so that the sizes it is given are kept in `seen`."""

    def wrapper(array: np.ndarray, *rest: Any) -> object:
        seen.append(array.size)
        return function(array, *rest)

    return wrapper

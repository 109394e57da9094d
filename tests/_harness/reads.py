"""Where the host looks at a tensor's values: on a GPU each look waits for all that the device still has to do."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import congruence
from congruence.core.batch import Batch
from congruence.core.host_values import note_values

SOURCE = Path(congruence.__file__).parent
ATEN = torch.ops.aten
# Operators whose numbers, or whose result's shape, the host must know before it goes on; the last ones check on the
# host that they converged.
LOOKS = {
    *(ATEN._local_scalar_dense, ATEN.equal, ATEN.nonzero, ATEN.masked_select, ATEN.bincount),
    *(ATEN._unique2, ATEN.unique_dim, ATEN.unique_consecutive),
    *(ATEN.linalg_svd, ATEN._linalg_svd, ATEN._linalg_eigh, ATEN._linalg_check_errors),
}
# By operator that an index goes into: which argument is put there, None where it only takes.
INDEXED = {ATEN.index: None, ATEN.index_put: 2, ATEN.index_put_: 2, ATEN._index_put_impl_: 2}
COPIES = ("cpu", "tolist")  # of a tensor: on the CPU no operator runs
# By row: where it looks, and why it must.
LOOKING = {
    "arcface": ("methods/arcface.py:loss training/step.py:train_step", "it and its library choose rows by masks"),
    "class_wasserstein": ("geometry/transport.py", "exact plans are found on the host"),
    "gaussian_wasserstein": ("geometry/gaussian.py:_polar", "torch's SVD waits by itself"),
    "intra_class": (
        "methods/class_queue.py methods/intra_class.py:loss core/host_values.py training/step.py:train_step",
        "its queue grows and shrinks, and the rows that leave it are chosen by a mask",
    ),
    "joint_wasserstein": ("geometry/transport.py", "exact plans are found on the host"),
    "rkd": ("geometry/angles.py:_tight", "anchors in tight clusters take the long way"),
    "wasserstein": ("geometry/transport.py", "exact plans are found on the host"),
    "clusters": ("methods/landmarks.py", "rows that wait for the first landmarks are chosen by a mask"),
    "unbounded": ("losses/perception_coherence.py geometry/softrank.py", "the largest distance sets the expansion"),
}


class Reads(TorchDispatchMode):
    """Counts the looks while it is entered, by the innermost function of the package: "training/optim.py:step_unless".

    Numbers that are given to a device one by one (`torch.tensor(..., device=...)`) count, too: that copy waits.

    Example:
        >>> with Reads() as reads:
        ...     _ = torch.ones(3)[torch.tensor([True, False, True])].tolist()
        >>> reads.kinds
        {'index', 'tolist'}
    """

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[str, int] = {}
        self.kinds: set[str] = set()

    def __enter__(self) -> Reads:
        self._patched = contextlib.ExitStack()
        for name in COPIES:
            self._patched.enter_context(mock.patch.object(Tensor, name, self._noting(name, getattr(Tensor, name))))
        self._patched.enter_context(mock.patch.object(torch, "tensor", self._made(torch.tensor)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patched.close()

    def _noting(self, name: str, original: Any) -> Any:
        def copy(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._note(name)
            return original(tensor, *args, **kwargs)

        return copy

    def _made(self, original: Any) -> Any:
        def tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if device is not None:
                self._note("tensor")
            return original(*args, device=device, **kwargs)

        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._looks(func, args, kwargs or {}):
            self._note(func.overloadpacket._qualified_op_name.split("::")[1])
        return func(*args, **(kwargs or {}))

    def _looks(self, func: Any, args: Any, kwargs: Any) -> bool:
        operator = func.overloadpacket
        if operator in INDEXED:
            masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
            put = INDEXED[operator]
            return masked and (put is None or args[put].numel() > 1)  # a mask given one number is filled in place
        if operator is ATEN.repeat_interleave:
            return kwargs.get("output_size") is None
        if operator in (torch.ops.congruence.soft_rank, torch.ops.congruence.soft_rank_gradient):
            return args[-1] == float("inf")  # the largest difference, where no bound is known
        return operator in LOOKS

    def _note(self, kind: str) -> None:
        frame = sys._getframe(2)
        while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(SOURCE):
            frame = frame.f_back
        code = frame and frame.f_code
        function = f"{Path(code.co_filename).relative_to(SOURCE)}:{code.co_name}" if code else "elsewhere"
        self.functions[function] = self.functions.get(function, 0) + 1
        self.kinds.add(kind)


def as_moved(batch: Batch) -> Batch:
    """Return a batch whose labels and index are as if they had been moved to a device."""

    def there(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        copy = tensor.clone()
        note_values(copy, tensor)
        return copy

    return Batch(batch.inputs, there(batch.labels), there(batch.index), batch.views)

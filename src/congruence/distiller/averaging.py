"""Detects, in custom loops on several ranks, that nothing averages the students' gradients."""

from __future__ import annotations

import gc
import logging

import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import Store
from torch.nn.parallel import DistributedDataParallel

from congruence.core.ranks import rank, world_size
from congruence.models.parameters import bits

LOG = logging.getLogger("congruence")
_AT = (2, 8, 64, 512)  # the students are compared after these batches; an optimizer need not step after each batch
_LAST = 10_000  # batches after which the check no longer looks for the other ranks' sums


class Averaging:
    """Compares the students' weights across ranks a few times, and warns once if they differ.

    Gradients silently stay unaveraged if the student is given without its DDP wrapper, is called past the wrapper, or
    the wrapper tracks another output. Each rank leaves a checksum in the process group's store, and the first rank
    reads them at later batches. No rank waits for another, so ranks may have different numbers of batches.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._place = ""
        self._own: dict[int, str] = {}

    def after_batch(self, distiller: nn.Module, students: nn.ModuleDict) -> None:
        """Count a training batch, before its backward.

        Raises:
            ValueError: at the first batch, if a student is called past the DistributedDataParallel around it.
        """
        if world_size() == 1 or self._calls > _LAST:
            return
        self._calls += 1
        if self._calls == 1:
            _refuse_past_wrapper(distiller, students)
        store = _store()
        if store is None:
            return
        if not self._place:  # the number of this distiller in the process
            self._place = f"congruence/averaging/{store.add(f'congruence/averaging/{rank()}', 1)}"
        if self._calls in _AT:
            total = _sum_of_bits(list(students.parameters()))
            if total is not None:
                self._own[self._calls] = total
                store.set(f"{self._place}/{self._calls}/{rank()}", total)
        if rank() == 0:
            self._compare(store)

    def _compare(self, store: Store) -> None:
        for batches, own in list(self._own.items()):
            keys = [f"{self._place}/{batches}/{other}" for other in range(1, world_size())]
            if not store.check(keys):
                continue
            del self._own[batches]
            if any(store.get(key).decode() != own for key in keys):
                self._calls = _LAST + 1
                LOG.warning(
                    "The students of the %d ranks differ after %d batches: their gradients are not averaged. Wrap "
                    "the student, or the distiller, in DistributedDataParallel and call the wrapper.",
                    world_size(),
                    batches,
                )
                return


def _refuse_past_wrapper(distiller: nn.Module, students: nn.ModuleDict) -> None:
    """Raise if a DistributedDataParallel holds the student's parameters but is not called by the distiller."""
    own = {id(p) for p in students.parameters()}
    inside = {id(part) for part in distiller.modules()}
    past = False
    # A wrapper leaves no mark on the module inside, so all live wrappers are searched, once.
    for wrapper in [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]:
        if distiller in wrapper.modules() or id(wrapper) in inside:
            return
        past = past or any(id(p) in own for p in wrapper.parameters())
    if past:
        raise ValueError(
            "`Distiller`: `student` is called past the DistributedDataParallel around it, which then averages nothing: "
            "give the wrapper itself as `student`, or wrap the distiller."
        )


def _store() -> Store | None:
    """Return the store with which the default process group was set up."""
    try:
        return dist.distributed_c10d._get_default_store()
    except (AttributeError, RuntimeError, ValueError):
        return None


def _sum_of_bits(parameters: list[nn.Parameter]) -> str | None:
    """Return the sum of all bits as integers, which does not depend on the order; None for sharded weights.

    Sharded parameters differ between ranks by design.
    """
    if any(hasattr(p, "placements") or p.is_meta or not p.is_floating_point() for p in parameters):
        return None
    sums = [bits(parameter) for parameter in parameters]
    return None if None in sums else str(sum(each for each in sums if each is not None))

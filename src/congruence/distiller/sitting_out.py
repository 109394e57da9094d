"""Terms that sit a step out, on all ranks, because a layer that they read did not run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from congruence.core.ranks import HostExchange, world_size
from congruence.distiller.bindings import Binding
from congruence.distiller.captured import Captured

LOG = logging.getLogger("congruence")


class SittingOut:
    """Decides which terms sit a step out, and logs each such term once.

    Layers that drop out at random (LayerDrop) do so independently on each rank, while rows are gathered and gradients
    averaged over all ranks. So a term counts only if its layers have run on every rank.

    Attributes:
        in_step: whether all ranks are known to make the same calls, as in `fit`; otherwise ranks are asked only where
            rows are gathered anyway.
    """

    def __init__(self) -> None:
        self.in_step = False
        self.exchange = HostExchange()
        self._told: set[str] = set()

    def among(self, bindings: Mapping[str, Binding], captured: Captured, *, together: bool) -> set[str]:
        """Return the names of those of the given terms that sit out."""
        lacking = {name: missing_of(binding, captured) for name, binding in bindings.items()}
        out = {name for name, layers in lacking.items() if layers}
        gathers = any(binding.method.needs.gathers for binding in bindings.values())
        if together and world_size() > 1 and (self.in_step or gathers):
            by_rank = self.exchange([name in out for name in bindings])
            out = {name for name, *flags in zip(bindings, *by_rank, strict=True) if any(flags)}
        for name in sorted(out - self._told):
            self._told.add(name)
            where = " and ".join(f"'{path}'" for path in lacking[name]) or "a layer of another rank's"
            LOG.warning(
                "The term '%s' sits out the steps in which %s does not run (as with layers that drop out at random).",
                name,
                where,
            )
        return out


def missing_of(binding: Binding, captured: Captured) -> Sequence[str]:
    """Return the layers of a binding that did not run."""
    return list(
        dict.fromkeys(
            path
            for view in binding.method.needs.views
            for (model, _), paths in binding.paths.items()
            for path in paths
            if (binding.models[model], view, path) not in captured.tensors
        )
    )

"""The norm of each term's gradient: a diagnostic that never stops a run or changes the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.ranks import any_rank, rank, world_size
from congruence.distiller.as_found import as_found
from congruence.distiller.own_backward import why_no_own_backward, why_no_second_run
from congruence.models.sharded import at_rest, is_sharded, mean_norm, own_backward

LOG = logging.getLogger("congruence")


class GradientNorms:
    """‖∂(weight·term)/∂student parameters‖ of every term, by a separate backward over the step's graph.

    A term is left out, with one line in the log, if such a second backward could have side effects (backward hooks of
    modules or parameters, custom autograd functions) or fails (re-entrant checkpointing). Random generators, the
    students' buffers (checkpointing runs layers again) and modules' plain attributes are restored afterwards.

    Args:
        students: the students whose parameters are differentiated by.
        reruns: whether a backward runs the students again without the graph showing it, as with micro-batches.
    """

    def __init__(self, students: nn.ModuleDict, *, reruns: bool) -> None:
        self.students, self.reruns = students, reruns
        self._failed: dict[str, str] = {}  # terms whose backward raised, with the error
        self._told: set[str] = set()

    def __call__(self, terms: Mapping[str, Tensor], weights: Mapping[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
        """Return the norms by term; in half precision, the term is multiplied by `scale` for the backward."""
        try:
            return self._measured(terms, weights, scale)
        except Exception as error:
            if world_size() > 1:  # other ranks may be waiting for this one
                raise
            if "" not in self._told:
                self._told.add("")
                LOG.warning("No gradient norms in the log: %s", check.sentence(error))
            return {}

    def _measured(self, terms: Mapping[str, Tensor], weights: Mapping[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
        if is_sharded(self.students):
            at_rest(self.students)
        parameters = [p for p in self.students.parameters() if p.requires_grad]
        reasons = {name: self._reason(name, value, parameters) for name, value in terms.items()}
        norms: dict[str, Tensor] = {}
        with as_found(self.students):
            for name in self._agreed(reasons, parameters):
                value = terms[name]
                if not value.requires_grad:
                    norms[name] = torch.zeros_like(value)
                    continue
                gradients = self._gradients(name, weights[name] * value * scale, parameters)
                if self._agreed({name: self._failed.get(name, "")}, parameters):
                    # The ranks' mean is the gradient that the optimizer gets of this term.
                    norms[name] = mean_norm(gradients) / scale
        return norms

    def _gradients(self, name: str, loss: Tensor, parameters: list[nn.Parameter]) -> Sequence[Tensor]:
        try:
            if is_sharded(self.students):
                return own_backward(loss, parameters)
            return torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        except Exception as error:  # any error: training works without these norms
            self._failed[name] = f"a separate backward raised {check.sentence(error).rstrip('.')}"
            return ()

    def _agreed(self, reasons: Mapping[str, str], parameters: list[nn.Parameter]) -> list[str]:
        """Return the terms that no rank leaves out, because a backward or the mean may wait for other ranks."""
        flags = [bool(reason) for reason in reasons.values()]
        if world_size() > 1:
            flags = any_rank(torch.tensor(flags, device=parameters[0].device)).tolist()
        told: dict[str, list[str]] = {}
        for (name, reason), out in zip(reasons.items(), flags, strict=True):
            if out and name not in self._told:
                told.setdefault(reason or "another rank leaves them out", []).append(f"'{name}'")
                self._told.add(name)
        for reason, names in told.items() if rank() == 0 else ():
            LOG.warning(
                "No gradient norms of %s in the log, since %s. This does not affect the training.",
                ", ".join(names),
                reason,
            )
        return [name for name, out in zip(reasons, flags, strict=True) if not out]

    def _reason(self, name: str, value: Tensor, parameters: list[nn.Parameter]) -> str:
        """Describe why a term cannot have a separate backward, "" if it can."""
        if name in self._failed:
            return self._failed[name]
        through = why_no_own_backward(value, parameters)
        if not through and self.reruns and value.requires_grad:
            through = why_no_second_run(self.students)
        return f"their backward goes through {through}" if through else ""

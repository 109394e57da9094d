"""The distiller as other libraries train it: a module that gives the loss of a batch and hides what it is made of."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from congruence.core.batch import unpack
from congruence.distiller import Distiller

LOG = logging.getLogger("congruence")


class Scored(NamedTuple):
    """What a step needs of a batch: `loss` to go backward from; without gradient, `terms` and `weights` by name."""

    loss: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, Tensor]


class DistillationLoss(nn.Module):
    """The loss of a batch; what a `Distiller` gives beside it stays inside.

    DDP waits for the gradient of every parameter that leads to what a forward returns. The models' outputs must
    therefore not leave it: a term that reads an inner layer gives the layers behind it no gradient.

    Args:
        distiller: what is trained.
        micro_batch: samples to run through the models at a time, as of `FitOptions`; None for all at once.

    Example:
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> images = torch.randn(8, 4)
        >>> loss = DistillationLoss(Distiller(teacher, student, ["kd", "pkt"], example=images))
        >>> scored = loss({"inputs": images})
        >>> sorted(scored.terms), scored.loss.requires_grad
        (['kd', 'pkt'], True)
    """

    def __init__(self, distiller: Distiller, micro_batch: int | None = None) -> None:
        super().__init__()
        self.distiller, self.micro_batch = distiller, micro_batch
        # Reached by no loss, on purpose: torch warns of DDP's search for unused parameters where it finds none.
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Any) -> Scored:
        """Return the loss of a batch, of any form that `fit` takes: `(inputs, labels)`, or a mapping."""
        parts = unpack(batch)
        out = self.distiller(parts.inputs, parts.labels, parts.index, views=parts.views, micro_batch=self.micro_batch)
        terms, weights = ({n: value.detach() for n, value in each.items()} for each in (out.terms, out.weights))
        return Scored(out.loss, terms, weights)


def tell_of_accumulation(distiller: Distiller, accumulate: int, sees: str) -> None:
    """Warn that accumulated batches are no larger batch to terms that compare the samples of one."""
    relational = [name for name, needs in distiller.needs().items() if needs.scope == "batch"]
    if accumulate > 1 and relational:
        LOG.warning(
            "Accumulating %d batches does not enlarge the batch of %s: each loss sees %s.",
            *(accumulate, ", ".join(relational), sees),
        )

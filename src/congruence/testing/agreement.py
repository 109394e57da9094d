"""Two steps of a method, and how far they are from the same steps elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from congruence.testing.case import Case, batches, changed, gradients, require, small_distiller
from congruence.training.distributed import Objective, wrap

TOLERANCE = 1e-6
ROUNDING = 1e-6  # of the largest entry of all tensors: a bias before a batch norm has a gradient of 0 but for rounding


def two_steps(case: Case, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the gradients of two batches, the second of which meets the memory of the first, and the state."""
    distiller = small_distiller(case).double().to(device)
    distiller.begin_epoch(0)
    objective = wrap(Objective(distiller))
    by_step: dict[str, Tensor] = {}
    for step, batch in enumerate(batches(case)[:2]):  # the loader gives each rank its part
        distiller.zero_grad(set_to_none=True)
        objective(changed(batch, lambda tensor: tensor.to(device)), False).loss.backward()
        for name, gradient in gradients(distiller).items():
            by_step[f"the gradient by {name} in step {step}"] = gradient
    state = {f"the state {name}": t for name, t in distiller.state_dict().items() if isinstance(t, Tensor)}
    return {name: tensor.cpu() for name, tensor in {**by_step, **state}.items()}


def require_agreement(
    case: Case, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], where: str, other: str
) -> None:
    """Raise where the tensors of two steps are more than `TOLERANCE` apart."""
    require(ours.keys() == theirs.keys(), case, f"it has other tensors {where} than {other}")
    largest = max((float(tensor.double().abs().max()) for tensor in ours.values() if tensor.numel()), default=0.0)
    for name, value in ours.items():
        apart = _apart(value, theirs[name], ROUNDING * largest)
        require(apart <= TOLERANCE, case, f"{name} {where} is {apart:.1e} off that of {other}")


def _apart(first: Tensor, second: Tensor, floor: float) -> float:
    """Return the largest difference, relative to the largest entry; below `floor` (0 but for rounding) to that."""
    if first.shape != second.shape:
        return float("inf")
    if not first.numel():
        return 0.0
    first, second = first.double(), second.double()
    return float((first - second).abs().max() / first.abs().max().clamp(min=floor or 1.0))

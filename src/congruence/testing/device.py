"""The check of a device: its results must equal the CPU's."""

from __future__ import annotations

import torch

from congruence.methods import Row
from congruence.testing.agreement import require_agreement, two_steps
from congruence.testing.case import Case


def check_row_on_device(case: Case | Row | str, device: str | torch.device = "cuda") -> None:
    """Check that two steps on a device give the CPU's gradients and state, to 1e-6 in float64.


    Args:
        case: see `check_row`.
        device: a device that supports float64.

    Raises:
        AssertionError: with the tensor that differs.
    """
    case = case if isinstance(case, Case) else Case(case)
    require_agreement(case, two_steps(case), two_steps(case, device), f"on {device}", "the CPU")

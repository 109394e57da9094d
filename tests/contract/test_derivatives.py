"""Derivatives beyond the first, and torch.func: every public loss gives the right value, or says that it does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _harness.every_loss import LOSS_CASES
from _harness.losses import LossCase, gradients, leaves, map_tensors, seeded, tensors
from torch import Tensor

from congruence import losses

EVERY = [
    pytest.param(case, settings, id=f"{name}-{number}")
    for name, case in LOSS_CASES.items()
    for number, settings in enumerate(case.settings)
]
BY_DISTANCES = {
    *("correlation_congruence_loss", "heterogeneous_kd_loss", "joint_wasserstein_loss", "mmd_loss"),
    *("metric_transfer_relative_loss", "perception_coherence_loss", "rkd_distance_loss"),
}
BY_CONSTANTS = {"class_gaussian_wasserstein_loss", "gaussian_wasserstein_loss", "wasserstein_loss"}
ONCE = r"`\w+` must be differentiated once, got a second time: (torch\.cdist|its gradient takes) "
READS = r"`\w+`: it reads values, which torch\.func and torch\.vmap keep back \("
# Their classes are sorted on the host, and torch's one_hot looks for the largest label.
NOT_BY_VMAP = {"class_gaussian_wasserstein_loss", "soft_target_cross_entropy"}


def of_floats(case: LossCase, settings: Any, arguments: Any) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Return the loss as a function of the floating arguments that carry gradient, and these."""
    positions = case.differentiable
    if positions is None:
        positions = tuple(i for i, a in enumerate(arguments) if any(t.is_floating_point() for t in tensors(a)))

    def loss(*flat: Tensor) -> Tensor:
        supply, filled = iter(flat), list(arguments)
        for i in positions:
            filled[i] = map_tensors(lambda _: next(supply), arguments[i])
        return case.function(*filled, **settings)

    return loss, [t.clone().requires_grad_() for i in positions for t in tensors(arguments[i])]


def first(value: Tensor, sides: list[Tensor], *, graph: bool = False) -> list[Tensor]:
    return list(torch.autograd.grad(value, sides, create_graph=graph, allow_unused=True, materialize_grads=True))


def dot(some: list[Tensor], others: list[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(some, others, strict=True)]).sum()


def or_sentence(work: Callable[[], Any]) -> Any:
    """Return what the work returns, or the sentence of its refusal."""
    try:
        return work()
    except ValueError as refusal:
        return str(refusal)


def test_the_table_has_every_public_loss():
    assert {name for name in losses.__all__ if name.endswith(("_loss", "_entropy"))} == set(LOSS_CASES)


@pytest.mark.parametrize(("case", "settings"), EVERY)
def test_the_second_derivative_is_right_or_refused(case, settings):
    loss, sides = of_floats(case, settings, case.inputs(seeded(5), 4))
    draws = seeded(6)
    along, by = ([torch.randn(s.shape, generator=draws, dtype=s.dtype) for s in sides] for _ in range(2))
    gradient = first(loss(*sides), sides, graph=True)
    torch.testing.assert_close(gradient, first(loss(*sides), sides), rtol=1e-9, atol=1e-13)
    slope = dot(gradient, along)
    found = or_sentence(lambda: dot(first(slope, sides), by) if slope.requires_grad else torch.zeros_like(slope))
    if isinstance(found, str):
        assert re.match(ONCE, found)
        assert case.name in BY_DISTANCES | BY_CONSTANTS
        return
    steps = ([(s.detach() + h * d).requires_grad_() for s, d in zip(sides, by, strict=True)] for h in (1e-5, -1e-5))
    above, below = (dot(first(loss(*near), near), along) for near in steps)
    torch.testing.assert_close(found, (above - below) / 2e-5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("case", "settings"), EVERY)
def test_func_grad_is_the_gradient(case, settings):
    loss, sides = of_floats(case, settings, case.inputs(seeded(5), 4))
    by_all = torch.func.grad(loss, argnums=tuple(range(len(sides))))
    found = or_sentence(lambda: by_all(*(side.detach() for side in sides)))
    if isinstance(found, str):
        assert re.match(READS, found)
        assert (case.name, settings) == ("class_gaussian_wasserstein_loss", {"covariance": "full"})
        return
    torch.testing.assert_close(list(found), first(loss(*sides), sides), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("case", "settings"), EVERY)
@pytest.mark.filterwarnings("ignore:torch.searchsorted")  # "non-contiguous": what vmap makes of the rows
def test_vmap_is_a_loop(case, settings):
    several = [case.inputs(seeded(20 + number), 4) for number in range(2)]
    stacked = [torch.stack(each) for each in zip(*(tensors(arguments) for arguments in several), strict=True)]
    floating = tuple(number for number, tensor in enumerate(stacked) if tensor.is_floating_point())

    def loss(*flat: Tensor) -> Tensor:
        supply = iter(flat)
        return case.function(*map_tensors(lambda _: next(supply), several[0]), **settings)

    found = or_sentence(lambda: torch.vmap(torch.func.grad_and_value(loss, argnums=floating))(*stacked))
    if isinstance(found, str):
        assert re.match(READS, found)
        assert case.name in NOT_BY_VMAP
        return
    slopes, values = found
    for number, arguments in enumerate(several):
        own = leaves(arguments)
        value = case.function(*own, **settings)
        torch.testing.assert_close(values[number], value.detach(), rtol=1e-9, atol=1e-12)
        expected = gradients(value, own)
        torch.testing.assert_close([side[number] for side in slopes], expected, rtol=1e-8, atol=1e-12)


def test_vmap_reads_labels_as_a_loop_does():
    logits, labels = torch.randn(2, 3, 4, generator=seeded(0)), torch.tensor([[0, 1, 2], [3, 4, 0]])
    with pytest.raises(ValueError, match=r"^`decoupled_kd_loss`: `labels` must be class labels in .*, got 4\.$"):
        torch.vmap(losses.decoupled_kd_loss)(logits, logits, labels)

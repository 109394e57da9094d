"""Random tensors over every public loss and metric: each call gives a right number, or says in one sentence why not.

Drawn are the type, the number of rows and the settings of a call, and for each of its tensors a size, a degeneracy, a
layout and perhaps a NaN or an infinity. `make attack` draws ten times as many.
"""

from __future__ import annotations

import inspect
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from _harness.attacks import scale
from _harness.every_loss import LOSS_CASES
from _harness.every_metric import CALLS, ROWS, call
from _harness.losses import LossCase, map_tensors, tensors
from torch import Tensor

from congruence import metrics

CALLS_OF_A_LOSS, CALLS_OF_A_METRIC = 80, 44
TIMES = max(1, scale() // 5)
# A transport plan, a probe and a search take milliseconds each.
SLOW = {"wasserstein_loss": 20, "class_wasserstein_loss": 20, "joint_wasserstein_loss": 20, "linear_probe": 10}
COUNTED = {"contrastive_representation_loss": 2}  # the arguments that all count: of the banks the drawn rows alone
GATED = {"intra_class_contrastive_loss"}  # a margin of −1 in float32 may lie above −1 in float64, and count
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
PADDED = [
    name
    for name, case in LOSS_CASES.items()
    if any(p.name == "mask" and p.kind is p.KEYWORD_ONLY for p in inspect.signature(case.function).parameters.values())
]

# Of these the loss and its gradient must be finite, in float32 as in float64.
USUAL: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "plain": lambda x, draws: x,
    "times 100": lambda x, draws: 100 * x,
    "times 1e-4": lambda x, draws: 1e-4 * x,
    "times 1e-38": lambda x, draws: 1e-38 * x,
    "beside 1e4": lambda x, draws: x + 1e4,
    "one large entry": lambda x, draws: x + 5e4 * one_of(x, draws),
    "equal rows": lambda x, draws: x[:1].expand_as(x),
    "a zero row": lambda x, draws: torch.cat([0 * x[:1], x[1:]]),
    "all zero": lambda x, draws: 0 * x,
    "equal columns": lambda x, draws: x[..., :1].expand_as(x),
    "opposite": lambda x, draws: torch.cat([x[: len(x) // 2], -x[: len(x) - len(x) // 2]]),
}
HUGE: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "up to the end": lambda x, draws: x / x.abs().max().clamp(min=1e-9),
    "at the ends": lambda x, draws: torch.where(x > 0, 1.0, -1.0).to(x.dtype),
}
LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "in order": lambda x: x,
    "every other one": lambda x: torch.stack([x, x], -1)[..., 0],
    "last dimension first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
}


def one_of(x: Tensor, draws: torch.Generator) -> Tensor:
    """Return 1 in one place of zeros."""
    ones = torch.zeros(x.numel(), dtype=x.dtype)
    ones[number(draws, x.numel())] = 1
    return ones.view(x.shape)


def number(draws: torch.Generator, below: int) -> int:
    return int(torch.randint(below, (), generator=draws))


def pick(draws: torch.Generator, among: Any) -> Any:
    among = list(among)
    return among[number(draws, len(among))]


class Attack:
    """The tensors of one call: drawn anew for each number, the same at every run."""

    def __init__(self, name: str, count: int) -> None:
        self.draws = torch.Generator().manual_seed(zlib.crc32(f"{name} {count}".encode()))
        self.dtype = pick(self.draws, TYPES)
        self.huge = number(self.draws, 6) == 0
        self.kinds: list[str] = []
        self.told = f"{name} {count} {self.dtype}"

    def __call__(self, x: Tensor) -> Tensor:
        """Return what stands in the place of one usual tensor; labels stay as they are."""
        if not x.is_floating_point():
            return x
        kind = pick(self.draws, HUGE if self.huge and number(self.draws, 2) else USUAL)
        self.kinds.append(kind)
        self.told += f", {kind}"
        if kind in HUGE:
            x = HUGE[kind](x, self.draws) * (6e4 if self.dtype == torch.float16 else torch.finfo(self.dtype).max)
            return x.to(self.dtype)
        x = USUAL[kind](x.double(), self.draws).to(self.dtype)
        return pick(self.draws, LAYOUTS.values())(x)


def value_and_slopes(case: LossCase, settings: Any, arguments: Any) -> tuple[Tensor, list[Tensor]]:
    """Return a loss, and its gradient by the floating arguments that carry one."""
    own = map_tensors(lambda t: t.detach().requires_grad_(t.is_floating_point()), arguments)
    value = case.function(*own, **settings)
    positions = range(len(own)) if case.differentiable is None else case.differentiable
    sides = [t for i in positions for t in tensors(own[i]) if t.requires_grad]
    if not value.requires_grad:
        return value, []
    return value.detach(), list(torch.autograd.grad(value, sides, allow_unused=True, materialize_grads=True))


def alike(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether all bits are equal, NaN for NaN."""
    return all(
        torch.equal(a.nan_to_num(nan=7.0), b.nan_to_num(nan=7.0)) and torch.equal(a.isnan(), b.isnan())
        for a, b in zip(some, others, strict=True)
    )


def cast(arguments: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return map_tensors(lambda t: change(t) if t.is_floating_point() else t, arguments)


def attack_a_loss(case: LossCase, count: int) -> None:
    attack = Attack(case.name, count)
    rows, settings = pick(attack.draws, (1, 2, 3, 4, 6)), pick(attack.draws, case.settings)
    given = map_tensors(attack, case.inputs(attack.draws, rows))
    told = f"{attack.told}, {rows} rows, {settings}"
    value, slopes = value_and_slopes(case, settings, given)
    precise = cast(given, Tensor.double)
    if attack.dtype.itemsize == 2:  # the loss is that of the same numbers in float32, its gradient rounded to 16 bits
        wide, wider = value_and_slopes(case, settings, cast(given, Tensor.float))
        assert alike([value, *slopes], [wide, *(slope.to(attack.dtype) for slope in wider)]), told
        slopes = wider
    exact = case.function(*precise, **settings) if attack.dtype != torch.float64 else value
    largest = torch.finfo(value.dtype).max / 4
    if value.isfinite() and case.name not in GATED:
        # A number is the right one, whatever the sizes.
        assert value.item() == pytest.approx(exact.item(), rel=1e-2, abs=1e-2), told
    elif not value.isfinite():
        assert not value.isnan() or attack.huge, told
        assert not exact.abs() < largest or attack.huge, told
    shown = all(slope.isfinite().all() for slope in slopes)
    if not any(kind in HUGE for kind in attack.kinds):
        steep = not shown and any(slope.abs().max() > largest for slope in value_and_slopes(case, settings, precise)[1])
        assert shown or steep or not value.isfinite(), told
    elif case.over_classes and attack.dtype.itemsize == 2:
        assert not value.isnan(), told
        assert slopes[0].isfinite().all() or not value.isfinite(), told  # the student's; the teacher's may be beyond
    if rows > 1 and set(attack.kinds) == {"plain"}:
        expected = case.reference(*precise, **settings)
        if case.per_sample:
            expected = getattr(expected, inspect.signature(case.function).parameters["reduction"].default)()
        assert exact.item() == pytest.approx(expected.item(), rel=1e-8, abs=1e-10), told
        order = torch.randperm(rows, generator=attack.draws)
        moved = map_tensors(lambda t: t[order] if t.shape[:1] == (rows,) else t, precise)
        assert case.function(*moved, **settings).item() == pytest.approx(expected.item(), rel=1e-8, abs=1e-10), told


def spoil_a_loss(case: LossCase, count: int) -> None:
    attack = Attack(case.name, count)
    attack.huge = False
    settings = pick(attack.draws, case.settings)
    given = map_tensors(attack, case.inputs(attack.draws, pick(attack.draws, (1, 2, 3, 4, 6))))
    if "labels" in inspect.signature(case.function).parameters:
        given = map_tensors(lambda t: t.clamp(min=0) if t.dtype == torch.int64 else t, given)
    counted = [t for t in tensors(given) if t.is_floating_point()][: COUNTED.get(case.name)]
    place, bad = pick(attack.draws, counted), pick(attack.draws, (math.nan, math.inf))
    spoilt = torch.where(one_of(place, attack.draws) > 0, bad, place)
    if case.name == "masked_generation_loss":
        given = (*given[:2], torch.ones_like(given[2]))
    value = case.function(*map_tensors(lambda t: spoilt if t is place else t, given), **settings)
    assert not value.isfinite(), (attack.told, settings, bad, value)


def pad_a_loss(case: LossCase, count: int) -> None:
    """What stands in tokens that do not count changes no bit, and has no gradient."""
    attack = Attack(case.name, count)
    attack.huge = False
    settings = pick(attack.draws, case.settings)
    given = map_tensors(attack, case.inputs(attack.draws, pick(attack.draws, (1, 2, 4))))
    counts = given[0].shape[:-1]
    real = torch.rand(counts, generator=attack.draws) < 0.6
    settings = {**settings, "mask": real}
    bad = pick(attack.draws, (math.nan, math.inf, -math.inf, 1.0, 6e4))
    usual, filled = (
        map_tensors(lambda t, value=value: t.masked_fill(~real[..., None], value), given) for value in (0.0, bad)
    )
    value, slopes = value_and_slopes(case, settings, usual)
    again, others = value_and_slopes(case, settings, filled)
    assert alike([value, *slopes], [again, *others]), (attack.told, settings, bad)
    assert all(not slope[~real].any() for slope in others), (attack.told, settings, bad)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_a_loss_is_right_or_not_finite(name):
    case = LOSS_CASES[name]
    for count in range(CALLS_OF_A_LOSS // SLOW.get(name, 1) * TIMES):
        attack_a_loss(case, count)


@pytest.mark.parametrize("name", PADDED)
def test_padding_changes_nothing(name):
    for count in range(CALLS_OF_A_LOSS // 4 * TIMES):
        pad_a_loss(LOSS_CASES[name], count)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_what_is_no_number_shows_in_a_loss(name):
    for count in range(CALLS_OF_A_LOSS // 4 // SLOW.get(name, 1) * TIMES):
        spoil_a_loss(LOSS_CASES[name], count)


INFINITE = {"rkhs_norm"}  # outputs outside the range of a kernel, whose other eigenvalues may be tiny
# Whose samples may come in any order: no positions, no draws, no second set of rows.
ORDERLESS = [
    name
    for name, given in CALLS.items()
    if all(len(value) == ROWS for value in given.values() if isinstance(value, Tensor))
    and "generator" not in inspect.signature(getattr(metrics, name)).parameters
]


def result(name: str, given: Mapping[str, Any]) -> list[float] | str:
    """Return the numbers of a metric, or the one sentence in which it refuses."""
    try:
        return call(name, given)
    except ValueError as refusal:
        return str(refusal)


def attack_a_metric(name: str, count: int) -> None:
    attack = Attack(name, count)
    usual = {key: draw_like(value, attack.draws) for key, value in CALLS[name].items()}
    given = {key: attack(value) if isinstance(value, Tensor) else value for key, value in usual.items()}
    found = result(name, given)
    if isinstance(found, str):
        assert re.fullmatch(rf"`{name}`: [^\n]+, got [^\n]+", found), (attack.told, found)
        return
    if set(attack.kinds) <= {"plain", "times 100", "times 1e-4"} and name not in INFINITE:
        assert all(map(math.isfinite, found)), (attack.told, found)
    if attack.dtype.itemsize == 2:
        wide = {key: cast(value, Tensor.float) if isinstance(value, Tensor) else value for key, value in given.items()}
        assert found == pytest.approx(result(name, wide), rel=1e-3, abs=1e-3, nan_ok=True), attack.told
    if name in ORDERLESS and set(attack.kinds) == {"plain"}:
        order = torch.randperm(ROWS, generator=attack.draws)
        moved = {key: value[order] if isinstance(value, Tensor) else value for key, value in given.items()}
        again = result(name, moved)
        assert sorted(found) == pytest.approx(sorted(again), rel=1e-4, abs=1e-4), attack.told


def draw_like(value: Any, draws: torch.Generator) -> Any:
    """Return new features of the same shape; labels and settings stay."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return torch.randn(value.shape, generator=draws, dtype=torch.float64)


def spoil_a_metric(name: str, count: int) -> None:
    attack = Attack(name, count)
    attack.huge = False
    given = {key: attack(value) if isinstance(value, Tensor) else value for key, value in CALLS[name].items()}
    key = pick(attack.draws, [k for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()])
    bad = pick(attack.draws, (math.nan, math.inf))
    spoilt = torch.where(one_of(given[key], attack.draws) > 0, bad, given[key])
    found = result(name, {**given, key: spoilt})
    if isinstance(found, str):
        assert re.fullmatch(rf"`{name}`: [^\n]+, got [^\n]+", found), (attack.told, found)
    else:
        assert not all(map(math.isfinite, found)), (attack.told, key, bad, found)


@pytest.mark.parametrize("name", CALLS)
def test_a_metric_is_a_number_or_refuses(name):
    for count in range(CALLS_OF_A_METRIC // SLOW.get(name, 1) * TIMES):
        attack_a_metric(name, count)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_number_shows_in_a_metric(name):
    for count in range(CALLS_OF_A_METRIC // 4 // SLOW.get(name, 1) * TIMES):
        spoil_a_metric(name, count)

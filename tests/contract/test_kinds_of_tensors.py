"""Tensors of a kind that a loss or a metric does not take: one sentence; laid out in another way: the same value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from _harness.every_loss import LOSS_CASES
from _harness.every_metric import CALLS, call
from _harness.losses import floats, map_tensors, seeded, tensors
from torch import Tensor

Kinds = Mapping[str, Callable[[Tensor], Any]]
REFUSED: Kinds = {
    "on another device": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "complex": lambda t: t.to(torch.complex64),
    "a list": lambda t: t.tolist(),
    "without rows": lambda t: t[:0],
    "a number": lambda t: t.flatten()[0],
}
REFUSED_FEATURES: Kinds = {
    **REFUSED,
    "nested": lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
    "of another library": lambda t: t.to_mkldnn(),
    "of 8 bits": lambda t: t.to(torch.float8_e4m3fn),
    "of integers": lambda t: t.long(),
    "of True and False": lambda t: t > 0,
    "without columns": lambda t: t[..., :0],
    "with a dimension more": lambda t: t[None],
}
REFUSED_LABELS: Kinds = {**REFUSED, "unsigned": lambda t: t.to(torch.uint16), "in a table": lambda t: t[:, None]}
LAID_OUT: Kinds = {
    "every other one in memory": lambda t: torch.stack([t, t], -1)[..., 0],
    "last dimension first": lambda t: t.movedim(-1, 0).contiguous().movedim(0, -1),
    "wanting a gradient": lambda t: t.clone().requires_grad_(t.is_floating_point()),
}
INTEGERS: Kinds = {str(d): lambda t, d=d: t.to(d) for d in (torch.int32, torch.int16, torch.int8, torch.uint8)}


class Argument(NamedTuple):
    """One tensor of a call, and the call with another in its place."""

    tensor: Tensor
    result: Callable[[Any], Any]


def arguments(name: str) -> Iterator[Argument]:
    if name in CALLS:
        for key, value in CALLS[name].items():
            if isinstance(value, Tensor):
                yield Argument(value, lambda other, key=key: call(name, {**CALLS[name], key: other}))
        return
    case = LOSS_CASES[name]
    usual = map_tensors(floats(Tensor.float), case.inputs(seeded(5), 4))
    for number, tensor in enumerate(tensors(usual)):

        def result(other: Any, number: int = number) -> Any:
            places = iter(range(number + 1))
            # The other one in the place of this tensor, which stands there once.
            replaced = map_tensors(lambda t: other if next(places, -1) == number else t, usual)
            return case.function(*replaced, **case.settings[0])

        yield Argument(tensor, result)


NAMES = [*LOSS_CASES, *CALLS]


def outcome(argument: Argument, other: Any) -> Any:
    """Return the result, or the sentence of the refusal."""
    try:
        return argument.result(other)
    except ValueError as refusal:
        return str(refusal)


@pytest.mark.parametrize("name", NAMES)
def test_another_kind_is_refused_in_one_sentence(name):
    for argument in arguments(name):
        kinds = REFUSED_FEATURES if argument.tensor.is_floating_point() else REFUSED_LABELS
        for kind, change in kinds.items():
            if argument.tensor.dtype != torch.bool or kind != "unsigned":  # a mask of 1 and 0 may be of any type
                found = outcome(argument, change(argument.tensor))
                assert re.match(rf"`{name}`: [^\n]*, got [^\n]*\Z", str(found)), (kind, found)


@pytest.mark.parametrize("name", NAMES)
def test_another_layout_is_the_same(name):
    for argument in arguments(name):
        tensor = argument.tensor
        integers = {} if tensor.is_floating_point() or tensor.dtype == torch.bool else INTEGERS
        expected = argument.result(tensor)
        for kind, change in (LAID_OUT | integers).items():
            found = outcome(argument, change(tensor))
            if kind in integers and isinstance(found, str):  # positions in a bank are int64
                assert found.startswith(f"`{name}`: ")
                continue
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=lambda m, k=kind: f"{k}: {m}")
        equal_rows = tensor[:1].expand_as(tensor)  # no stride between them
        found, expected = outcome(argument, equal_rows), outcome(argument, equal_rows.contiguous())
        if isinstance(expected, str):
            assert found == expected
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)

"""Checks of arguments, and the one form of error message that they raise.

Constraints are data: a loss file lists its hyper-parameters in a table, `hyperparameters` applies the table, and one
test draws an invalid value from every constraint and checks the message.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from congruence.core.brevity import brief, cut
from congruence.core.host_values import extremes


def fail(function: str, argument: str, expected: str, got: object) -> NoReturn:
    """Raise the `ValueError` for a bad argument, in the form that all functions share.

    Example:
        >>> fail("dkd_loss", "temperature", "a number > 0", -4.0)
        Traceback (most recent call last):
        ValueError: `dkd_loss`: `temperature` must be a number > 0, got -4.0.
    """
    raise ValueError(f"`{function}`: `{argument}` must be {expected}, got {cut(str(got), 600)}.")


def sentence(error: BaseException) -> str:
    """Return an error as one line: the text of a `ValueError`; for other types, the type's name and the text.

    Example:
        >>> sentence(RuntimeError("out of memory\\nTried ..."))
        'RuntimeError: out of memory.'
    """
    text = (str(error).strip().splitlines() or ["no text"])[0].rstrip(".")
    kind = type(error)
    ours = kind is ValueError or (issubclass(kind, ValueError) and kind.__module__.startswith("congruence."))
    return f"{text}." if ours else f"{kind.__name__}: {text}."


def near(name: str, names: Iterable[str], *, most: int = 3) -> str:
    """Return " Did you mean 'a' or 'b'?" for the names closest to `name`, or an empty string.

    Example:
        >>> near("layer4.cnv2", ["layer4.conv1", "layer4.conv2", "fc"], most=1)
        " Did you mean 'layer4.conv2'?"
    """
    close = difflib.get_close_matches(name, [each for each in names if isinstance(each, str)], n=most, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def difference(before: Any, now: Any, path: str = "") -> str:
    """Describe the first difference between two nested tables of plain values; lists of tables are compared by entry.

    Example:
        >>> difference({"train": [{"lr": 0.1}]}, {"train": [{"lr": 0.2}]})
        "its train.0.lr is 0.1, this one's 0.2"
    """
    pairs = [_table(side) for side in (before, now)]
    if pairs[0] is not None and pairs[1] is not None and type(before) is type(now):
        for key in sorted({*pairs[0], *pairs[1]}):
            old, new = pairs[0].get(key), pairs[1].get(key)
            if old != new:
                return difference(old, new, f"{path}.{key}" if path else str(key))
    return f"its {path} is {str(before)[:60]}, this one's {str(now)[:60]}"


def _table(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class Real:
    """A number between `low` and `high`; `closed` says which ends belong: "both", "low", "high" or "neither"."""

    low: float = -math.inf
    high: float = math.inf
    closed: str = "neither"
    integer: bool = False
    optional: bool = False

    def describe(self) -> str:
        """Describe in words what is allowed."""
        what = "an integer" if self.integer else "a number"
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'>=' if self.closed in ('both', 'low') else '>'} {self.low:g}")
        if self.high < math.inf:
            parts.append(f"{'<=' if self.closed in ('both', 'high') else '<'} {self.high:g}")
        text = " ".join([what, " and ".join(parts)]).strip()
        return f"{text} or None" if self.optional else text

    def accepts(self, value: Any) -> bool:
        """Whether `value` is allowed."""
        if value is None:
            return self.optional
        kind = numbers.Integral if self.integer else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        try:
            number = float(value)
        except OverflowError:  # an integer too large for a float
            return False
        if not math.isfinite(number):
            return False
        above = number >= self.low if self.closed in ("both", "low") else number > self.low
        below = number <= self.high if self.closed in ("both", "high") else number < self.high
        return above and below

    def invalid(self) -> list[Any]:
        """Give values that are not allowed, for the tests."""
        bad: list[Any] = ["a string", math.nan, True]
        if self.low > -math.inf:
            bad.append(self.low - 1)
            if self.closed in ("neither", "high"):
                bad.append(self.low)
        if self.high < math.inf:
            bad.append(self.high + 1)
        if self.integer:
            bad.append(1.5)
        return bad


@dataclass(frozen=True)
class Choice:
    """One of a few strings; with `callable_too`, any callable as well."""

    choices: tuple[str, ...]
    callable_too: bool = False
    optional: bool = False

    def describe(self) -> str:
        """Describe in words what is allowed."""
        text = "one of " + ", ".join(repr(choice) for choice in self.choices)
        if self.callable_too:
            text += " or a callable"
        return f"{text} or None" if self.optional else text

    def accepts(self, value: Any) -> bool:
        """Whether `value` is allowed."""
        if value is None:
            return self.optional
        return (isinstance(value, str) and value in self.choices) or (self.callable_too and callable(value))

    def invalid(self) -> list[Any]:
        """Give values that are not allowed, for the tests."""
        return ["no such choice", 3.5] + ([] if self.optional else [None])


@dataclass(frozen=True)
class Flag:
    """True or False; with `auto`, "auto" as well."""

    auto: bool = False

    def describe(self) -> str:
        """Describe in words what is allowed."""
        return "True, False or 'auto'" if self.auto else "True or False"

    def accepts(self, value: Any) -> bool:
        """Whether `value` is allowed."""
        return isinstance(value, bool) or (self.auto and isinstance(value, str) and value == "auto")

    def invalid(self) -> list[Any]:
        """Give values that are not allowed, for the tests."""
        return [None, "yes", 2]


@dataclass(frozen=True)
class Weights:
    """One finite number >= 0 a class, not all of them 0, in a sequence or a 1-D tensor; or None."""

    def describe(self) -> str:
        """Say in words what is allowed."""
        return "None, or one finite number >= 0 a class, not all of them 0"

    def accepts(self, value: Any) -> bool:
        """Whether `value` is allowed; the values of a tensor on a device are not read."""
        if value is None:
            return True
        if isinstance(value, Tensor):
            if value.dim() != 1 or not len(value) or value.dtype == torch.bool or value.is_complex():
                return False
            return value.device.type != "cpu" or torch.compiler.is_compiling() or self.accepts(value.tolist())
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            return False
        return all(NOT_NEGATIVE.accepts(weight) for weight in value) and any(weight > 0 for weight in value)

    def invalid(self) -> list[Any]:
        """Give values that are not allowed, for the tests."""
        return ["a string", 2.0, [], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [1.0, "two"]]


Constraint = Real | Choice | Flag | Weights
POSITIVE = Real(low=0)
NOT_NEGATIVE = Real(low=0, closed="low")
COUNT = Real(low=1, closed="low", integer=True)
# torch has more types of both kinds but no arithmetic for them: 8-bit floats and smaller, unsigned integers from 16
# bits.
_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def hyperparameters(function: str, constraints: Mapping[str, Constraint], /, **values: Any) -> None:
    """Check keyword arguments against a table of constraints.

    Example:
        >>> hyperparameters("pkt_loss", {"eps": POSITIVE}, eps=0)
        Traceback (most recent call last):
        ValueError: `pkt_loss`: `eps` must be a number > 0, got 0.
    """
    for name, value in values.items():
        if not constraints[name].accepts(value):
            fail(function, name, constraints[name].describe(), brief(value))


def shape(tensor: Tensor) -> str:
    """Write a shape as "[8, 16]"."""
    return str(list(tensor.shape))


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"`{name}` {shape(tensor)}" for name, tensor in tensors.items())


def dense(function: str, /, **tensors: Tensor) -> None:
    """Check that each argument is a dense (strided) tensor, and that all are on one device.

    Example:
        >>> dense("pkt_loss", student=torch.eye(2), teacher=torch.eye(2).to_sparse())
        Traceback (most recent call last):
        ValueError: `pkt_loss`: `teacher` must be a dense tensor, got the layout torch.sparse_coo.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            fail(function, name, "a tensor", type(tensor).__name__)
        if tensor.layout is not torch.strided or tensor.is_nested:
            got = "a nested one" if tensor.is_nested else f"the layout {tensor.layout}"
            fail(function, name, "a dense tensor", got)
    same_device(function, **tensors)


def same_device(function: str, /, **tensors: Tensor) -> None:
    """Check that all arguments are on one device; the error names every device.

    Example:
        >>> same_device("pkt_loss", student=torch.eye(2), teacher=torch.eye(2, device="meta"))
        Traceback (most recent call last):
        ValueError: `pkt_loss`: `student` and `teacher` must be on one device, got `student` on cpu, `teacher` on meta.
    """
    devices = [tensor.device for tensor in tensors.values()]
    if devices.count(devices[0]) != len(devices):
        names = " and ".join(f"`{name}`" for name in tensors)
        got = ", ".join(f"`{name}` on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"`{function}`: {names} must be on one device, got {got}.")


def floating(function: str, dims: int | tuple[int, ...], /, **tensors: Tensor) -> None:
    """Check that each argument is a non-empty floating-point tensor of 16 bits or more with `dims` dimensions.

    The tensors must also be dense and on one device: see `dense`.

    Raises:
        ValueError: with the shape found.
    """
    allowed = (dims,) if isinstance(dims, int) else dims
    dense(function, **tensors)
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATING:
            what = "a floating-point tensor" + (" of 16 bits or more" if tensor.is_floating_point() else "")
            fail(function, name, what, str(tensor.dtype))
        if tensor.dim() not in allowed or tensor.numel() == 0:
            wanted = " or ".join(f"{n}-D" for n in allowed)
            fail(function, name, f"a non-empty {wanted} tensor", f"shape {shape(tensor)}")


def finite(function: str, /, *, masked: bool = False, **tensors: Tensor) -> None:
    """Check that all entries are finite; with `masked`, logits may also hold -inf for classes that are masked out.

    For metrics, not for losses: it waits for the device.

    Example:
        >>> finite("agreement", student_logits=torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]))
        Traceback (most recent call last):
        ValueError: `agreement`: `student_logits` must be finite, got NaN or infinity in 1 of 2 rows, first in row 1.
    """
    for name, tensor in tensors.items():
        if tensor.is_meta:
            fail(function, name, "finite", "the device meta, which has no values")
        bad = unfinite_rows(tensor, masked=masked)
        if len(bad):
            got = f"NaN or infinity in {len(bad)} of {len(tensor)} rows, first in row {int(bad[0])}"
            fail(function, name, "finite", got)


def unfinite_rows(tensor: Tensor, *, masked: bool = False) -> Tensor:
    """Return the positions of the rows that hold NaN or an infinity; `masked` as in `finite`.

    Example:
        >>> unfinite_rows(torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [-torch.inf, 0.0]]), masked=True).tolist()
        [1]
    """
    # NaN shows in both extremes; this makes no copy of the tensor
    low, high = tensor.detach().reshape(len(tensor), -1).aminmax(dim=1)
    bad = ~torch.isfinite(high) if masked else ~(torch.isfinite(high) & torch.isfinite(low))
    return bad.nonzero()[:, 0]


def same_rows(function: str, /, **tensors: Tensor) -> None:
    """Check that all arguments have the same number of rows and are on one device; the error prints every shape."""
    same_device(function, **tensors)
    if len({tensor.shape[0] for tensor in tensors.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in tensors)
        raise ValueError(f"`{function}`: {names} must have the same number of rows, got {_shapes(tensors)}.")


def same_shape(function: str, /, **tensors: Tensor) -> None:
    """Check that all arguments have the same shape and are on one device; the error prints every shape."""
    same_device(function, **tensors)
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in tensors)
        raise ValueError(f"`{function}`: {names} must have the same shape, got {_shapes(tensors)}.")


def same_dtype(function: str, /, **tensors: Tensor) -> None:
    """Check that all arguments have the same dtype; the error names every dtype."""
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in tensors)
        got = ", ".join(f"`{name}` {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(f"`{function}`: {names} must have the same dtype, got {got}.")


def same_width(function: str, /, **tensors: Tensor) -> None:
    """Check that all arguments have the same last dimension and are on one device; the error prints every shape."""
    same_device(function, **tensors)
    if len({tensor.shape[-1] for tensor in tensors.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in tensors)
        raise ValueError(f"`{function}`: {names} must have the same width, got {_shapes(tensors)}.")


def several_classes(function: str, /, **logits: Tensor) -> None:
    """Check that each argument has logits of two classes or more: the softmax of a single logit is always 1.

    Example:
        >>> several_classes("dist_loss", student_logits=torch.zeros(8, 1))
        Traceback (most recent call last):
        ValueError: `dist_loss`: `student_logits` must be logits of two classes or more, got shape [8, 1]. The softmax \
of a single logit is always 1 and says nothing: give the two logits [0, z] of the same probabilities, \
torch.cat([torch.zeros_like(z), z], 1), or take a method that compares features.
    """
    for name, tensor in logits.items():
        if tensor.shape[-1] < 2:
            got = (
                f"shape {shape(tensor)}. The softmax of a single logit is always 1 and says nothing: give the two "
                "logits [0, z] of the same probabilities, torch.cat([torch.zeros_like(z), z], 1), or take a method "
                "that compares features"
            )
            fail(function, name, "logits of two classes or more", got)


def class_labels(function: str, classes: int | None = None, /, *, unlabelled: bool = False, **tensors: Tensor) -> None:
    """Check that each argument is a 1-D integer tensor, with values in [0, classes) where `classes` is given.

    With `unlabelled`, negative labels are allowed: they mark rows without a label. Values are not read on a device
    where the host knows them (`core.host_values`), nor while torch.compile traces, where reading one would break the
    graph.

    Example:
        >>> class_labels("dkd_loss", 10, labels=torch.tensor([3, 10]))
        Traceback (most recent call last):
        ValueError: `dkd_loss`: `labels` must be class labels in [0, 10), got 10.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            fail(function, name, "a tensor of class labels", type(tensor).__name__)
        if tensor.dtype not in INTEGERS or tensor.dim() != 1:
            fail(function, name, "a 1-D integer tensor of class labels", f"{tensor.dtype} of shape {shape(tensor)}")
        dense(function, **{name: tensor})
        if classes is None or tensor.numel() == 0 or tensor.is_meta or torch.compiler.is_compiling():
            continue
        low, high = extremes(tensor)
        if high >= classes or (low < 0 and not unlabelled):
            allowed = f"class labels in [0, {classes})" + (" or negative where there is none" if unlabelled else "")
            fail(function, name, allowed, high if high >= classes else low)


def several_labels(function: str, /, **tensors: Tensor) -> None:
    """Check that each argument is a dense tensor of a type that labels of 0 and 1 may have: real, integer or bool."""
    dense(function, **tensors)
    for name, tensor in tensors.items():
        if tensor.dtype not in (*_FLOATING, *INTEGERS, torch.bool):
            fail(function, name, "labels of a floating, integer or boolean type", str(tensor.dtype))

"""One tester for every loss.

A test file describes its loss as a `LossCase` and subclasses the abstract `LossTester`; tests of what only that loss
has (limits, special cases equal to torch's own) are further methods. Arguments may be tensors, lists of tensors, None.
"""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from _harness import golden
from torch import Tensor, nn

from congruence.core.check import Constraint
from congruence.core.reduce import REDUCTION

Arguments = tuple[Any, ...]
Settings = Mapping[str, Any]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to every tensor of nested tuples and lists."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(function, item) for item in value)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor of nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def floats(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a function of tensors leave integer ones (labels, indices) alone."""
    return lambda tensor: function(tensor) if tensor.is_floating_point() else tensor


def leaves(arguments: Arguments) -> Arguments:
    """Copy the arguments as leaves; the floating ones want a gradient."""
    return map_tensors(lambda t: t.detach().clone().requires_grad_(t.is_floating_point()), arguments)


def gradients(value: Tensor, arguments: Arguments) -> list[Tensor]:
    """Return the gradient of the sum of `value` by every floating argument, zeros where it does not reach."""
    wanted = [t for t in tensors(arguments) if t.requires_grad]
    return list(torch.autograd.grad(value.sum(), wanted, allow_unused=True, materialize_grads=True))


@dataclass(frozen=True)
class Golden:
    """One golden case: its inputs in order, and which gradient belongs to which argument."""

    name: str
    settings: Settings = field(default_factory=dict)
    inputs: tuple[str, ...] = ("in_s", "in_t")
    gradients: Mapping[str, int] = field(default_factory=lambda: {"s": 0})


def equal_sides(arguments: Arguments) -> Arguments:
    """The student as its own teacher."""
    return (arguments[0], arguments[0], *arguments[2:])


def usual_extremes(case: LossCase) -> dict[str, Arguments]:
    """Give arguments at the edges of what a loss must survive."""
    usual = case.inputs(seeded(1), 6)
    narrow = map_tensors(lambda t: t[:, :1] if t.is_floating_point() else torch.zeros_like(t), usual)
    extremes = {
        "equal rows": map_tensors(floats(lambda t: t[:1].expand_as(t)), usual),
        "a zero row": map_tensors(floats(lambda t: torch.cat([torch.zeros_like(t[:1]), t[1:]])), usual),
        "all zero": map_tensors(floats(torch.zeros_like), usual),
        "opposite rows": map_tensors(floats(lambda t: torch.cat([t[:3], -t[:3]])), usual),
        "large": map_tensors(floats(lambda t: 1e4 * t.sign()), usual),
        "large and apart": map_tensors(floats(lambda t: 1e4 * t), usual),
        "tiny": map_tensors(floats(lambda t: 1e-20 * t), usual),
        "subnormal": map_tensors(floats(lambda t: 1e-41 * t), usual),
        "one sample": case.inputs(seeded(1), 1),
        "one column": narrow,
        "one sample, one column": map_tensors(lambda t: t[:1], narrow),
    }
    return {label: arguments for label, arguments in extremes.items() if not (case.over_classes and "column" in label)}


@dataclass(frozen=True)
class LossCase:
    """What the tester knows of a loss.

    Attributes:
        function: the pure function.
        module: its class.
        checks: the table of constraints of its file.
        required: values for the hyper-parameters that have no default; every one of `settings` holds them.
        inputs: (generator, rows) → float64 arguments.
        reference: slow loops in float64: (*arguments, **settings) → the loss, per sample where it has a `reduction`.
        settings: hyper-parameters under which all tests run.
        goldens: golden cases; `no_golden` says why there are none.
        zero_at_equal: settings under which a student equal to the teacher gives exactly 0.
        over_classes: whether it rests on the softmax of class logits, and refuses a single class.
        permutes: whether an order of the batch must not matter.
        differentiable: positions of the arguments that carry gradient; None: all floating ones.
        relational: both sides are [B, D] with widths of their own; tested on tight clusters.
        bad_arguments: arguments that must raise, with a part of the sentence.
        equal: arguments → the student as its own teacher.
        extremes: the case → labelled arguments at which value and gradient must be finite.
    """

    function: Callable[..., Tensor]
    module: type[nn.Module]
    checks: Mapping[str, Constraint]
    inputs: Callable[[torch.Generator, int], Arguments]
    reference: Callable[..., Tensor]
    settings: tuple[Settings, ...] = ({},)
    required: Settings = field(default_factory=dict)
    goldens: tuple[Golden, ...] = ()
    no_golden: str = ""
    zero_at_equal: tuple[Settings, ...] = ({},)
    over_classes: bool = False
    permutes: bool = True
    differentiable: tuple[int, ...] | None = None
    relational: bool = False
    bad_arguments: tuple[tuple[Arguments, str], ...] = ()
    equal: Callable[[Arguments], Arguments] = equal_sides
    extremes: Callable[[LossCase], dict[str, Arguments]] = usual_extremes

    def __post_init__(self) -> None:
        if bool(self.goldens) == bool(self.no_golden):
            raise ValueError(f"{self.name}: give goldens, or say in `no_golden` why there are none.")

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def per_sample(self) -> bool:
        return self.checks.get("reduction") == REDUCTION

    def plain_settings(self) -> list[Settings]:
        """Settings without callables: the ones that can be pickled."""
        return [s for s in self.settings if not any(callable(value) for value in s.values())]


class LossTester:
    """Abstract: a subclass sets `case`."""

    case: LossCase

    def test_equals_the_slow_reference(self):
        case = self.case
        for settings in case.settings:
            arguments = case.inputs(seeded(2), 5)
            expected = case.reference(*arguments, **settings)
            reductions = ("none", "mean", "sum") if case.per_sample else (None,)
            for reduction in reductions:
                if reduction is None:
                    got, wanted = case.function(*arguments, **settings), expected
                else:
                    got = case.function(*arguments, **settings, reduction=reduction)
                    wanted = expected if reduction == "none" else getattr(expected, reduction)()
                torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-13)

    def test_equals_the_goldens(self):
        for case in self.case.goldens:
            stored = golden.arrays(case.name)
            for dtype, loss, prefix, rtol in (
                (torch.float64, "loss", "grad_", 1e-10),
                (torch.float32, "loss_f32", "gradf32_", 2e-5),
            ):
                arguments = leaves(
                    map_tensors(floats(lambda t, d=dtype: t.to(d)), tuple(stored[k] for k in case.inputs))
                )
                value = self.case.function(*arguments, **case.settings)
                torch.testing.assert_close(value, stored[loss].to(dtype), rtol=rtol, atol=0)
                value.backward()
                for key, position in case.gradients.items():
                    expected = stored[f"{prefix}{key}"].to(dtype)
                    atol = rtol * expected.abs().max().item()
                    torch.testing.assert_close(arguments[position].grad, expected, rtol=rtol, atol=atol)
        assert self.case.goldens or self.case.no_golden

    def test_student_equal_to_the_teacher(self):
        arguments = leaves(self.case.equal(self.case.inputs(seeded(3), 6)))
        for settings in self.case.zero_at_equal:
            value = self.case.function(*arguments, **settings)
            assert value.item() == 0.0
            assert all(torch.isfinite(g).all() and g.abs().max() < 1e-6 for g in gradients(value, arguments))
        distinct = self.case.function(*self.case.inputs(seeded(3), 6), **self.case.settings[0])
        assert distinct.item() != 0.0

    def test_order_of_the_batch_does_not_matter(self):
        assert self.case.permutes, "a loss whose order matters overrides this test with what it does instead"
        rows = 6
        order = torch.randperm(rows, generator=seeded(4))
        arguments = self.case.inputs(seeded(4), rows)
        moved = map_tensors(lambda t: t[order] if t.shape[:1] == (rows,) else t, arguments)
        for settings in self.case.settings:
            expected = self.case.function(*arguments, **settings)
            torch.testing.assert_close(self.case.function(*moved, **settings), expected, rtol=1e-11, atol=1e-13)

    def test_gradcheck(self):
        for settings in self.case.settings:
            arguments = self.case.inputs(seeded(5), 4)
            positions = self.case.differentiable
            if positions is None:
                positions = tuple(i for i, a in enumerate(arguments) if any(t.is_floating_point() for t in tensors(a)))
            flat = [t.clone().requires_grad_() for i in positions for t in tensors(arguments[i])]

            def loss(*flat: Tensor, arguments=arguments, positions=positions, settings=settings) -> Tensor:
                supply = iter(flat)
                filled = list(arguments)
                for i in positions:
                    filled[i] = map_tensors(lambda _: next(supply), arguments[i])
                return self.case.function(*filled, **settings)

            assert torch.autograd.gradcheck(loss, flat, atol=1e-6, rtol=1e-4)

    def test_extreme_inputs_stay_finite(self):
        for label, arguments in self.case.extremes(self.case).items():
            for settings in self.case.settings:
                inputs = leaves(map_tensors(floats(Tensor.float), arguments))
                value = self.case.function(*inputs, **settings)
                assert torch.isfinite(value), (label, settings, value)
                assert all(torch.isfinite(g).all() for g in gradients(value, inputs)), (label, settings)

    @pytest.mark.parametrize("rows", [6, 1])
    def test_what_is_no_number_shows(self, rows):
        usual = self.case.inputs(seeded(13), rows)
        # Of a bank a single sample draws few rows: the last need not be among them.
        somewhere = (slice(-1, None), slice(None)) if rows > 1 else (slice(None),)
        for settings in self.case.settings:
            for position, number in ((i, j) for i, a in enumerate(usual) for j in range(len(list(tensors(a))))):
                if not list(tensors(usual[position]))[number].is_floating_point():
                    continue
                for bad, places in itertools.product((math.nan, math.inf), somewhere):
                    arguments = map_tensors(Tensor.clone, usual)
                    list(tensors(arguments[position]))[number].view(-1)[places] = bad
                    value = self.case.function(*arguments, **settings)
                    assert not torch.isfinite(value), (settings, position, number, bad, places, value)

    def test_a_single_class_is_refused(self):
        parameters = inspect.signature(self.case.function).parameters
        assert self.case.over_classes == any(name in parameters for name in ("student_logits", "other_logits"))
        if self.case.over_classes:
            narrow = map_tensors(
                lambda t: t[:, :1] if t.is_floating_point() else torch.zeros_like(t), self.case.inputs(seeded(14), 6)
            )
            with pytest.raises(
                ValueError, match=rf"^`{self.case.name}`: .* must be logits of two classes or more, got"
            ):
                self.case.function(*narrow, **self.case.settings[0])

    def test_dtype_and_inputs_are_kept(self):
        usual = self.case.inputs(seeded(6), 4)
        for dtype, wide in (
            (torch.float64, torch.float64),
            (torch.float32, torch.float32),
            (torch.float16, torch.float32),
            (torch.bfloat16, torch.float32),
        ):
            arguments = leaves(map_tensors(floats(lambda t, d=dtype: t.to(d)), usual))
            before = copy.deepcopy([t.detach() for t in tensors(arguments)])
            value = self.case.function(*arguments, **self.case.settings[0])
            assert value.dtype == wide
            assert value.shape == ()
            widened = map_tensors(floats(lambda t, w=wide: t.detach().to(w)), arguments)
            assert torch.equal(value, self.case.function(*widened, **self.case.settings[0]))
            value.backward()
            assert all(t.grad is None or t.grad.dtype == dtype for t in tensors(arguments))
            assert all(torch.equal(a, b) for a, b in zip(before, tensors(arguments), strict=True))

    def test_module_equals_function(self):
        camel = "".join(part.capitalize() for part in self.case.name.split("_"))
        assert self.case.module.__name__ == camel
        arguments = self.case.inputs(seeded(7), 5)
        for settings in self.case.settings:
            module = self.case.module(**settings)
            assert torch.equal(module(*arguments), self.case.function(*arguments, **settings))
            assert not list(module.parameters())
            assert all(f"{name}=" in repr(module) for name in self.case.checks)

    def test_signature(self):
        parameters = inspect.signature(self.case.function).parameters
        keyword_only = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert set(keyword_only) == set(self.case.checks)
        without = {name for name, default in keyword_only.items() if default is inspect.Parameter.empty}
        assert without == set(self.case.required)
        assert all(self.case.checks[name].accepts(keyword_only[name]) for name in set(keyword_only) - without)
        constructor = inspect.signature(self.case.module).parameters
        assert {name: p.default for name, p in constructor.items()} == keyword_only

    def test_pickle_and_deepcopy(self):
        arguments = self.case.inputs(seeded(8), 5)
        for settings in self.case.plain_settings():
            module = self.case.module(**settings)
            expected = module(*arguments)
            saved = io.BytesIO()
            pickle.dump(module, saved)
            assert torch.equal(pickle.loads(saved.getvalue())(*arguments), expected)
            assert torch.equal(copy.deepcopy(module)(*arguments), expected)

    def test_compiles(self):
        settings = self.case.settings[0]
        torch.compiler.reset()
        compiled = torch.compile(lambda *a: self.case.function(*a, **settings), backend="aot_eager", fullgraph=True)
        arguments = leaves(map_tensors(floats(Tensor.float), self.case.inputs(seeded(9), 5)))
        again = leaves(arguments)
        value, expected = compiled(*arguments), self.case.function(*again, **settings)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradients(value, arguments), gradients(expected, again))

    def test_errors_name_function_argument_and_range(self):
        arguments = self.case.inputs(seeded(10), 4)
        for name, constraint in self.case.checks.items():
            for bad in constraint.invalid():
                sentence = f"`: `{name}` must be {constraint.describe()}, got {bad!r}."
                with pytest.raises(ValueError, match=re.escape(f"`{self.case.name}{sentence}")):
                    self.case.function(*arguments, **{**self.case.required, name: bad})
                with pytest.raises(ValueError, match=re.escape(f"`{self.case.module.__name__}{sentence}")):
                    self.case.module(**{**self.case.required, name: bad})
        assert self.case.checks or inspect.signature(self.case.module).parameters == {}

    def test_errors_print_shapes(self):
        assert self.case.bad_arguments
        for arguments, part in self.case.bad_arguments:
            with pytest.raises(ValueError, match=rf"(?s)^`{self.case.name}`: .*{re.escape(part)}"):
                self.case.function(*arguments, **self.case.required)

    def test_autocast_changes_nothing(self):
        arguments = self.case.inputs(seeded(11), 6)
        if self.case.relational:
            arguments = tight_clusters(16, 3, 5)
        for settings in self.case.plain_settings():
            exact = leaves(arguments)
            value = self.case.function(*exact, **settings)
            under = leaves(map_tensors(floats(Tensor.float), arguments))
            with torch.autocast("cpu", torch.bfloat16):
                found = self.case.function(*under, **settings)
            torch.testing.assert_close(found.double(), value, rtol=1e-2, atol=0)
            for ours, wanted in zip(gradients(found, under), gradients(value, exact), strict=True):
                assert (ours.double() - wanted).norm() <= 1e-2 * wanted.norm()


def tight_clusters(rows: int, student_width: int, teacher_width: int) -> Arguments:
    """Two clusters at ±10 with a spread of 0.01, float32 values in float64: bfloat16 sees two points."""
    generator = seeded(12)
    sides = []
    for width in (student_width, teacher_width):
        centres = torch.where(torch.arange(rows) % 2 == 0, 10.0, -10.0)[:, None]
        sides.append((centres + 0.01 * torch.randn(rows, width, generator=generator)).double())
    return tuple(sides)

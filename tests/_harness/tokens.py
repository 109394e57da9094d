"""What every loss of padded tokens [B, N, D] must do beyond `LossTester`: `mask` is an argument, no hyper-parameter."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch
from _harness.losses import LossTester, gradients, leaves, seeded
from _harness.memory import largest_tensor
from torch import Tensor

MASK = torch.tensor(
    [[True, True, True, False], [True, True, True, True], [False, True, False, True], [True, False, False, False]]
)


def pairs_of_tokens(student_width: int, teacher_width: int, count: int = 4):
    """Return what gives tokens [rows, count, width] of both sides."""

    def inputs(generator: torch.Generator, rows: int) -> tuple[Tensor, Tensor]:
        student = torch.randn(rows, count, student_width, generator=generator, dtype=torch.float64)
        return student, torch.randn(rows, count, teacher_width, generator=generator, dtype=torch.float64)

    return inputs


def real_rows(tokens: Tensor, mask: Tensor | None) -> list[list[list[float]]]:
    """Return each sample's real tokens as plain lists, for slow loops."""
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
    return [sample[real].tolist() for sample, real in zip(tokens, mask, strict=True)]


def mean(values: list[float]) -> Tensor:
    return torch.tensor(math.fsum(values) / max(len(values), 1), dtype=torch.float64)


class TokenLossTester(LossTester):
    """Abstract: `case.reference` takes `mask`, too, and `case.inputs` gives four tokens a sample."""

    def test_signature(self):
        parameters = inspect.signature(self.case.function).parameters
        mask = parameters["mask"]
        assert mask.kind is mask.KEYWORD_ONLY
        assert mask.default is None
        keyword_only = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "mask"}
        assert set(keyword_only) == set(self.case.checks)
        without = {name for name, default in keyword_only.items() if default is inspect.Parameter.empty}
        assert without == set(self.case.required)
        constructor = inspect.signature(self.case.module).parameters
        assert {name: p.default for name, p in constructor.items()} == keyword_only

    def _masked(self, settings, arguments, mask: Tensor | None = MASK) -> Tensor:
        value = self.case.module(**settings)(*arguments, mask=mask)
        assert torch.equal(value, self.case.function(*arguments, mask=mask, **settings)) or value.isnan()
        return value

    def test_padded_tokens_change_nothing_whatever_they_hold(self):
        for settings in self.case.settings:
            usual = self.case.inputs(seeded(20), 4)
            expected = self.case.reference(*usual, mask=MASK, **settings)
            expected = expected.mean() if self.case.per_sample else expected
            clean = leaves(usual)
            value = self._masked(settings, clean)
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-13)
            wanted = gradients(value, clean)
            for bad in (math.nan, math.inf, 1e30, 0.0):
                filled = leaves(tuple(side.masked_fill(~MASK[:, :, None], bad) for side in usual))
                again = self._masked(settings, filled)
                assert torch.equal(again, value)
                for ours, theirs in zip(gradients(again, filled), wanted, strict=True):
                    assert torch.equal(ours, theirs)
                    assert (ours[~MASK] == 0).all()

    def test_a_mask_of_all_tokens_is_none(self):
        for settings in self.case.settings:
            usual = self.case.inputs(seeded(21), 4)
            whole = self._masked(settings, usual, torch.ones(4, 4, dtype=torch.bool))
            torch.testing.assert_close(whole, self._masked(settings, usual, None), rtol=1e-12, atol=1e-15)

    def test_without_real_tokens_it_is_zero_with_zero_gradient(self):
        for settings in self.case.settings:
            sides = leaves(self.case.inputs(seeded(22), 4))
            value = self._masked(settings, sides, torch.zeros(4, 4, dtype=torch.bool))
            assert value.item() == 0
            assert all((g == 0).all() for g in gradients(value, sides))
            some = MASK.clone()
            some[0] = False
            value = self._masked(settings, sides, some)
            assert torch.isfinite(value)
            for gradient in gradients(value, sides):
                assert torch.isfinite(gradient).all()
                assert (gradient[0] == 0).all()

    def test_not_a_number_in_a_real_token_shows(self):
        for settings in self.case.settings:
            for side in range(2):
                arguments = [x.clone() for x in self.case.inputs(seeded(23), 4)]
                arguments[side][1, 2, 0] = math.nan
                assert self._masked(settings, arguments).isnan()

    def test_order_of_the_tokens_does_not_matter(self):
        order = torch.tensor([2, 0, 3, 1])
        for settings in self.case.settings:
            usual = self.case.inputs(seeded(24), 4)
            moved = tuple(side[:, order] for side in usual)
            expected = self._masked(settings, usual)
            torch.testing.assert_close(self._masked(settings, moved, MASK[:, order]), expected, rtol=1e-11, atol=1e-13)

    def test_gradient_of_masked_tokens(self):
        for settings in self.case.settings:
            sides = leaves(self.case.inputs(seeded(25), 4))

            def loss(*sides, settings=settings):
                return self.case.function(*sides, mask=MASK, **settings)

            assert torch.autograd.gradcheck(loss, sides, atol=1e-6, rtol=1e-4)

    def test_a_masked_loss_compiles(self):
        settings = self.case.settings[-1]
        torch.compiler.reset()
        compiled = torch.compile(
            lambda *a: self.case.function(*a[:-1], mask=a[-1], **settings), backend="aot_eager", fullgraph=True
        )
        sides = self.case.inputs(seeded(26), 4)
        torch.testing.assert_close(compiled(*sides, MASK), self._masked(settings, sides))

    def test_tight_clusters_keep_their_digits(self):
        centres = torch.where(torch.arange(4) % 2 == 0, 10.0, -10.0)[:, None]
        tight = tuple((centres + 0.01 * side).float() for side in self.case.inputs(seeded(27), 4))
        for settings in self.case.settings:
            expected = self._masked(settings, [side.double() for side in tight])
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(self._masked(settings, tight).double(), expected, rtol=1e-4, atol=0)

    def test_masks_that_do_not_fit_are_refused(self):
        sides = self.case.inputs(seeded(28), 4)
        for bad, got in (
            (MASK.float(), "torch.float32 of shape [4, 4]"),
            (MASK[:, :3], "torch.bool of shape [4, 3]"),
            (MASK.tolist(), "list"),
        ):
            sentence = f"`{self.case.name}`: `mask` must be None or a boolean tensor of shape [4, 4], got {got}."
            with pytest.raises(ValueError, match=re.escape(sentence)):
                self.case.function(*sides, mask=bad, **self.case.required)

    def test_memory_is_that_of_pairs_of_tokens(self):
        for settings in self.case.settings:
            sides = leaves(tuple(side.repeat(8, 8, 1) for side in self.case.inputs(seeded(29), 4)))
            heads = settings.get("relation_heads", 1)

            def step(sides=sides, settings=settings):
                self.case.function(*sides, **settings).backward()

            largest = largest_tensor(step)
            assert largest <= heads * 32**3

"""In blocks, losses of pairs are those of the plain form, value and gradient, and no [B, B] matrix is made."""

from __future__ import annotations

import functools

import pytest
import torch
from _harness.memory import largest_tensor

from congruence.geometry import kernels, tiles
from congruence.losses import (
    attention_relation_loss,
    correlation_congruence_loss,
    patch_relation_loss,
    perception_coherence_loss,
    pkt_loss,
    rkd_distance_loss,
)

ROWS = 61
FORMS = {
    "pkt": (pkt_loss, {}),
    "cckd": (correlation_congruence_loss, {}),
    "cckd rbf": (correlation_congruence_loss, {"kernel": "rbf"}),
    "cckd bilinear": (correlation_congruence_loss, {"kernel": "bilinear", "normalize": False}),
    "cckd mmd": (correlation_congruence_loss, {"kernel": "mmd"}),
    "rkd distance": (rkd_distance_loss, {}),
    "perception coherence": (perception_coherence_loss, {}),
    "perception coherence exact": (perception_coherence_loss, {"method": "exact"}),
    "perception coherence fast": (perception_coherence_loss, {"method": "fast", "teacher_temperature": 0.01}),
    "perception coherence euclidean": (perception_coherence_loss, {"dissimilarity": "euclidean"}),
}


def sides(dtype=torch.float64, rows=ROWS):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    teacher = torch.randn(rows, 7, generator=generator, dtype=torch.float64)
    student[3] = student[4]  # a distance of 0
    student[5] = 0
    return student.to(dtype).requires_grad_(), teacher.to(dtype).requires_grad_()


def in_blocks(monkeypatch, *, rows=7):
    """Let every batch count as large, in blocks of a few rows."""
    monkeypatch.setattr(tiles, "LARGE", 1)
    for name in ("pkt", "correlation_congruence", "rkd_distance", "perception_coherence"):
        monkeypatch.setattr(tiles, name, functools.partial(getattr(tiles, name), entries=rows * ROWS))


@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradient_are_those_of_the_plain_form(monkeypatch, form):
    loss, options = FORMS[form]
    plain = loss(*sides(), **options)
    wanted = [plain.detach(), *torch.autograd.grad(loss(*(at := sides()), **options) * 3, at)]
    in_blocks(monkeypatch)
    calls, summed = [], tiles.sum_over_blocks
    monkeypatch.setattr(tiles, "sum_over_blocks", lambda *given, **more: calls.append(1) or summed(*given, **more))
    at = sides()
    value = loss(*at, **options)
    found = [value.detach(), *torch.autograd.grad(value * 3, at)]
    assert calls
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * max(1e-3, other.abs().max().item()))


@pytest.mark.parametrize("form", ["pkt", "cckd", "rkd distance", "perception coherence"])
def test_half_and_single_precision_keep_their_dtype(monkeypatch, form):
    loss, options = FORMS[form]
    for dtype in (torch.float32, torch.bfloat16):
        student, teacher = sides(dtype)
        wanted = loss(student, teacher.detach(), **options)
        with monkeypatch.context() as patched:
            in_blocks(patched)
            value = loss(student, teacher.detach(), **options)
        assert value.dtype == wanted.dtype
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-7)
        value.backward()
        assert student.grad.dtype == dtype
        assert torch.isfinite(student.grad).all()


OF_TOKENS = {
    "minilm": functools.partial(attention_relation_loss, relation_heads=2),
    "patch relation": patch_relation_loss,
    "patch relation of others": functools.partial(patch_relation_loss, diagonal=False),
}


@pytest.mark.parametrize("form", OF_TOKENS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_few_samples_at_a_time_are_all_at_once(monkeypatch, form, padded):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 6, width, generator=generator, dtype=torch.float64) for width in (4, 8))
    at = student.requires_grad_(), teacher.requires_grad_()
    mask = (torch.arange(6) < torch.tensor([6, 0, 1, 4, 2])[:, None]) if padded else None
    plain = OF_TOKENS[form](*at, mask=mask)
    wanted = torch.autograd.grad(plain, at)
    monkeypatch.setattr(tiles, "_WHOLE", 1)
    monkeypatch.setattr(tiles, "_ENTRIES", 2 * 72)  # two samples of two heads at a time
    calls, summed = [], tiles.sum_over_blocks
    monkeypatch.setattr(tiles, "sum_over_blocks", lambda *given, **more: calls.append(1) or summed(*given, **more))
    value = OF_TOKENS[form](*at, mask=mask)
    assert calls
    torch.testing.assert_close(value, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(value, at), wanted, rtol=1e-9, atol=1e-15)


def test_matrices_of_all_samples_are_not_in_memory(monkeypatch):
    monkeypatch.setattr(tiles, "_WHOLE", 1)
    monkeypatch.setattr(tiles, "_ENTRIES", 1)
    tokens = tuple(torch.randn(8, 40, 4, generator=torch.Generator().manual_seed(k)) for k in range(2))
    student = tokens[0].requires_grad_()
    for loss in OF_TOKENS.values():
        assert largest_tensor(lambda loss=loss: loss(student, tokens[1]).backward()) <= 2 * 40**2


def test_small_batches_take_the_plain_form(monkeypatch):
    calls = []
    monkeypatch.setattr(tiles, "pkt", lambda *rows, eps: calls.append(1) or rows[0].sum())
    monkeypatch.setattr(tiles, "LARGE", ROWS)
    pkt_loss(*sides())
    assert not calls
    pkt_loss(*sides(rows=ROWS + 1))
    assert calls


def test_a_callable_stays_whole(monkeypatch):
    in_blocks(monkeypatch)
    seen = []
    own = lambda x: seen.append(x.shape) or kernels.bilinear_kernel(x)  # noqa: E731
    correlation_congruence_loss(*sides(), kernel=own).backward()
    assert {shape[0] for shape in seen} == {ROWS}


def test_no_second_derivative(monkeypatch):
    in_blocks(monkeypatch)
    student, teacher = sides()
    with pytest.raises(ValueError, match="keeps no graph of its gradient"):
        torch.autograd.grad(pkt_loss(student, teacher), student, create_graph=True)
    with torch.no_grad():
        assert not pkt_loss(student, teacher).requires_grad


def test_what_is_not_finite_shows(monkeypatch):
    in_blocks(monkeypatch)
    for loss in (pkt_loss, correlation_congruence_loss, rkd_distance_loss, perception_coherence_loss):
        student, teacher = (side.detach().clone() for side in sides())
        student[0, 0] = float("nan")
        assert not torch.isfinite(loss(student, teacher))

"""Learned parts of golden cases, as their stored parameters make them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_norm(x: Tensor, stored: Mapping[str, Tensor], conv: str, norm: str, padding: int = 0) -> Tensor:
    """Convolve without bias and normalise by the batch, by `CONV.weight`, `NORM.weight` and `NORM.bias`."""
    x = F.conv2d(x, stored[f"{conv}.weight"].to(x.dtype), padding=padding)
    weight, bias = (stored[f"{norm}.{part}"].to(x.dtype) for part in ("weight", "bias"))
    return F.batch_norm(x, None, None, weight, bias, training=True)


def assert_golden(value: Tensor, student: Tensor, stored: Mapping[str, Tensor], *, alternative: str = "") -> None:
    """Compare a value and its gradient by the student with the stored ones of the student's type."""
    double = student.dtype == torch.float64
    loss, gradient = ("loss", "grad_s") if double else ("loss_f32", "gradf32_s")
    rtol = 1e-9 if double else 2e-5
    torch.testing.assert_close(value, stored[alternative + loss].to(value.dtype), rtol=rtol, atol=0)
    expected = stored[alternative + gradient].to(student.dtype)
    (ours,) = torch.autograd.grad(value, student, retain_graph=True)
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=rtol * expected.abs().max().item())

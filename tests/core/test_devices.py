"""Private copies of inputs: writes stay on their side, whatever memory the tensors have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from congruence.core.devices import private

KINDS = {
    "usual": lambda: torch.ones(2, 3),
    "of NumPy": lambda: torch.from_numpy(np.ones((2, 3), dtype=np.float32)),
    "shared": lambda: torch.ones(2, 3).share_memory_(),
    "a view": lambda: torch.ones(4, 3)[1:3],
    "of a half": lambda: torch.ones(2, 3, dtype=torch.bfloat16),
    "of integers": lambda: torch.ones(2, 3, dtype=torch.int64),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("mine", [True, False], ids=["the copy is written", "the original is written"])
def test_a_write_stays_on_its_side(make, mine):
    original = make()
    copy = private({"x": original})["x"]
    written, other = (copy, original) if mine else (original, copy)
    written[0].add_(4)
    assert torch.equal(other, torch.ones_like(other))
    assert torch.equal(written[1], other[1])
    assert written[0, 0] == 5


def test_a_copy_of_what_wants_gradient_passes_it_on():
    original = torch.ones(3, requires_grad=True)
    private(original).square().sum().backward()
    assert torch.equal(original.grad, torch.full((3,), 2.0))

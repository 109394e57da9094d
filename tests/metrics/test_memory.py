"""The bytes that docstrings promise, by counted allocations; where a metric ranks alone, its own test has them."""

import pytest
import torch
from _harness.losses import seeded
from _harness.memory import peak_bytes

from congruence.metrics import (
    global_perception_coherence,
    identification_rate,
    mmd_discrepancy,
    order_preservation,
    perception_stability,
    rank_preservation,
    rkd_distance_discrepancy,
)

ROWS, WIDTH = 2000, 8
STUDENT, TEACHER = (torch.randn(ROWS, WIDTH, generator=seeded(n)) for n in (0, 1))
SIDES = ROWS * 2 * WIDTH
SOME = torch.arange(200)


def pairs(chunk):
    return {"pairings": 3, "generator": seeded(), "chunk_size": chunk}


CASES = {
    "gpcl": (lambda c: global_perception_coherence(STUDENT, TEACHER, chunk_size=c), 80, 16),
    "rank": (lambda c: rank_preservation(STUDENT, TEACHER, SOME, **pairs(c)), 80, 16),
    "order": (lambda c: order_preservation(STUDENT, TEACHER, SOME, **pairs(c)), 80, 16),
    "stability": (lambda c: perception_stability(STUDENT, TEACHER, SOME[:50], radius=0.01, chunk_size=c), 100, 32),
    "rkd": (lambda c: rkd_distance_discrepancy(STUDENT, TEACHER, chunk_size=c), 80, 32),
    "mmd": (lambda c: mmd_discrepancy(STUDENT, TEACHER, chunk_size=c), 32, 24),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk", [100, 400])
def test_memory_is_as_said(name, chunk):
    call, block, side = CASES[name]
    pairings = 8 * 3 * ROWS
    assert peak_bytes(lambda: call(chunk)) <= block * chunk * ROWS + side * SIDES + pairings


@pytest.mark.parametrize("kernel", ["linear", "polynomial"])
def test_kernels_of_products_need_none(kernel):
    assert peak_bytes(lambda: mmd_discrepancy(STUDENT, TEACHER, kernel=kernel)) <= 24 * SIDES


def test_identification_is_a_block_of_the_pool():
    ids = torch.arange(100)
    data = STUDENT[:100], ids, TEACHER[:100], ids, TEACHER
    peak = peak_bytes(lambda: identification_rate(*data, generator=seeded()))
    assert peak <= 40 * 2**20 + 16 * (100 + 100 + ROWS) * WIDTH

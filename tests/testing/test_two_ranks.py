from __future__ import annotations

import pytest
from _harness.outside import ROW, flawed

from congruence.testing import Case, check_rows_on_two_ranks


def test_a_row_from_outside_on_two_ranks():
    with pytest.raises(AssertionError, match=r"flawed-flaw=scope': .* off that of one process"):
        check_rows_on_two_ranks(ROW, Case(flawed("scope"), {"flaw": "scope"}))


def test_an_error_on_a_rank_comes_back():
    with pytest.raises(RuntimeError, match="`temperature` must be a number > 0, got -1"):
        check_rows_on_two_ranks(Case("kd", {"temperature": -1}))

"""The contract that every row of the catalogue must satisfy, for packages that add methods.

`check_row` runs a method on models of a few hundred parameters: it must train, resume to the same bits, leave the
teacher unchanged, and save a plain student. `check_rows_on_two_ranks` checks that two processes give the gradients of
one, `check_rows_on_ranks` that more do, and `check_row_on_device` that a GPU gives those of the CPU. All raise an
AssertionError that says what failed. The tests of a package with two rows:

    CASES = [Case(my_package.ROW), Case(my_package.OTHER, {"levels": 2})]

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_contract(case):
        check_row(case)

    def test_two_ranks():
        check_rows_on_two_ranks(*CASES)
"""

from congruence.testing.case import Case
from congruence.testing.checks import (
    check_bf16,
    check_channels_last,
    check_description,
    check_resume,
    check_row,
    check_terms,
    check_training,
    check_zero_at_equal,
)
from congruence.testing.device import check_row_on_device
from congruence.testing.two_ranks import check_rows_on_ranks, check_rows_on_two_ranks

__all__ = [
    "Case",
    "check_bf16",
    "check_channels_last",
    "check_description",
    "check_resume",
    "check_row",
    "check_row_on_device",
    "check_rows_on_ranks",
    "check_rows_on_two_ranks",
    "check_terms",
    "check_training",
    "check_zero_at_equal",
]

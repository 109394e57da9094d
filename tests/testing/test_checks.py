"""The contract passes what is right, from outside too, and tells each thing that is wrong."""

from __future__ import annotations

import dataclasses

import pytest
from _harness.outside import ROW, Flawed, flawed

from congruence.losses import mimic_loss
from congruence.testing import (
    Case,
    check_bf16,
    check_channels_last,
    check_description,
    check_resume,
    check_row,
    check_row_on_device,
    check_terms,
    check_training,
    check_zero_at_equal,
)


def test_a_row_from_outside_keeps_the_contract():
    case = Case(ROW, {"momentum": 0.5})
    check_row(case)
    assert str(case) == "mean_map-momentum=0.5"


FLAWS = {
    "writes": (check_terms, "writes state"),
    "shape": (check_terms, "must return tensors of shape [], got [2]"),
    "nan": (check_terms, "is nan"),
    "random": (check_terms, "differs from run to run"),
    "order": (check_terms, "changes with the order of the batch"),
    "constant": (check_training, "training did not move the student"),
    "forgets": (check_resume, "ends in other bits"),
    "strides": (check_channels_last, "channels last in memory"),
    "half": (check_bf16, "under bfloat16"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_told(flaw):
    check, words = FLAWS[flaw]
    check(Case(flawed(flaw)))  # without the flaw
    # A shape is refused by the distiller itself, hence the ValueError.
    with pytest.raises(ValueError if flaw == "shape" else AssertionError, match="flawed") as caught:
        check(Case(flawed(flaw), {"flaw": flaw}))
    assert words in str(caught.value)


def test_a_device_gives_what_the_cpu_does():
    check_row_on_device("kd", "cpu")
    with pytest.raises(AssertionError, match=r"in step 1 on cpu is .* off that of the CPU"):
        check_row_on_device(Case(flawed("random"), {"flaw": "random"}), "cpu")


def test_a_student_equal_to_the_teacher():
    check_zero_at_equal(Case("mimic"))
    with pytest.raises(AssertionError, match="equal to the teacher"):
        check_zero_at_equal(Case("ce"))


class Open(Flawed):
    """Takes anything."""

    def __init__(self, flaw="none"):
        super().__init__(flaw=flaw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "Not a key"}, "no lower-case word"),
        ({"summary": "two\nlines"}, "not one line"),
        ({"reference": " "}, "no reference"),
        ({"function": check_row}, "lacks formula or Shape"),
        ({"part": Open}, "is not keyword-only"),
    ],
)
def test_a_careless_row_is_told(change, words):
    with pytest.raises(AssertionError, match=words):
        check_description(Case(dataclasses.replace(flawed("none"), **change)))


class Clashing(Flawed):
    """Has a hyper-parameter that `Term` keeps for itself."""

    def __init__(self, *, weight=1.0):
        super().__init__()


def test_a_clash_with_the_names_of_term_is_told():
    with pytest.raises(AssertionError, match=r"\['weight'\] are names of `Term`'s own"):
        check_description(Case(dataclasses.replace(flawed("none"), part=Clashing, function=mimic_loss)))

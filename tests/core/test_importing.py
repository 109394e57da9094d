"""Code named in text is imported where it is trusted, and what is wrong with the name is one sentence."""

from __future__ import annotations

import pytest

from congruence.core.importing import import_callable


def test_a_name_may_lead_into_a_class():
    assert import_callable("fractions:Fraction.from_float", what="metric", trust=True)(0.5).denominator == 2


@pytest.mark.parametrize(
    ("target", "trust", "sentence"),
    [
        ("math:hypot", False, "The metric 'math:hypot' imports and runs your code: allow it with trust=True"),
        ("no_such:f", True, "The metric 'no_such:f' cannot be imported: No module named 'no_such'."),
        ("no_such.py:f", True, "A module is named without '.py'."),
        ("math:hypott", True, "The metric 'math:hypott' is not there. Did you mean 'hypot'"),
        ("math:pi", True, "The metric 'math:pi' must be callable, got float."),
    ],
)
def test_what_cannot_be_imported(target, trust, sentence):
    with pytest.raises(ValueError) as caught:
        import_callable(target, what="metric", trust=trust)
    assert sentence in str(caught.value)

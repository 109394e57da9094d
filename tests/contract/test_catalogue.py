"""Every row of the catalogue keeps the contract of `congruence.testing`; a package's rows come after them."""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import replace

import pytest
from _harness.attacks import LONG
from _harness.cases import CASES, CHANGED, NOT_ZERO_AT_EQUAL, OWN_KEYS
from _harness.fresh import in_a_fresh_process, install
from _harness.outside import ROW

import congruence as cg
from congruence.losses import __all__ as LOSSES
from congruence.methods import Row, catalogue, row
from congruence.methods.catalogue import table
from congruence.testing import check_row, check_rows_on_ranks, check_rows_on_two_ranks


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_keeps_the_contract(case):
    check_row(case)
    assert case.zero_at_equal != (case.row in NOT_ZERO_AT_EQUAL)


def test_two_ranks_are_one():
    assert set(NOT_ZERO_AT_EQUAL) <= set(OWN_KEYS)
    check_rows_on_two_ranks(*CASES, *CHANGED)


# One row of each kind of signal and memory; `make attack` tries all on four and on eight.
OF_EACH_KIND = ("ce", "kd", "pkt", "crd", "kda", "intra_class", "dml", "ofd", "vitkd", "simkd")


def test_four_ranks_are_one():
    check_rows_on_ranks(*(case for case in CASES if case.entry.key in OF_EACH_KIND), ranks=4)


@pytest.mark.skipif(not os.environ.get(LONG), reason="part of `make attack`")
@pytest.mark.parametrize("ranks", [4, 8])
@pytest.mark.slow
def test_many_ranks_are_one(ranks):
    check_rows_on_ranks(*CASES, *CHANGED, ranks=ranks, timeout=1200)


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_term_takes_every_hyperparameter(key):
    defaults = {k: v for k, v in row(key).defaults().items() if v is not inspect.Parameter.empty}
    assert cg.Term(key, **defaults).hyperparameters == defaults


# Names of published functions; their rows give them under another one.
RENAMED = {"wasserstein_logit_loss": {"weight"}, "WassersteinLogitLoss": {"weight"}}  # as `non_target_weight`


def test_no_hyperparameter_of_a_loss_has_a_name_that_term_keeps():
    parameters = inspect.signature(cg.Term).parameters.values()
    own = {p.name for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_KEYWORD)}
    assert own == set(cg.Term.RESERVED)
    for name in LOSSES:
        parameters = inspect.signature(getattr(cg.losses, name)).parameters.values()
        # `mask` of a loss is a tensor of the batch; a row never has it as a hyper-parameter.
        clash = own & {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "mask"}
        clash -= RENAMED.get(name, set())
        assert not clash, f"{name} has hyper-parameters that `Term` takes for itself: {sorted(clash)}"
    assert row("wkd_l").defaults()["non_target_weight"] == 600.0


def test_a_key_twice_raises():
    assert table((ROW,)) == {"mean_map": ROW}
    with pytest.raises(ValueError, match=r"two rows with the key 'mean_map'"):
        table((ROW, replace(ROW)))


FAKE = {
    "good": "mean_map = _harness.outside:ROW",
    "double": "pkt = congruence.methods.catalogue:ROWS",
    "again": "mean_map = _harness.outside:ROW\nother = _harness.outside:ROW",
}
SCRIPT = """
import congruence as cg
from congruence.methods import catalogue, keys, row
print(keys().index("mean_map") >= len(catalogue.ROWS), row("mean_map").summary, cg.Term("mean_map", momentum=0.5))
"""


def test_a_package_adds_rows_through_its_entry_points(tmp_path):
    done = in_a_fresh_process(tmp_path, catalogue.GROUP, FAKE["good"], SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0].startswith("True The mean activation. Term('mean_map'")
    assert isinstance(ROW, Row)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("double", "The entry point 'pkt' of congruence.methods must name a catalogue Row, got tuple."),
        ("again", "The catalogue has two rows with the key 'mean_map'."),
    ],
)
def test_a_package_with_a_wrong_row_is_refused(kind, sentence, tmp_path, monkeypatch):
    install(tmp_path, catalogue.GROUP, FAKE[kind])
    monkeypatch.syspath_prepend(tmp_path)
    catalogue._all.cache_clear()
    try:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            catalogue.keys()
    finally:
        catalogue._all.cache_clear()

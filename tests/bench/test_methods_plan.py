"""The plan of every method: each of its cells trains for two steps, and warnings are errors."""

from __future__ import annotations

import dataclasses

import pytest
from _harness.cases import OWN_KEYS
from _harness.configs import pictures, quick

from congruence.bench.planfile import load_plan
from congruence.config.load import load_config
from congruence.data import Splits
from congruence.pipeline import run

LOADED = load_plan("methods-cifar10")
# One stored view: a cached teacher runs on full batches, however few images there are.
PLAN = dataclasses.replace(LOADED, overrides=tuple(text.replace("views=8", "views=1") for text in LOADED.overrides))
SPLITS = Splits(*(pictures(count, seed) for seed, count in enumerate((24, 16, 16))))


def test_its_methods_are_of_the_catalogue():
    """One that it does not have yet has no figures: `make figures` names it."""
    assert "ce" in PLAN.recipes
    assert set(PLAN.recipes) <= set(OWN_KEYS)


@pytest.mark.slow
@pytest.mark.parametrize("variant", PLAN.variants)
@pytest.mark.parametrize("method", PLAN.recipes)
def test_a_cell_trains(method, variant, tmp_path):
    one = dataclasses.replace(
        PLAN, recipes={method: PLAN.recipes[method]}, variants={variant: PLAN.variants[variant]}, seeds=(0,)
    )
    stages = load_config(PLAN.recipes[method]).stages
    # The plan's precision in one row: a processor without bfloat16 takes twice as long for a cell in it.
    single = [] if method == "ce" else [f"stages.{stage}.train.precision='float32'" for stage in stages]
    last = {row: (*PLAN.own.get(row, ()), *quick(stages), *single) for row in (method, f"{method}-{variant}")}
    (cell,) = dataclasses.replace(one, own=last).cells()
    terms = [term.term().needs for term in cell.config.stages[cell.config.last].terms]
    if any("maps" in needs.roles for needs in terms):
        assert cell.config.stages[cell.config.last].teacher_cache is None, "it would store maps"
    # The row's own term is there: that of intra_class in its teacher's stage.
    assert method in {term.key for stage in cell.config.stages.values() for term in stage.terms}
    finished = run(cell.config, tmp_path, splits=SPLITS)
    assert {stage.result.steps for stage in finished.values()} == {2}

"""Plans: what they hold, and what is wrong with them."""

from __future__ import annotations

import pytest

from congruence.bench import plan as plans
from congruence.bench.planfile import load_plan
from congruence.config.shipped import names

GOOD = """
name = "mine"
seeds = [0, 1]
set = ["stages.student.train.epochs=2"]
[methods]
a = "digits/ce"
b = "digits/pkt"
"""


def written(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return str(path)


def test_cells_are_methods_times_seeds(tmp_path):
    cells = load_plan(written(tmp_path, GOOD)).cells()
    assert [cell.name for cell in cells] == ["a-seed0", "a-seed1", "b-seed0", "b-seed1"]
    assert [cell.config.stages["student"].train.seed for cell in cells] == [0, 1, 0, 1]
    assert {cell.config.stages["student"].train.epochs for cell in cells} == {2}
    assert len({cell.key() for cell in cells}) == 4


def test_methods_and_seeds_share_a_teacher(tmp_path):
    path = written(tmp_path, GOOD)
    assert len({cell.teacher_key() for cell in load_plan(path).cells()}) == 1
    other = load_plan(path, overrides=("stages.teacher.train.epochs=1",)).cells()[0]
    assert other.teacher_key() != load_plan(path).cells()[0].teacher_key()


LARGE = ("methods-cifar10", "evidence-2", "evidence-2-float32")
PLANS = [name for name in names("plans") if not name.startswith("paper/")]  # those: test_paper_plans.py


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in PLANS])
def test_every_shipped_plan_is_whole(name):
    plan = load_plan(name, seeds=(0, 1))
    assert plan.name == name
    assert len(load_plan(name).seeds) >= 2
    cells = plan.cells()
    assert len(cells) == plan.count()
    assert len({cell.name for cell in cells}) == len(cells)
    trials = plan.trials()
    assert len({cell.trial for cell in trials}) == len(trials)
    # An earlier stage's, a kept one, or a model that an installed package holds.
    assert all(cell.has_teacher or cell.config.teachers_of(cell.config.stages[cell.config.last]) for cell in cells)


TUNED = (
    GOOD
    + """
[variants]
small = ["stages.student.student={model='resnet8'}"]
large = ["stages.student.student={model='resnet14'}"]
[tune]
factors = [0.5, 2]
seed = 9
set = ["stages.student.train.epochs=1"]
variants.large = ["stages.student.train.batch_size=32"]
"""
)


def test_variants_are_overrides_under_a_name(tmp_path):
    cells = load_plan(written(tmp_path, TUNED)).cells()
    assert [cell.name for cell in cells][:5] == [
        "a-small-seed0",
        "a-small-seed1",
        "b-small-seed0",
        "b-small-seed1",
        "a-large-seed0",
    ]
    models = {cell.variant: cell.config.stages["student"].student.model for cell in cells}
    assert models == {"small": "resnet8", "large": "resnet14"}


def test_all_rows_are_balanced_by_a_word(tmp_path):
    text = GOOD.replace("[methods]", "weight = 'balanced'\n[methods]") + "cckd = 'digits/cckd'\npc = 'digits/pkt'\n"
    text += "[overrides]\npc = ['stages.student.terms.1.weight=7.0']\n"
    weights = {
        cell.method: [term.weight for term in cell.config.stages["student"].terms]
        for cell in load_plan(written(tmp_path, text), seeds=(0,)).cells()
    }
    assert weights == {"a": [1.0], "b": [1.0, "balanced"], "cckd": [0.1, 0.9, "balanced"], "pc": [1.0, 7.0]}
    with pytest.raises(ValueError, match="weight: expected 'balanced' or 'published', got 'equal'"):
        load_plan(written(tmp_path, text.replace("'balanced'", "'equal'")))


def test_a_variant_may_be_the_recipes_as_they_are(tmp_path):
    plan = load_plan(written(tmp_path, GOOD + "[variants]\nplain = []\nshort = ['stages.student.train.epochs=1']\n"))
    epochs = {cell.variant: cell.config.stages["student"].train.epochs for cell in plan.cells()}
    assert epochs["short"] == 1 < epochs["plain"]


def test_variants_may_have_seeds_of_their_own(tmp_path):
    plan = load_plan(written(tmp_path, TUNED + "[seeds_of]\nlarge = [5, 6, 7]\n"))
    assert [cell.seed for cell in plan.cells()] == [0, 1, 0, 1, 5, 6, 7, 5, 6, 7]
    assert plan.count() == 10
    assert load_plan(written(tmp_path, TUNED + "[seeds_of]\nlarge = [5]\n"), seeds=(3,)).seeds_in("large") == (3,)
    with pytest.raises(ValueError) as caught:
        load_plan(written(tmp_path, TUNED + "[seeds_of]\nlarge = [5, 5]\nlarg = [1]\n"))
    assert "seeds_of.large: expected different whole numbers, got [5, 5]." in str(caught.value)
    assert "seeds_of.larg: unknown variant. Did you mean 'large'?" in str(caught.value)


def test_single_rows_have_their_own_overrides_last(tmp_path):
    text = (
        TUNED
        + """
[overrides]
a = ["stages.student.train.batch_size=16"]
b-large = ["stages.student.student={model='cnn3'}", "stages.student.train.batch_size=8"]
"""
    )
    plan = load_plan(written(tmp_path, text), seeds=(0,))
    stages = {cell.row: cell.config.stages["student"] for cell in plan.cells()}
    assert {row: stage.train.batch_size for row, stage in stages.items()} == {
        "a-small": 16,
        "b-small": 64,
        "a-large": 16,
        "b-large": 8,
    }
    assert {row: stage.student.model for row, stage in stages.items()} == {
        "a-small": "resnet8",
        "b-small": "resnet8",
        "a-large": "resnet14",
        "b-large": "cnn3",
    }
    assert {trial.config.stages["student"].student.model for trial in plan.trials()} == {"resnet8", "cnn3"}


def test_the_command_line_wins(tmp_path):
    own = "[overrides]\nb = ['stages.student.train.epochs=7']\n[variants]"
    path = written(tmp_path, TUNED.replace("[variants]", own))
    plan = load_plan(path, overrides=("stages.student.train.epochs=4", "stages.student.train.batch_size=16"))
    for cell in (*plan.cells(), *plan.trials()):
        train = cell.config.stages["student"].train
        assert (train.epochs, train.batch_size) == (4, 16)


def test_overrides_of_no_row_are_refused(tmp_path):
    path = written(tmp_path, TUNED + "[overrides]\nb-lage = ['data.train_size=9']\na = 3\n")
    with pytest.raises(ValueError) as caught:
        load_plan(path)
    said = str(caught.value)
    assert "overrides.b-lage: unknown method. Did you mean 'b-large' or 'a-large'?" in said
    assert "overrides: expected for each method a list of KEY=VALUE, got {" in said


def test_trials_are_short_runs_of_each_method_that_has_a_teacher(tmp_path):
    trials = load_plan(written(tmp_path, TUNED)).trials()
    assert [trial.trial for trial in trials] == ["b-small-x0.5", "b-small-x2", "b-large-x0.5", "b-large-x2"]
    for trial in trials:
        train, terms = trial.config.stages["student"].train, trial.config.stages["student"].terms
        assert (train.seed, train.epochs) == (9, 1)
        assert train.batch_size == (32 if trial.variant == "large" else 64)
        assert {term.key: term.weight for term in terms} == {"ce": 1.0, "pkt": 30000.0 * trial.factor}


def test_the_factor_found_changes_the_cells_of_its_row_alone(tmp_path):
    plan = load_plan(written(tmp_path, TUNED))
    plain = plan.cells()
    found = [cell.weighted({"b-small": 0.5}.get(cell.row, 1.0)) for cell in plain]
    for before, after in zip(plain, found, strict=True):
        changed = before.row == "b-small"
        assert (before.key() != after.key()) == changed
        weights = [cell.config.stages["student"].terms[-1].weight for cell in (before, after)]
        assert weights[1] == weights[0] * (0.5 if changed else 1)
        assert after.factor == (0.5 if changed else 1)


def test_the_terms_that_bear_the_methods_name_are_tuned(tmp_path):
    path = written(tmp_path, TUNED.replace('b = "digits/pkt"', 'cckd = "digits/cckd"\nfirst = "digits/cckd"'))
    found = {}
    for trial in load_plan(path).trials():
        if trial.variant == "small" and trial.factor == 2:
            found[trial.method] = {term.key: term.weight for term in trial.config.stages["student"].terms}
    plain = {term.key: term.weight for term in load_plan(path).cells()[-1].config.stages["student"].terms}
    assert found["cckd"] == {**plain, "cckd": 2 * plain["cckd"]}
    assert found["first"] == {key: weight * (1 if key == "ce" else 2) for key, weight in plain.items()}


def test_some_variants_alone(tmp_path):
    plan = load_plan(written(tmp_path, TUNED))
    cells = plan.only("small").cells()
    assert [cell.name for cell in cells] == [cell.name for cell in plan.cells() if cell.variant == "small"]
    assert plan.only(*plan.variants) == plan
    with pytest.raises(ValueError, match=r"'mine' has no variant 'smal' \(it has: small, large\)\. .*'small'\?$"):
        plan.only("smal")
    assert {cell.row for cell in plan.only("small", methods=["b"]).cells()} == {"b-small"}
    with pytest.raises(ValueError, match=r"The plan 'mine' has no method 'c'\."):
        plan.only(methods=["c"])


def test_a_method_has_overrides_of_its_own(tmp_path):
    own = '[overrides]\nb = ["stages.student.train.epochs=7"]\n[variants]'
    plan = load_plan(written(tmp_path, TUNED.replace("[variants]", own)))
    assert {cell.method: cell.config.stages["student"].train.epochs for cell in plan.cells()} == {"a": 2, "b": 7}
    assert {trial.config.stages["student"].train.epochs for trial in plan.trials()} == {1}
    with pytest.raises(ValueError, match=r"overrides\.c: unknown method\."):
        load_plan(written(tmp_path, TUNED.replace("[variants]", own.replace("b = ", "c = "))))


def test_weights_of_parts_are_multiplied_each():
    assert plans._times({"distance": 25.0, "angle": 50.0}, 2.0) == {"distance": 50.0, "angle": 100.0}


def test_what_is_wrong_with_variants_and_tuning_is_said(tmp_path):
    text = TUNED.replace("factors = [0.5, 2]", "factors = 2").replace("variants.large", "variants.larg")
    with pytest.raises(ValueError) as caught:
        load_plan(written(tmp_path, text.replace("seed = 9", "sed = 9")))
    said = str(caught.value)
    assert "tune.sed: unknown key. Did you mean 'seed' or 'set'?" in said
    assert "tune.seed: missing." in said
    assert "tune.factors: expected a list of numbers, got 2." in said
    assert "tune.variants.larg: unknown variant. Did you mean 'large'?" in said


def test_a_cell_is_the_same_one_when_a_later_version_has_more_keys():
    """What a configuration leaves at its default is no part of the key."""
    config = load_plan("demo").cells()[0].config
    said = config.model_dump(mode="json", exclude_defaults=True)
    assert "teacher_cache" not in said["stages"]["student"]
    assert plans.digest(config) == plans.digest(type(config).model_validate(config.model_dump()))


def test_what_is_wrong_is_said_at_once(tmp_path):
    path = written(tmp_path, 'nam = "x"\nseeds = 3\n[methods]\n')
    with pytest.raises(ValueError) as caught:
        load_plan(path)
    said = str(caught.value)
    assert f"{path}: nam: unknown key. Did you mean 'name'?" in said
    assert f"{path}: seeds: expected a list of whole numbers, got 3." in said
    assert f"{path}: name: missing." in said
    assert f"{path}: methods: expected at least one method." in said


def test_seeds_are_different(tmp_path):
    path = written(tmp_path, GOOD.replace("[0, 1]", "[0, 1, 0]"))
    with pytest.raises(ValueError) as caught:
        load_plan(path)
    assert str(caught.value) == f"{path}: seeds: expected different whole numbers, got [0, 1, 0]."
    with pytest.raises(ValueError, match=r"seeds: expected different whole numbers, got \[2, 2\]\.$"):
        load_plan(written(tmp_path, GOOD), seeds=(2, 2))


def test_absent_and_broken_plans(tmp_path):
    with pytest.raises(ValueError, match=r"There is no file 'demmo'.* Did you mean 'demo'"):
        load_plan("demmo")
    with pytest.raises(ValueError, match="not TOML"):
        load_plan(written(tmp_path, "name = "))


def test_resources_are_numbers_that_a_plan_may_ask_for(tmp_path):
    def read(resources):
        path = tmp_path / "mine.toml"
        path.write_text(f'name = "mine"\nseeds = [0]\nmethods = {{ ce = "digits/ce" }}\n[resources]\n{resources}\n')
        return load_plan(str(path)).resources

    assert read("cpus = 2\nmemory = 1e9") == {"cpus": 2, "memory": 1e9}
    with pytest.raises(ValueError, match=r"resources\.cpu: unknown key\. Did you mean 'cpus'"):
        read("cpu = 2")
    with pytest.raises(ValueError, match=r"resources\.gpus: expected a number >= 0, got -1"):
        read("gpus = -1")

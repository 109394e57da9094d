"""Successive halving: the same budget for every row, the best ones go on, and what a kill left is found again."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from congruence.bench.desk import Desk
from congruence.bench.halving import Halving
from congruence.bench.identity import Identities, differs
from congruence.bench.plan import Plan
from congruence.bench.planfile import load_plan
from congruence.bench.runner import run_plan
from congruence.config import load_config

SMALL = (
    "stages.teacher.student={model='cnn3', options={width=4}}",
    "stages.teacher.train.epochs=1",
    "stages.student.student={model='cnn3', options={width=4}}",
    "stages.student.train.epochs=2",
    "data.train_size=100",
    "data.validation=40",
)
SEARCH = Halving(3, 2, 2, seed=9, ranges={"lr": (1e-3, 1e-1), "temperature": (1.0, 9.0)})
PLAN = Plan("searched", {"ce": "digits/ce", "kd": "digits/kd"}, (0,), SMALL, tune=SEARCH)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("candidates", "rungs", "eta", "course", "wanted"),
    [(9, 2, 3, 40, [(9, 14), (3, 40)]), (8, 3, 2, 16, [(8, 4), (4, 8), (2, 16)]), (5, 1, 3, 7, [(5, 7)])],
)
def test_rungs(candidates, rungs, eta, course, wanted):
    search = Halving(candidates, rungs, eta, seed=0, ranges={"lr": (0.1, 1.0)})
    assert [(search.survivors(rung), search.epochs(course, rung)) for rung in range(rungs)] == wanted
    assert search.budget(course) == sum(count * epochs for count, epochs in wanted)


def test_candidates_are_spread_over_the_ranges():
    search = Halving(16, 2, 4, seed=0, ranges={"lr": (1e-3, 1e-1), "share": (0.1, 10.0)})
    first, *others = search.values(["lr", "share"])
    assert first == {}
    for key, (low, middle, high) in (("lr", (1e-3, 1e-2, 1e-1)), ("share", (0.1, 1.0, 10.0))):
        values = [each[key] for each in others]
        assert min(values) >= low
        assert max(values) <= high
        assert 6 <= sum(value < middle for value in values) <= 9
    quarters = {(each["lr"] < 1e-2, each["share"] < 1.0) for each in others}
    assert len(quarters) == 4
    assert {tuple(each) for each in search.values(["lr"])[1:]} == {("lr",)}


def test_every_row_has_the_same_epochs():
    trials, left = PLAN.trials(), {}
    assert [trial.trial for trial in trials] == [f"{row}-c{number}-r0" for row in ("ce", "kd") for number in range(3)]
    later = PLAN.next_trials(trials, {trial.trial: 1.0 for trial in trials})
    for trial in (*trials, *later):
        left[trial.row] = left.get(trial.row, 0) + trial.epochs
    assert left == {"ce": SEARCH.budget(2), "kd": SEARCH.budget(2)} == {"ce": 7, "kd": 7}
    assert PLAN.trial_count(trials) == len(trials) + len(later)
    assert PLAN.next_trials(later, {}) == []


def test_the_best_go_on_and_the_best_of_the_last_rung_is_used():
    trials = PLAN.trials()
    accuracies = {trial.trial: (trial.candidate + 1) / 10 for trial in trials}
    later = PLAN.next_trials(trials, accuracies)
    assert [(trial.row, trial.candidate, trial.rung, trial.epochs) for trial in later] == [
        (row, candidate, 1, 2) for row in ("ce", "kd") for candidate in (1, 2)
    ]
    rows = {trial.trial: {"accuracy": 0.5} for trial in later}  # equal: the first
    of_ce, of_kd = PLAN.chosen(PLAN.cells(), later, rows)
    assert list(of_ce.found) == ["lr"]  # no term of it has a teacher
    assert of_ce.config.stages["student"].train.optimizer.lr == of_ce.found["lr"]
    assert of_kd.found == SEARCH.values(["lr", "temperature"])[1]
    kd = of_kd.config.stages["student"].terms[1].term()
    assert kd.hyperparameters == {"temperature": of_kd.found["temperature"]}
    assert of_kd.seed == 0
    assert of_kd.epochs == 2


def test_weights_by_factors():
    plan = dataclasses.replace(PLAN, tune=Halving(2, 1, 2, seed=9, ranges={"factor": (0.1, 10.0)}))
    assert {trial.row for trial in plan.trials()} == {"kd"}  # ce has nothing to be searched
    _, trial = plan.trials()
    assert trial.config.stages["student"].terms[1].weight == 0.9 * trial.found["factor"]


def test_shares_of_balanced_weights():
    plan = dataclasses.replace(PLAN, tune=Halving(2, 1, 2, seed=9, ranges={"share": (0.1, 10.0)}), weight="balanced")
    usual, trial = plan.trials()
    terms = [each.config.stages["student"].terms[1].term() for each in (usual, trial)]
    assert [term.weight for term in terms] == ["balanced"] * 2
    assert terms[1].share == trial.found["share"] != terms[0].share
    first, second = (Identities()._made(cell.config, cell.config.stages, "") for cell in (usual, trial))
    assert differs({"made": first}, second) == "configuration"
    wrong = dataclasses.replace(plan, tune=Halving(2, 1, 2, seed=9, ranges={"factor": (0.1, 10.0)}))
    with pytest.raises(ValueError, match=r"A weight that is 'balanced' cannot be multiplied by 0\.172.*its share"):
        wrong.trials()


def test_what_a_method_does_not_have_is_refused():
    wrong = dataclasses.replace(SEARCH, ranges={"temperatur": (1.0, 2.0)})
    with pytest.raises(ValueError, match=r"'kd' has no hyper-parameter `temperatur`.*Did you mean"):
        dataclasses.replace(PLAN, tune=wrong).trials()
    steps = (*SMALL, "stages.student.train.max_steps=3")
    by_steps = {"kd": (*steps, "stages.student.train={max_steps=3}")}
    with pytest.raises(ValueError, match="The row 'kd' cannot be searched by halving: it is trained by steps"):
        dataclasses.replace(PLAN, recipes={"kd": "digits/kd"}, own=by_steps).trials()


def test_a_search_survives_a_kill(tmp_path):
    told, plan = [], dataclasses.replace(PLAN, recipes={"kd": "digits/kd"})
    results = run_plan(plan, tmp_path, workers=0, report=lambda row, done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]  # three trials, two of them longer, and the cell
    trials = lines(tmp_path / "tuning.jsonl")
    assert [(row["candidate"], row["rung"], row["epochs"]) for row in trials[:3]] == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    assert [(row["rung"], row["epochs"]) for row in trials[3:]] == [(1, 2), (1, 2)]
    assert all("accuracy_best" not in row and row["seed"] == 9 for row in trials)  # none is measured on the test split
    best = max(trials[3:], key=lambda row: row["accuracy"])
    (result,), (folder,) = results.rows, results.cells
    assert result.get("found", {}) == best.get("found", {})
    assert result["seed"] == 0
    train = load_config(folder / "config.toml").stages["student"].train
    assert train.optimizer.lr == best.get("found", {}).get("lr", 0.003)
    lost = tmp_path / "trials" / f"kd-c{trials[-1]['candidate']}-r1"
    shutil.rmtree(lost)
    (tmp_path / "tuning.jsonl").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")}
    assert run_plan(plan, tmp_path, workers=0).rows == results.rows
    changed = {path for path in tmp_path.rglob("student.safetensors") if before.get(path) != path.stat().st_mtime_ns}
    assert changed == {lost / "student.safetensors"}
    assert lines(tmp_path / "tuning.jsonl") == trials
    # And in a later checkout, where no cell was kept yet.
    kept = tmp_path / "results" / "searched"
    kept.mkdir(parents=True)
    for file in ("tuning.jsonl", "teachers.jsonl"):
        shutil.copyfile(tmp_path / file, kept / file)
    desk = Desk(dataclasses.replace(plan, results=tmp_path / "results"), tmp_path / "later")
    tried = desk.take(desk.jobs(plan.trials(), trial=True))
    assert list(tried.values()) == trials[:3]
    assert desk.pending(plan.cells(), plan.trials()) == {"kd"}
    shutil.copyfile(results.path, kept / "results.jsonl")
    desk = Desk(dataclasses.replace(plan, results=tmp_path / "results"), tmp_path / "later")
    assert desk.pending(plan.cells(), plan.trials()) == set()


TUNED = """
name = "mine"
seeds = [0]
[methods]
kd = "digits/kd"
[tune]
seed = 9
candidates = 9
rungs = 2
eta = 3
[tune.ranges]
lr = [0.001, 0.01]
"""


def test_a_plan_says_its_search(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(TUNED)
    assert load_plan(str(path)).tune == Halving(9, 2, 3, 9, {"lr": (0.001, 0.01)})


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("candidates = 9", "candidates = 3", "tune.candidates: expected more than eta^(rungs - 1) = 3, so that two"),
        ("eta = 3", "eta = 1", "tune.eta: expected a whole number > 1, got 1."),
        ("rungs = 2\n", "", "tune.rungs: missing."),
        ("seed = 9", "seed = 9\nfactors = [1.0]", "tune.factors: unknown key."),
        ("[0.001, 0.01]", "[0.01, 0.001]", "tune.ranges: expected for each key two rising numbers > 0, got"),
    ],
)
def test_what_is_wrong_with_a_search(tmp_path, old, new, sentence):
    path = tmp_path / "plan.toml"
    path.write_text(TUNED.replace(old, new))
    with pytest.raises(ValueError) as caught:
        load_plan(str(path))
    assert sentence in str(caught.value)

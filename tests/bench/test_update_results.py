"""docs/update_results.py: what it keeps of plans, finished or not, and of teachers; and plans that learn from these."""

from __future__ import annotations

import json
import shutil

import pytest
from _harness.pages import ROOT, script
from _harness.plans import TINY

import congruence as cg
from congruence.bench.planfile import load_plan
from congruence.bench.runner import run_plan
from congruence.bench.teachers import load_kept
from congruence.config import load_config
from congruence.config.tables import ModelConfig

PLAN = TINY.replace("seeds = [0]", "seeds = [0, 1]")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A checkout with a plan's run of which one method is done, the other has one seed."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "plans").mkdir()
    (root / "results").mkdir()
    path = root / "plans" / "tiny.toml"
    path.write_text(PLAN)
    whole = load_plan(str(path))
    run_plan(whole, root / "runs" / "tiny", workers=0)
    rows = lines(root / "runs" / "tiny" / "results.jsonl")
    write(root / "runs" / "tiny" / "results.jsonl", rows[:3])
    shutil.rmtree(root / "runs" / "tiny" / "cells" / "kd-seed1")
    return root


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def update(begun, tmp_path, monkeypatch):
    """The script of a checkout of its own, in which the plan has begun."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    module = script("update_results")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "load_plan", lambda name: load_plan(str(tmp_path / "plans" / f"{name}.toml")))
    return module


def test_an_unfinished_plan_is_kept_and_says_so(update, tmp_path):
    assert update.keep(tmp_path / "runs" / "tiny") == []
    kept = lines(tmp_path / "results" / "tiny" / "results.jsonl")
    assert [(row["method"], row["seed"]) for row in kept] == [("ce", 0), ("ce", 1), ("kd", 0)]
    assert {row["made"]["commit"] for row in kept} == {update.origin("")["commit"]}
    page = update.page("# Results\n")
    assert "**Unfinished: 3 of 4 cells are there.**" in page
    assert "| kd (1 of 2 seeds)" in page
    assert "| ce  " in page
    measured = script("generated").measured
    assert measured(page.replace("3 of 4 cells", "3 of 6 cells")) == measured(page)
    assert measured(page.replace("| ce  ", "| cs  ")) != measured(page)


def test_a_plan_of_a_paper_is_kept_beside_the_others(update, tmp_path):
    for folder, name in (("plans", "tiny.toml"), ("runs", "tiny")):
        (tmp_path / folder / "paper").mkdir()
        (tmp_path / folder / name).rename(tmp_path / folder / "paper" / name)
    assert update.keep(tmp_path / "runs" / "paper" / "tiny") == []
    assert len(lines(tmp_path / "results" / "paper-tiny" / "results.jsonl")) == 3
    page = update.page("# Results\n")
    assert "## paper-tiny" in page
    assert "`congruence bench paper/tiny --out runs/paper/tiny`" in page


def test_the_rest_is_done_in_a_later_checkout_and_added(update, tmp_path):
    update.keep(tmp_path / "runs" / "tiny")
    before = lines(tmp_path / "results" / "tiny" / "results.jsonl")
    shutil.rmtree(tmp_path / "runs")
    plan = load_plan(str(tmp_path / "plans" / "tiny.toml"))
    said = []
    run_plan(plan.only(methods=["kd"]), tmp_path / "runs" / "tiny", workers=0, say=said.append)
    assert said == [f"Taken over from '{tmp_path / 'results' / 'tiny'}': 1 cell."]
    assert len(lines(tmp_path / "runs" / "tiny" / "results.jsonl")) == 2  # of kd alone
    assert update.keep(tmp_path / "runs" / "tiny") == []
    after = lines(tmp_path / "results" / "tiny" / "results.jsonl")
    assert after[:3] == before
    assert [(row["method"], row["seed"]) for row in after] == [("ce", 0), ("ce", 1), ("kd", 0), ("kd", 1)]
    assert "Unfinished" not in update.page("# Results\n")
    assert [row["name"] for row in lines(tmp_path / "results" / "tiny" / "teachers.jsonl")] == ["teacher"]


def test_lines_that_are_not_asked_for_any_more_go(update, tmp_path):
    update.keep(tmp_path / "runs" / "tiny")
    path = tmp_path / "results" / "tiny" / "results.jsonl"
    kept = lines(path)
    write(path, [{**row, "made": {**row["made"], "code": "older"}} for row in kept])
    write(tmp_path / "runs" / "tiny" / "results.jsonl", kept[2:])
    assert update.keep(tmp_path / "runs" / "tiny") == [
        "results/tiny/results.jsonl: 2 kept lines are left out (other code)."
    ]
    assert lines(path) == kept[2:]


def test_a_kept_line_that_is_right_is_not_replaced_by_one_that_is_not(update, tmp_path):
    update.keep(tmp_path / "runs" / "tiny")
    path, run = (tmp_path / folder / "tiny" / "results.jsonl" for folder in ("results", "runs"))
    kept = lines(path)
    write(run, [{**row, "made": {**row["made"], "code": "older"}, "accuracy_best": 0.0} for row in lines(run)])
    update.keep(tmp_path / "runs" / "tiny")
    assert lines(path) == kept


def test_lines_without_a_record_stand_beside_no_others(update, tmp_path):
    update.keep(tmp_path / "runs" / "tiny")
    path = tmp_path / "results" / "tiny" / "results.jsonl"
    kept = [{key: value for key, value in row.items() if key != "made"} for row in lines(path)]
    write(path, kept)
    write(tmp_path / "runs" / "tiny" / "results.jsonl", lines(tmp_path / "runs" / "tiny" / "results.jsonl")[:1])
    with pytest.raises(ValueError, match=r"is unfinished, and results/tiny/ holds 2 lines from before it was recorded"):
        update.keep(tmp_path / "runs" / "tiny")
    assert lines(path) == kept


def test_lines_of_a_run_that_is_not_the_plans_are_left_out(update, tmp_path):
    plan = tmp_path / "plans" / "tiny.toml"
    plan.write_text(PLAN.replace("[methods]", "[overrides]\nce = ['stages.student.train.batch_size=32']\n[methods]"))
    assert update.keep(tmp_path / "runs" / "tiny") == [
        "results/tiny/results.jsonl: 2 lines of the run are left out (other configuration)."
    ]
    assert [row["method"] for row in lines(tmp_path / "results" / "tiny" / "results.jsonl")] == ["kd"]


def test_a_plan_without_results_is_refused(update, tmp_path):
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(ValueError, match="has no results yet"):
        update.keep(tmp_path / "runs" / "tiny")


# Teachers


def test_a_teacher_is_kept_and_taught_from(update, tmp_path):
    update.keep_teacher(tmp_path / "runs" / "tiny", "small")
    folder = tmp_path / "results" / "teachers"
    about = json.loads((folder / "small.json").read_text())
    assert about["model"] == {"model": "cnn3", "options": {"classes": 10, "in_channels": 1, "width": 4}}
    (trained,) = lines(tmp_path / "runs" / "tiny" / "teachers.jsonl")
    assert about["numbers"]["accuracy_best"] == trained["accuracy_best"]
    assert about["weights"] == trained["made"]["weights"]
    assert about["command"] == "congruence teach results/teachers/small.toml --out runs/small"
    config = load_config(folder / "small.toml")
    assert list(config.stages) == ["teacher"]
    assert str(tmp_path) not in "".join(path.read_text() for path in (folder / "small.toml", folder / "small.json"))
    shutil.rmtree(tmp_path / "runs")
    text = PLAN.replace("seeds = [0, 1]", "seeds = [0]\nteacher = 'small'")
    text = text.replace("train_size=100", "train_size=150")
    text = text.replace("set = [", "set = [\n    'stages.student.teacher_cache={views=1, seed=0}',")
    (tmp_path / "plans" / "tiny.toml").write_text(text)
    results = run_plan(load_plan(str(tmp_path / "plans" / "tiny.toml")), tmp_path / "runs" / "tiny", workers=0)
    assert not list(tmp_path.glob("runs/tiny/teachers/*/student.safetensors"))
    (teacher,) = results.teachers.values()
    assert teacher["name"] == "teacher"
    assert teacher["made"]["kept"] == "small"
    assert abs(teacher["accuracy_best"] - trained["accuracy_best"]) < 0.02  # test images of another normalisation
    assert (teacher["accuracy_last"], teacher["seconds"]) == (None, None)
    assert all(row["made"]["teacher"] == about["weights"] for row in results.rows)
    assert all(row["gpcl"] is not None for row in results.rows)
    used = load_config(results.cells[1] / "config.toml")
    assert list(used.stages) == ["student"]
    assert list(used.data.mean) == about["mean"] != list(cg.data.load("digits", train_size=150).train.mean)
    assert list(tmp_path.glob("runs/tiny/teachers/small/teacher-rows/*"))  # once for all cells
    assert len(list(tmp_path.glob("runs/tiny/teachers/small/cache-*/*.npy"))) == 1
    assert not list(tmp_path.glob("runs/tiny/cells/**/teacher-rows"))
    update.keep(tmp_path / "runs" / "tiny")
    page = update.page("# Results\n")
    assert "The teacher is kept: `results/teachers/small.safetensors`, made by `congruence teach" in page


def test_a_cell_of_a_kept_teacher_is_the_same_in_any_checkout(update, tmp_path):
    update.keep_teacher(tmp_path / "runs" / "tiny", "small")
    (tmp_path / "plans" / "tiny.toml").write_text("teacher = 'small'\n" + PLAN)
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    shutil.copytree(tmp_path, moved)
    keys = [
        [(cell.key(), cell.teacher_key()) for cell in load_plan(str(root / "plans" / "tiny.toml")).cells()]
        for root in (tmp_path, moved)
    ]
    assert keys[0] == keys[1]
    other = "teacher = 'small'\nteachers.kd = ''\n" + PLAN
    (tmp_path / "plans" / "tiny.toml").write_text(other)
    cells = load_plan(str(tmp_path / "plans" / "tiny.toml")).cells()
    assert [cell.kept is None for cell in cells] == [False, False, True, True]


def test_a_normalisation_that_is_not_the_teachers_is_refused(update, tmp_path):
    update.keep_teacher(tmp_path / "runs" / "tiny", "small")
    own = PLAN.replace('"data.validation=40"', '"data.mean=[0.0]", "data.std=[1.0]"')
    (tmp_path / "plans" / "tiny.toml").write_text("teacher = 'small'\n" + own)
    with pytest.raises(ValueError, match=r"small\.safetensors' was trained on images .*: prepare them in the same way"):
        run_plan(load_plan(str(tmp_path / "plans" / "tiny.toml")), tmp_path / "runs" / "other", workers=0)


def test_a_row_whose_method_is_its_teacher_is_not_taught_by_another(update, tmp_path):
    update.keep_teacher(tmp_path / "runs" / "tiny", "small")
    (tmp_path / "plans" / "tiny.toml").write_text("teacher = 'small'\n" + PLAN + 'intra_class = "digits/intra_class"\n')
    wanted = r"trained by ce, but 'digits/intra_class' has one of its own, by ce and intra_class .*: name another for"
    with pytest.raises(ValueError, match=wanted):
        load_plan(str(tmp_path / "plans" / "tiny.toml")).cells()


def test_the_first_of_several_stages_is_replaced(update, tmp_path):
    update.keep_teacher(tmp_path / "runs" / "tiny", "small")
    config = load_kept(tmp_path / "results", "small", "mine").teach(load_config("digits/hkd"))
    assert list(config.stages)[-2:] == ["auxiliary", "student"]
    assert "teacher" not in config.stages
    assert isinstance(config.stages["auxiliary"].teacher, ModelConfig)
    assert config.stages["student"].teacher == "auxiliary"


def test_teachers_that_are_not_there(update, tmp_path):
    with pytest.raises(ValueError, match=r"The plan 'mine' learns from the kept teacher 'small', which is in the repo"):
        load_kept(None, "small", "mine")
    update.keep_teacher(tmp_path / "runs" / "tiny", "small")
    with pytest.raises(ValueError, match=r"learns from 'smal', but the teachers in .* are: small\. Did you mean"):
        load_kept(tmp_path / "results", "smal", "mine")
    path = tmp_path / "results" / "teachers" / "small.json"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))
    with pytest.raises(ValueError, match=r"small\.safetensors' is damaged: it does not hold the weights that small"):
        load_kept(tmp_path / "results", "small", "mine")


def test_teachers_that_cannot_be_kept(update, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'a/b'\.$"):
        update.keep_teacher(tmp_path / "runs" / "tiny", "a/b")
    with pytest.raises(ValueError, match="has no single student's weights"):
        update.keep_teacher(tmp_path / "plans", "small")
    monkeypatch.setattr(update, "MOST", 1000)
    with pytest.raises(ValueError, match=r"have 0\.0 MB: at most 0\.001 MB are kept"):
        update.keep_teacher(tmp_path / "runs" / "tiny", "small")
    assert not (tmp_path / "results" / "teachers").exists()


def test_the_scripts_are_of_this_checkout():
    assert script("update_results").RESULTS == ROOT / "results"

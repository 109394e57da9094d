"""Plans: what they hold, and what is wrong with them."""

from __future__ import annotations

import pytest

from congruence.bench.plan import load_plan
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


@pytest.mark.parametrize("name", names("plans"))
def test_every_shipped_plan_is_whole(name):
    plan = load_plan(name)
    assert plan.name == name
    cells = plan.cells()
    assert len(cells) == len(plan.recipes) * len(plan.seeds)
    assert all(cell.teacher for cell in cells)


def test_what_is_wrong_is_said_at_once(tmp_path):
    path = written(tmp_path, 'nam = "x"\nseeds = 3\n[methods]\n')
    with pytest.raises(ValueError) as caught:
        load_plan(path)
    said = str(caught.value)
    assert f"{path}: nam: unknown key. Did you mean 'name'?" in said
    assert f"{path}: seeds: expected a list of whole numbers, got 3." in said
    assert f"{path}: name: missing." in said
    assert f"{path}: methods: expected at least one method." in said


def test_absent_and_broken_plans(tmp_path):
    with pytest.raises(ValueError, match=r"There is no file 'demmo'.* Did you mean 'demo'"):
        load_plan("demmo")
    with pytest.raises(ValueError, match="not TOML"):
        load_plan(written(tmp_path, "name = "))

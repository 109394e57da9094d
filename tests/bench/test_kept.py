"""What results/ keeps of a plan: taken over where all that decides the numbers is the same, and nowhere else."""

from __future__ import annotations

import ast
import inspect
import json
import shutil

import pytest
from _harness.plans import TINY

from congruence.bench import identity
from congruence.bench.cell import _began
from congruence.bench.desk import Desk
from congruence.bench.planfile import load_plan
from congruence.bench.runner import run_plan

PLAN = TINY
FILES = ("results.jsonl", "teachers.jsonl")
# What the plan's kd gives under SGD, by `COURSE`. (Adam's first steps are as long for gradients that are only rounding,
# as those of biases before a batch norm, so that its numbers differ by per cents from processor to processor.)
OF_COURSE = {
    1: {
        "cosine_kernel_transfer_error": pytest.approx(0.00063359, rel=1e-4),
        "sliced_wasserstein": pytest.approx(6.5956e-05, rel=3e-4),
    }
}
SGD = tuple(f"stages.{stage}.train.optimizer={{name='sgd', lr=0.05}}" for stage in ("teacher", "student"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def plan_in(root, text=PLAN, **more):
    (root / "plans").mkdir(exist_ok=True)
    (root / "results" / "tiny").mkdir(parents=True, exist_ok=True)
    (root / "plans" / "tiny.toml").write_text(text)
    return load_plan(str(root / "plans" / "tiny.toml"), **more)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A checkout whose run was kept."""
    root = tmp_path_factory.mktemp("checkout")
    results = run_plan(plan_in(root), root / "runs", workers=0)
    for file in FILES:
        shutil.copyfile(root / "runs" / file, root / "results" / "tiny" / file)
    return root, results


@pytest.fixture
def checkout(first, tmp_path):
    """A later one, of which the repository alone survived."""
    shutil.copytree(first[0] / "plans", tmp_path / "plans")
    shutil.copytree(first[0] / "results", tmp_path / "results")
    return tmp_path


def test_every_line_says_what_decides_it(first):
    root, results = first
    (teacher,) = lines(root / "results" / "tiny" / "teachers.jsonl")
    for row in results.rows:
        assert list(row)[-1] == "made"
        assert set(row["made"]) == {"settings", "code", "data", "teacher", "torch"}
        assert row["made"]["teacher"] == teacher["made"]["weights"]
        assert row["made"]["data"] == teacher["made"]["data"]


def test_all_is_taken_over_and_nothing_trained(first, checkout):
    said = []
    again = run_plan(plan_in(checkout), checkout / "runs", workers=0, say=said.append)
    assert again.rows == first[1].rows
    assert again.teachers == first[1].teachers
    assert not list(checkout.rglob("*.safetensors"))
    assert said == [f"Taken over from '{checkout / 'results' / 'tiny'}': 1 teacher, 2 cells."]
    for file in FILES:
        assert lines(checkout / "runs" / file) == lines(checkout / "results" / "tiny" / file)


def test_the_rest_is_trained_from_the_same_teacher(first, checkout):
    said = []
    more = plan_in(checkout, PLAN.replace("seeds = [0]", "seeds = [0, 1]"))
    again = run_plan(more, checkout / "runs", workers=0, say=said.append)
    assert [row["seed"] for row in again.rows] == [0, 1, 0, 1]
    assert [again.rows[0], again.rows[2]] == list(first[1].rows)
    assert said == [f"Taken over from '{checkout / 'results' / 'tiny'}': 2 cells."]
    assert len(list(checkout.glob("runs/cells/*/student.safetensors"))) == 2
    assert len(list(checkout.glob("runs/teachers/*/student.safetensors"))) == 1  # it is needed again


def test_cells_of_other_teachers_weights_are_trained(checkout):
    """As on another machine, where the same teacher comes out otherwise."""
    folder = checkout / "results" / "tiny"
    rows, teachers = lines(folder / "results.jsonl"), lines(folder / "teachers.jsonl")
    write(folder / "results.jsonl", [{**row, "made": {**row["made"], "teacher": "other"}} for row in rows])
    write(folder / "teachers.jsonl", [{**row, "made": {**row["made"], "weights": "other"}} for row in teachers])
    said = []
    assert Desk(plan_in(checkout), checkout / "runs").pending(plan_in(checkout).cells(), []) == set()
    more = plan_in(checkout, PLAN.replace("seeds = [0]", "seeds = [0, 1]").replace('kd = "digits/kd"\n', ""))
    run_plan(more, checkout / "runs", workers=0, say=said.append)
    assert said == [f"Kept in '{folder}' but not valid for the plan now: 1 × teacher."]
    assert len(list(checkout.glob("runs/cells/*/student.safetensors"))) == 2


def without_record(row):
    return {key: value for key, value in row.items() if key != "made"}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("stages.student.train.epochs=1", "stages.student.train.epochs=2", "configuration"),
        ("data.validation=40", "data.validation=41", "data"),
        ("stages.student.train.epochs=1", "stages.student.labels_per_class=3", "configuration"),
        ("seeds = [0]", "seeds = [0]\noverrides.ce = ['stages.student.terms.0.weight=2.0']", "configuration"),
    ],
)
def test_another_plan_is_trained(checkout, old, new, why):
    text = PLAN.replace(old, new)
    if "overrides" in new:
        text = PLAN.replace("[methods]", "[overrides]\nce = ['stages.student.terms.0.weight=2.0']\n[methods]")
    found = judged(checkout, text)
    assert found["ce"] == why


def judged(checkout, text=PLAN, **more):
    plan = plan_in(checkout, text, **more)
    desk = Desk(plan, checkout / "runs")
    desk.pending(plan.cells(), plan.trials())
    # A teacher that is not there makes what hangs on it unknown: then the words are those of the cells alone.
    jobs = desk.jobs(plan.cells())
    kept = {row["method"]: row for row in lines(checkout / "results" / "tiny" / "results.jsonl")}
    said = {}
    for job in jobs.values():
        made = desk._identities.of_cell(job.cell, kept[job.cell.method].get("made", {}).get("teacher"))
        said[job.cell.method] = identity.differs(kept[job.cell.method], made)
    return said


def test_where_a_teacher_would_be_another_its_cells_are_trained(checkout):
    plan = plan_in(checkout, PLAN.replace("stages.teacher.train.epochs=1", "stages.teacher.train.epochs=2"))
    assert Desk(plan, checkout / "runs").pending(plan.cells(), []) == {"ce", "kd"}


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("pkt", "congruence.geometry.tiles"),  # which it imports from the package, not by its full name
        ("kda", "congruence.geometry.clustering"),
        ("inter_class", "congruence.losses.inter_class"),
        ("rkd", "congruence.geometry.dissimilarity"),
    ],
)
def test_the_hash_of_a_methods_code_has_all_that_it_stands_on(key, module, monkeypatch):
    code_of, source = identity.code_of.__wrapped__, inspect.getsource
    before = code_of(key)
    monkeypatch.setattr(
        inspect, "getsource", lambda of: source(of) + ("\nCHANGED = 1\n" if of.__name__ == module else "")
    )
    assert code_of(key) != before
    assert code_of("ce") == identity.code_of("ce")


def test_other_code_of_a_method_is_trained(checkout, monkeypatch):
    before = identity.code_of
    monkeypatch.setattr(identity, "code_of", lambda key: "other" if key == "kd" else before(key))
    assert judged(checkout) == {"ce": "", "kd": "code"}
    monkeypatch.setattr(identity, "code_of", before)
    monkeypatch.setattr(identity, "COURSE", identity.COURSE + 1)
    assert judged(checkout) == {"ce": "code", "kd": "code"}


def test_another_default_of_a_method_is_trained(checkout, monkeypatch):
    from congruence.methods.rows import Row

    before = Row.defaults
    monkeypatch.setattr(Row, "defaults", lambda row: {**before(row), "temperature": 99.0})
    assert judged(checkout)["kd"] == "configuration"


def test_another_torch_and_lines_of_before_are_trained(checkout, monkeypatch):
    monkeypatch.setattr(identity.torch, "__version__", "0.0")
    assert set(judged(checkout).values()) == {"version of torch"}
    monkeypatch.undo()
    path = checkout / "results" / "tiny" / "results.jsonl"
    write(path, [without_record(row) for row in lines(path)])
    assert set(judged(checkout).values()) == {"no record"}


def test_where_a_run_lies_and_what_watches_it_changes_nothing(checkout):
    apart = ("stages.student.train.device=cpu", "stages.student.train.gradient_norms=false", "name=another")
    assert set(judged(checkout, overrides=apart).values()) == {""}


def test_comments_and_docstrings_are_no_code():
    first = ast.parse('"""A."""\ndef f(x):\n    """B."""\n    return x + 1  # why\n')
    second = ast.parse("def f(x):\n\n    return x + 1\n")
    assert identity._bare(first) == identity._bare(second) == "def f(x):\n    return x + 1"


def test_a_students_own_code_is_not_told(checkout):
    own = ("stages.student.student={factory='mine:make'}",)
    cell = plan_in(checkout, overrides=own).cells()[0]
    assert identity.Identities().of_cell(cell, "teacher") is None


def test_all_can_be_trained_afresh(checkout):
    plan = plan_in(checkout)
    assert Desk(plan, checkout / "runs").pending(plan.cells(), []) == set()
    assert Desk(plan, checkout / "runs", afresh=True).pending(plan.cells(), []) == {"ce", "kd"}


def test_a_metric_of_ones_own_is_measured_by_training(checkout, tmp_path, monkeypatch):
    (tmp_path / "own_metrics.py").write_text("def half(embeddings):\n    return 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    plan = plan_in(checkout)
    desk = Desk(plan, checkout / "runs", metrics=("own_metrics:half",), trust=True)
    assert desk.pending(plan.cells(), []) == {"ce", "kd"}


def test_what_began_under_other_code_and_goes_on_has_no_record(tmp_path):
    made, older = ({"code": code} for code in ("today's", "older"))
    assert _began(tmp_path / "new", made) == made == _began(tmp_path / "new", made)
    assert _began(tmp_path / "new", older) is None
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text("{}")  # from before there were records
    assert _began(tmp_path / "old", made) is None


def test_numbers_of_one_course_stay(tmp_path):
    """Where they do not, and that is meant, a commit raises `COURSE`: kept lines would else be mixed with others.

    Another set of the processor's instructions changes them by a tenth of the tolerance, a learning rate that is 1 %
    larger by three and by ten times the tolerance.
    """
    results = run_plan(plan_in(tmp_path, overrides=SGD).only(methods=["kd"]), tmp_path / "runs", workers=0)
    (row,) = results.rows
    wanted = OF_COURSE[identity.COURSE]
    assert {key: row[key] for key in wanted} == wanted, "raise COURSE in bench/identity.py, with its numbers here"

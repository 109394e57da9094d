"""Pages of runs, of a plan and of a comparison, from what lies in their folders."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from _harness.configs import quick
from _harness.plans import TINY
from _harness.shown import HOSTILE, comparison, models
from typer.testing import CliRunner

from congruence.cli import page as told
from congruence.cli.main import app
from congruence.models.inputs import ImageInput
from congruence.report import report_of, write_comparison
from congruence.report.as_html import installed
from congruence.report.provenance import versions

pytestmark = pytest.mark.skipif(not installed(), reason="needs congruence[report]")
FEW = ["data.train_size=200", "data.validation=20", "data.test=40", *quick(["teacher", "student"])]
FEW += ['stages.teacher.student={model="resnet8"}']


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def data_of(path):
    text = path.read_text(encoding="utf8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]), text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has written its page."""
    out = tmp_path_factory.mktemp("told") / "run"
    sets = [word for value in FEW for word in ("--set", value)]
    result = invoke("distill", "recipes/digits/pkt.toml", "--out", out, "--report", *sets)
    assert result.exit_code == 0, result.stderr
    return out, result


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A plan of two methods that has written its page."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "tiny.toml").write_text(TINY.replace('"data.validation=40"', '"data.validation=40", "data.test=40"'))
    result = invoke("bench", folder / "tiny.toml", "--out", folder / "out", "--workers", 0, "--report")
    assert result.exit_code == 0, result.stderr
    return folder / "out", result


def test_a_run_ends_with_its_page(run):
    out, result = run
    assert result.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    data, text = data_of(out / "report.html")
    (view,) = data["views"]
    assert (view["student"], view["teacher"]) == ("run", "teacher")
    (samples,) = data["samples"]
    assert (samples["count"], samples["of"], samples["part"]) == (40, 40, "test")
    assert samples["classes"] == [str(number) for number in range(10)]
    answers, labels = view["answers"], samples["labels"]
    tested = json.loads((out / "test.json").read_text())
    for side, column in (("student", "best"), ("teacher", "teacher")):
        right = sum(answer == label for answer, label in zip(answers[side], labels, strict=True))
        assert right / 40 == pytest.approx(tested[column]["accuracy"])
    assert sum(view["phi"]) / 40 == pytest.approx(tested["best"]["gpcl"], abs=1e-4)
    assert set(data["curves"]["run"]) == {"losses", "gradient shares", "rate", "validation"}
    assert f"{tested['best']['accuracy']:.4f}" in text
    assert "congruence distill" in text
    assert "labels_per_class = 10" in text


def test_several_runs_lie_over_one_another(run, tmp_path):
    out, _ = run
    again = tmp_path / "again"
    shutil.copytree(out, again)
    path = report_of([out, again], tmp_path / "both.html")
    data, text = data_of(path)
    assert list(data["curves"]) == ["run", "again"]
    assert [view["samples"] for view in data["views"]] == [0, 0]  # the same samples are there once
    assert data["views"][0]["maps"] == data["views"][1]["maps"]
    assert "again, best" in text
    assert [point["name"] for point in data["costs"][0]["points"]][:2] == ["run, best", "again, best"]


def test_what_is_missing_is_a_sentence_and_the_rest_is_there(run, tmp_path):
    out, _ = run
    bare = tmp_path / "bare"
    shutil.copytree(out, bare)
    for file in ("config.toml", "metrics.jsonl"):
        (bare / file).unlink()
    (bare / "test.json").write_text("[")
    data, text = data_of(report_of([bare]))
    assert (data["views"], data["curves"], data["costs"]) == ([], {}, [])
    assert "bare is not shown: The folder" in text
    assert "there are no curves" in text
    assert "test.json" in text


def test_a_plans_page_has_its_best_and_its_baselines_student(plan):
    out, result = plan
    assert f"report: {out / 'report.html'}" in result.stdout.splitlines()
    data, text = data_of(out / "report.html")
    assert list(data["curves"]) == ["ce, seed 0", "kd, seed 0"]
    assert sorted(view["student"] for view in data["views"]) == ["ce, seed 0", "kd, seed 0"]
    measured = ["MB", "10⁶ multiply-adds", "ms, batch of 1", "ms, batch of 64"]
    assert [cost["x"] for cost in data["costs"]] == ["parameters", *measured, "seconds of training"]
    costs = json.loads((out / "costs.json").read_text())
    student = next(cost for name, cost in costs.items() if cost["parameters"] == data["costs"][0]["points"][0]["x"])
    assert data["costs"][2]["points"][0]["x"] == pytest.approx(student["multiply_adds"] / 1e6)
    assert {point["kind"] for point in data["costs"][0]["points"]} == {"student", "teacher"}
    assert "Mean ± standard deviation over the seeds." in text


def test_kept_numbers_without_runs_are_a_page(plan, tmp_path):
    out, _ = plan
    shutil.copy(out / "results.jsonl", tmp_path)
    data, text = data_of(report_of([tmp_path]))
    assert data["views"] == []
    assert "only their numbers" in text
    assert "<td" in text


def test_a_cell_of_a_plan_is_a_run(plan, tmp_path):
    out, _ = plan
    cell = out / "cells" / "kd-seed0"
    data, text = data_of(report_of([cell], tmp_path / "cell.html"))
    row = json.loads((cell / "cell.json").read_text())["result"]
    assert f"{row['accuracy_best']:.4f}" in text
    assert data["views"][0]["student"] == "kd-seed0"


def test_a_comparison_is_drawn_from_its_models_or_told_from_its_file(tmp_path):
    made = models()
    found = comparison(made)
    data, _ = data_of(write_comparison(found, tmp_path / "drawn.html", models=made))
    assert [view["student"] for view in data["views"]] == ["small", HOSTILE]
    (tmp_path / "compare.json").write_text(json.dumps(found))
    data, text = data_of(report_of([tmp_path / "compare.json"]))
    assert (tmp_path / "compare.html").is_file()
    assert data["views"] == []
    assert "no embeddings" in text


def test_compare_leaves_its_page_and_its_numbers(run, plan, tmp_path):
    nets = (run[0], plan[0] / "cells" / "kd-seed0")
    words = ["--teacher", run[0] / "teacher", "--student", f"a={nets[0]}", "--student", f"b={nets[1]}", "--json"]
    sets = [word for value in FEW[:3] for word in ("--set", value)]
    result = invoke("compare", *words, "--data", "digits", *sets, "--no-latency", "--report", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((tmp_path / "compare.json").read_text())
    assert result.stderr.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    data, _ = data_of(tmp_path / "report.html")
    assert [view["student"] for view in data["views"]] == ["a", "b"]
    agreement = json.loads(result.stdout)["students"]["a"]["agreement"]
    both = zip(*data["views"][0]["answers"].values(), strict=True)
    assert sum(one == other for one, other in both) / 40 == pytest.approx(agreement)


@pytest.mark.parametrize("names", [("small",), ("small", "large")])
def test_each_model_reads_its_own_inputs(tmp_path, names):
    made = models(students=names)
    own = dict.fromkeys(names, ImageInput((0.1,), (2.0,)))
    part = made.splits.test.for_models(teacher=ImageInput((0.5,), (0.25,)), **own)
    made = replace(made, splits=made.splits._replace(test=part))
    data, _ = data_of(write_comparison(comparison(made), tmp_path / "page.html", models=made))
    assert [view["student"] for view in data["views"]] == list(names)
    inputs = (made.splits.test.raw(range(80)) / 255 - 0.1) / 2
    expected = made.students["small"](inputs).argmax(1).tolist()
    assert data["views"][0]["answers"]["student"] == expected


def test_of_many_students_four_are_drawn(tmp_path):
    made = models(students=tuple("abcdef"))
    data, text = data_of(write_comparison(comparison(made), tmp_path / "many.html", models=made))
    assert [view["student"] for view in data["views"]] == list("abcd")
    assert "Of 6 students the first 4 are shown here." in text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no folder and no file '{path}': give a run, a plan or a comparison's file."),
        ("{}", "The file '{path}' is not what `congruence compare --json` writes."),
        ("no json", "The file '{path}' is not what `congruence compare --json` writes."),
    ],
)
def test_what_is_no_run_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "compare.json"
    if content is not None:
        path.write_text(content)
    result = invoke("report", path)
    assert (result.exit_code, result.stderr) == (2, sentence.format(path=path) + "\n")


def test_folders_that_do_not_go_together_are_one_sentence(run, plan, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        report_of([tmp_path])
    with pytest.raises(ValueError, match="is not a run's folder"):
        report_of([run[0], plan[0]])
    with pytest.raises(ValueError, match="named twice"):
        report_of([run[0], run[0]])
    with pytest.raises(ValueError, match="got none"):
        report_of([])


def test_a_page_that_fails_is_one_sentence_and_nothing_more(capsys, monkeypatch):
    def fail():
        raise RuntimeError("No space left.\nA second line.")

    told.tell_page(fail)
    assert capsys.readouterr() == ("", "No page was written: RuntimeError: No space left.\n")
    monkeypatch.setattr("congruence.report.as_html._NEEDED", ("plotly_that_is_not_there",))
    told.tell_page(fail)
    assert capsys.readouterr().out.startswith("No page was written. A page needs plotly_that_is_not_there, which is")


def test_the_command_is_told_as_it_is_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/congruence", "report", "my runs/pkt", "--trust"])
    assert told.command() == "congruence report 'my runs/pkt' --trust"


def test_versions_are_those_in_use(monkeypatch, tmp_path):
    import torch

    assert versions()["torch"] == torch.__version__
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "commit" not in versions()

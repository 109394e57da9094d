"""Test numbers by a protocol: at the end of a run, of a finished one, and in a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _harness import layouts
from _harness.configs import quick
from typer.testing import CliRunner

from congruence.bench.identity import Identities
from congruence.cli.main import app
from congruence.config import load_config

FEW = ["data.train_size=200", "data.validation=20", "data.test=40"]
REID = ["rank_1", "rank_5", "rank_10", "reid_map"]
RETRIEVAL = ["retrieval_map_published"]
RETRIEVAL += [f"retrieval_top_{k}{end}" for k in (1, 5) for end in ("", "_published")]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sets(*overrides):
    return [word for override in overrides for word in ("--set", override)]


SMALL = sets(*FEW, *quick(["teacher", "student"]), 'stages.teacher.student={model="resnet8"}')


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("protocol") / "run"
    asked = sets('stages.student.student={model="resnet8"}', "protocol={kind='retrieval', ks=[1, 5]}")
    return out, asked, invoke("distill", "digits/pkt", "--out", out, *SMALL, *asked)


def test_a_run_ends_with_its_protocols_numbers(finished):
    out, asked, result = finished
    assert result.exit_code == 0, result.stderr
    tested = json.loads((out / "test.json").read_text())
    for column in ("best", "last", "teacher"):
        assert list(tested[column])[-len(RETRIEVAL) :] == RETRIEVAL
        assert all(0 <= tested[column][key] <= 1 for key in RETRIEVAL)
    lines = {line.rpartition("  ")[0].split("  ")[0] for line in result.stdout.splitlines()}
    assert {"retrieval mAP, pub.", "retrieval top-1", "retrieval top-5"} <= lines
    again = invoke("distill", "digits/pkt", "--out", out, "--resume", *SMALL, *asked)
    assert again.exit_code == 0, again.stderr


def test_another_protocol_measures_the_finished_run_again(finished):
    out, asked, _ = finished
    more = sets("protocol={kind='classification'}")
    result = invoke("distill", "digits/pkt", "--out", out, "--resume", *SMALL, *asked[:2], *more)
    assert result.exit_code == 0, result.stderr
    tested = json.loads((out / "test.json").read_text())
    assert tested["best"]["top_5_accuracy"] >= tested["best"]["accuracy"]
    assert tested["teacher"]["top_5_accuracy"] >= tested["teacher"]["accuracy"]
    assert set(RETRIEVAL) <= set(tested["best"])


def test_evaluate_has_them_and_takes_another(finished):
    out, _, _ = finished
    found = json.loads(invoke("evaluate", out, "--json").stdout)
    tested = json.loads((out / "test.json").read_text())
    assert {key: found["student"][key] for key in RETRIEVAL} == pytest.approx(
        {key: tested["best"][key] for key in RETRIEVAL}
    )
    other = sets("protocol={kind='identification', sizes=[10]}")
    found = json.loads(invoke("evaluate", out, "--json", *other).stdout)
    assert 0 <= found["student"]["rank_1_at_10"] <= 1
    assert 0 <= found["teacher"]["rank_1_at_10"] <= 1
    wrong = invoke("evaluate", out, *sets("protocol={kind='open-set'}"))
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("The protocol 'open-set' needs test samples of classes that are not trained on")


@pytest.mark.parametrize("kind", ["open-set", "re-identification"])
def test_what_does_not_fit_is_said_before_the_training(tmp_path, kind):
    result = invoke("distill", "digits/pkt", "--out", tmp_path / "run", *SMALL, *sets(f"protocol.kind={kind}"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"The protocol '{kind}' needs ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_people_are_measured_by_cameras(tmp_path: Path):
    layouts.write_msmt17(tmp_path / "data", {0: (4, 1), 1: (4, 2), 9: (4, 1)}, others=(0, 1, 5))
    models = [f'stages.{stage}.student={{model="resnet8"}}' for stage in ("teacher", "student")]
    data = [f'data.root="{tmp_path / "data"}"', "data.size=[16, 8]"]
    arguments = sets(*data, *models, *quick(["teacher", "student"]))
    arguments += sets(*(f"stages.{stage}.train.workers=0" for stage in ("teacher", "student")))
    result = invoke("distill", "msmt17/kd", "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 0, result.stderr
    tested = json.loads((tmp_path / "run" / "test.json").read_text())
    for column in ("best", "last", "teacher"):
        assert list(tested[column])[-4:] == REID
        assert 0 < tested[column]["reid_map"] <= 1
        assert tested[column]["rank_1"] <= tested[column]["rank_5"] <= tested[column]["rank_10"]
    assert tested["best"]["neighbour_overlap"] is not None
    assert {"rank-1", "re-id", "neighbour_overlap", "CKA"} <= {s.split()[0] for s in result.stdout.splitlines()}
    found = json.loads(invoke("evaluate", tmp_path / "run", "--json").stdout)
    assert {key: found["student"][key] for key in REID} == pytest.approx({key: tested["best"][key] for key in REID})
    data = load_config(tmp_path / "run" / "config.toml").data
    known = Identities()._of(data)
    assert known == Identities()._of(data)
    layouts.write_image(next((tmp_path / "data" / "test" / "0001").glob("*_14_*")), size=(30, 20))
    assert known != Identities()._of(data)  # a plan's kept line is of another gallery
    first = json.loads(
        invoke("evaluate", tmp_path / "run", "--json", *sets("protocol={kind='re-identification', ranks=[1]}")).stdout
    )
    assert list(first["student"])[-2:] == ["rank_1", "reid_map"]


def test_a_plan_has_them_as_columns(tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "\n".join(
            [
                '[data]\nname = "digits"',
                '[protocol]\nkind = "retrieval"\nks = [1]',
                '[stages.student]\nstudent = { model = "resnet8" }\nterms = [{ key = "ce" }]',
                '[stages.student.train]\nepochs = 1\nmax_steps = 2\nbatch_size = 8\ndevice = "cpu"',
                'optimizer = { lr = 0.1 }\nschedule = { name = "constant" }',
            ]
        )
    )
    plan = tmp_path / "plan.toml"
    plan.write_text(f'name = "mine"\nseeds = [0]\nset = {json.dumps(FEW)}\n[methods]\nce = "{recipe}"\n')
    result = invoke("bench", plan, "--out", tmp_path / "out", "--workers", 0)
    assert result.exit_code == 0, result.stderr + result.stdout
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])
    assert 0 <= row["retrieval_top_1"] <= 1
    assert 0 < row["retrieval_map_published"] <= 1
    assert "retrieval top-1 (%)" in result.stdout

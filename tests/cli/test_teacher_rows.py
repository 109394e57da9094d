"""The teacher's rows of a run: embedded once by `distill`, found by `evaluate`; one measuring of equal weights."""

import json
import shutil
import sys

import pytest
import torch
from _harness.configs import quick
from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.evaluation import embed
from congruence.evaluation.kept import KeptRows
from congruence.models import load_weights, save_weights
from congruence.training.saving.run_directory import RunDirectory

EMBED = sys.modules[embed.__module__]  # whose name is the function's as well
FEW = ["data.train_size=200", "data.validation=20", "data.test=40", *quick(["teacher", "student"])]
SMALL = [word for override in [*FEW, 'stages.teacher.student={model="resnet8"}'] for word in ("--set", override)]


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("rows") / "run"
    read = Reads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EMBED, "read_all", read)
        invoke("distill", "recipes/digits/pkt.toml", "--out", out, *SMALL)
    return out, read.whole


class Reads:
    """Which models have read how many images, in batches of a dataset."""

    def __init__(self):
        self.whole, self.inner = [], EMBED.read_all

    def __call__(self, readers, loader, stack):
        readers = list(readers)
        if hasattr(loader, "dataset"):
            self.whole += [(reader.taps.name, len(loader.dataset)) for reader in readers]
        return self.inner(readers, loader, stack)


def columns(run, *more):
    return json.loads(invoke("evaluate", run, "--json", *more).stdout)


def test_each_image_is_embedded_once_by_each_model(run):
    images = [200, 40]  # of one epoch the last weights are the best
    assert sorted(run[1]) == sorted((name, count) for name in ("student", "teacher") for count in images)


def test_evaluate_finds_the_teacher_that_distill_embedded(run, monkeypatch):
    read = Reads()
    monkeypatch.setattr(EMBED, "read_all", read)
    found = columns(run[0])
    assert {name for name, _ in read.whole} == {"student"}
    tested = json.loads((run[0] / "test.json").read_text())
    assert found == {"student": tested["best"], "teacher": tested["teacher"]}
    rows = RunDirectory(run[0]).teacher_rows
    shutil.move(rows, rows.with_name("aside"))
    assert columns(run[0]) == found
    assert len(list(rows.iterdir())) == 2


def test_the_exact_distance_is_measured_on_request(run):
    plain, exact = columns(run[0])["student"], columns(run[0], "--exact")["student"]
    assert (plain["sliced_wasserstein"], plain.get("wasserstein")) == (exact["sliced_wasserstein"], None)
    widths = [plain["sliced_wasserstein"] is None, exact["wasserstein"] is None]
    assert widths[0] == widths[1]


def test_another_teacher_finds_nothing_of_the_first(run, tmp_path, monkeypatch):
    out = shutil.copytree(run[0], tmp_path / "run")
    weights = RunDirectory(out / "teacher").student_file()
    save_weights({name: torch.zeros_like(value) for name, value in load_weights(weights).items()}, weights)
    monkeypatch.setattr(KeptRows, "keep", lambda *_: None)
    read = Reads()
    monkeypatch.setattr(EMBED, "read_all", read)
    found = columns(out, "--unchecked")
    assert ("teacher", 40) in read.whole
    assert found["teacher"] != columns(run[0])["teacher"]

"""Runs on data that a factory of the user's own makes."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch
from typer.testing import CliRunner

import congruence as cg
from congruence.bench.identity import Identities
from congruence.cli.main import app
from congruence.config import ConfigError, load_config
from congruence.pipeline.own_data import made_splits

MODULE = "own_tables"
CODE = """
import torch
import congruence as cg
from torch import nn
from torch.utils.data import Dataset, TensorDataset


def rows(count, seed, labelled=True):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    table = torch.randn(count, 5, generator=generator) + 2 * labels[:, None]
    return TensorDataset(table, labels) if labelled else TensorDataset(table)


class Untold(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def table(count=60, labelled=True, untold=False):
    parts = [rows(size, seed, labelled) for seed, size in enumerate((count, 12, 30))]
    return [Untold(part) for part in parts] if untold else parts


def mapping():
    return {"train": rows(30, 0), "val": rows(9, 1)}


def misspelt():
    return {"train": rows(30, 0), "tests": rows(9, 1)}


def alone():
    return rows(30, 0)


def nothing():
    return None, None, None


def broken():
    raise RuntimeError("the disk is gone")


def tensors():
    return torch.ones(3), torch.ones(3), torch.ones(3)


def lacking():
    train, test = rows(30, 0), rows(2, 1)
    return train, None, test


def net(classes, width=8):
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, classes))
"""
RECIPE = """
[data]
factory = "own_tables:table"
options = {{ {options} }}

[stages.teacher]
student = {{ factory = "own_tables:net", options = {{ classes = 3, width = 16 }} }}
terms = [{{ key = "{teacher}" }}]
[stages.teacher.train]
epochs = 1
batch_size = 12
device = "cpu"
optimizer = {{ lr = 0.05 }}
schedule = {{ name = "constant" }}

[stages.student]
teacher = "teacher"
student = {{ factory = "own_tables:net", options = {{ classes = 3 }} }}
terms = [{{ key = "pkt" }}]
[stages.student.train]
epochs = 1
batch_size = 12
device = "cpu"
optimizer = {{ lr = 0.05 }}
schedule = {{ name = "constant" }}
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop(MODULE, None)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def recipe(tmp_path, options="", teacher="ce"):
    path = tmp_path / "own.toml"
    path.write_text(RECIPE.format(options=options, teacher=teacher))
    return path


def test_a_run_on_a_table_and_its_numbers(tmp_path):
    path, out = recipe(tmp_path), tmp_path / "run"
    protocol = ("--set", "protocol={kind='retrieval', ks=[1]}")
    result = invoke("distill", path, "--out", out, "--trust", *protocol)
    assert result.exit_code == 0, result.stderr
    tested = json.loads((out / "test.json").read_text())
    assert tested["best"]["retrieval_top_1"] > 0.5
    assert tested["teacher"]["accuracy"] >= 1 / 3
    assert "linear_cka" not in tested["best"]
    found = invoke("evaluate", out, "--trust", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["student"] == pytest.approx(tested["best"])
    assert "no `fingerprint()`" not in result.stderr
    other = invoke("distill", path, "--out", out, "--trust", "--resume", "--set", "data.options.count=48", *protocol)
    assert other.exit_code == 2
    assert "holds another run" in other.stderr


def test_without_trust_it_is_not_imported(tmp_path):
    result = invoke("distill", recipe(tmp_path), "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "The data factory 'own_tables:table' imports and runs your code: allow it with trust=True, or --trust.\n"
    )


def test_without_labels_the_table_has_what_needs_none(tmp_path, caplog):
    path, out = recipe(tmp_path, "labelled = false, untold = true", "pkt"), tmp_path / "run"
    taught = ("--set", "stages.teacher.teacher={factory='own_tables:net', options={classes=3}}")
    result = invoke("distill", path, "--out", out, "--trust", *taught)
    assert result.exit_code == 0, result.stderr
    tested = json.loads((out / "test.json").read_text())["best"]
    assert tested["accuracy"] is None
    for key in ("gpcl", "neighbour_overlap", "linear_cka"):
        assert 0 <= tested[key] <= 1
    shown = [line.split()[0] for line in result.stdout.splitlines()]
    assert {"coherence", "neighbour_overlap", "CKA"} <= set(shown)
    assert "accuracy" not in shown[shown.index("test") :]
    assert "has no `fingerprint()`" in caplog.text + result.stderr
    assert not list(out.glob("teacher-rows/*"))  # nothing would tell whether they are of these samples
    found = invoke("evaluate", out, "--trust", "--json")
    assert json.loads(found.stdout)["student"] == pytest.approx(tested)


def test_on_the_command_line(tmp_path):
    made = ("--teacher", f"{MODULE}:net", "--student", f"{MODULE}:net", "--data", f"{MODULE}:table")
    few = ("--epochs", 1, "--set", "data.options.count=36", "--set", "stages.student.train.device=cpu")
    result = invoke("distill", *made, *few, "--out", tmp_path / "run", "--trust")
    assert result.exit_code == 0, result.stderr
    assert "accuracy" in result.stdout
    refused = invoke("distill", *made, *few, "--out", tmp_path / "other")
    assert (refused.exit_code, "allow it with trust=True, or --trust" in refused.stderr) == (2, True)


def test_a_plan_knows_what_the_data_holds(tmp_path):
    data = load_config(recipe(tmp_path)).data
    known = Identities(trust=True)
    assert known._of(data) == Identities(trust=True)._of(data)
    assert known._of(data) != known._of(data.model_copy(update={"options": {"count": 30}}))
    assert known._of(data.model_copy(update={"options": {"untold": True}})) is None
    with pytest.raises(ValueError, match="allow it with trust=True"):
        Identities()._of(data)


def test_what_a_factory_may_return(module):
    splits = made_splits(f"{MODULE}:mapping", {}, trust=True)
    assert [len(part) for part in splits] == [30, 9, 0]
    lacking = made_splits(f"{MODULE}:lacking", {}, trust=True)
    assert [part.classes for part in lacking] == [3, 3, 3]
    module.ready = lambda: cg.data.load("digits")
    assert made_splits(f"{MODULE}:ready", {}, trust=True).train.shape == (1, 8, 8)
    module.images = lambda: [module.TensorDataset(torch.ones(4, 3, 8, 8), torch.arange(4) % 2), None, None]
    assert made_splits(f"{MODULE}:images", {}, trust=True).train.classes == 2


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("misspelt", {}, r"must return Splits, three datasets .* got the part 'tests'\. Did you mean 'test'"),
        ("alone", {}, "must return Splits, .* got TensorDataset"),
        ("nothing", {}, "got no training part"),
        ("broken", {}, "failed with RuntimeError: the disk is gone"),
        (
            "table",
            {"size": 3},
            r"cannot be called with the options {'size': 3}: .* belong into the options of its table",
        ),
        ("tables", {}, r"is not there\. Did you mean 'table'"),
        ("tensors", {}, "a tensor as train part: torch.utils.data.TensorDataset"),
    ],
)
def test_a_factory_that_does_not_fit_is_one_sentence(name, options, sentence):
    with pytest.raises(ValueError, match=rf"^The data factory 'own_tables:{name}'.*{sentence}"):
        made_splits(f"{MODULE}:{name}", options, trust=True)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ('data={factory="own_tables"}', "data.factory: expected 'package.module:callable', got 'own_tables'"),
        ('data={factory="own_tables:table", name="digits"}', "data.name: expected none beside `factory`"),
        ('data={factory="own_tables:table", size=8}', "data.size: expected none beside `factory`"),
        ('data={name="digits", options={a=1}}', "data.options: expected none without `factory`"),
        ("data={}", "data.name: expected a value, got nothing"),
    ],
)
def test_what_is_wrong_in_the_table_is_said(written, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config("digits/pkt", [written])

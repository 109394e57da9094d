"""A key that is gone or retyped in a file of a run: the right answer, or one sentence that names the file."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from _harness.attacks import OTHERS, changed, one_sentence, places
from _harness.configs import tiny
from _harness.runs import run

from congruence.cli.train import _balanced
from congruence.core.files import read_json, read_lines
from congruence.evaluation.stored import test_numbers as numbers_of
from congruence.pipeline import load_student
from congruence.pipeline import run as run_config
from congruence.training.saving import outline
from congruence.training.saving.checkpoint import Checkpoints
from congruence.training.saving.run_directory import RunDirectory


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("toys") / "run"
    run("plain", out, epochs=2)
    return out


def keys_of(state, depth=3, path=()):
    for key, value in state.items():
        yield (*path, key)
        if isinstance(value, dict) and depth > 1:
            yield from keys_of(value, depth - 1, (*path, key))


def test_a_checkpoint_without_a_key_or_with_another_kind_makes_way_for_the_one_before(toy, tmp_path, caplog):
    shutil.copytree(toy / "checkpoints", tmp_path / "c")
    kept = Checkpoints(tmp_path / "c")
    newest, older = kept.files()
    state, before = torch.load(newest), kept.read(older)
    paths = list(keys_of(state))
    assert len(paths) > 60
    for number, path in enumerate(paths):
        other = ... if number % 2 else [1] if path[-1] != "ranks" else {}
        torch.save(changed(state, path, other), newest)
        caplog.clear()
        found = kept.load()
        if path == (outline.KEY,) and other is ...:  # as one that was written before there were outlines
            assert found["position"] == state["position"]
            continue
        assert found["position"] == before["position"], path
        [line] = [record.getMessage() for record in caplog.records]
        name = "congruence" if path[0] == "congruence" else str(path[-1])
        assert "'step-000000008.pt' " in line
        assert name in line or path[0] in ("congruence", outline.KEY), (path, line)


@pytest.mark.parametrize("part", ["position", "distiller", "optimizer.0", "generators", "recorder", "history", "best"])
def test_an_older_checkpoint_that_lost_a_part_is_one_sentence(part, toy, tmp_path):
    """It has no outline: what it lacks shows when it is restored."""
    out = tmp_path / "run"
    shutil.copytree(toy, out)
    kept = Checkpoints(out / "checkpoints")
    for path in kept.files():
        state = torch.load(path)
        del state[outline.KEY]
        torch.save({**state, part: [3]} if part in ("position", "best") else changed(state, (part,)), path)
    (out / "summary.json").unlink()
    with one_sentence(f"'{out}'") as told:
        run("plain", out, epochs=2, resume=True)
    assert "is of other models or methods" in told[0]
    assert part in told[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    run_config(tiny("digits/pkt"), out)
    column = {"accuracy": 0.5, "gpcl": None, "parameters": 12}
    (out / "test.json").write_text(json.dumps({"best": column, "last": column, "teacher": column}))
    return out


def readers(out):
    """What is read of the files of a run, by the file's name: each with all that decides what others make of it."""
    folder = RunDirectory(out)

    def identity():
        return [folder.terms(), folder.options(), folder.teachers()]

    def summary():
        found = folder.summary()
        return [found["seconds"], found.get("untaught", {})]

    return {
        "run.json": identity,
        "summary.json": summary,
        "students.json": lambda: str(load_student(out)),
        "test.json": lambda: numbers_of(out / "test.json"),
    }


@pytest.mark.parametrize("file", ["run.json", "summary.json", "students.json", "test.json"])
def test_every_key_of_a_json_file(file, trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    path, read = out / file, readers(out)[file]
    content, right, draws, refused = json.loads(path.read_text()), read(), random.Random(0), 0
    every = list(places(content))
    for place in every if len(every) < 200 else draws.sample(every, 200):
        for other in (..., *draws.sample(OTHERS, 3)):
            path.write_text(json.dumps(changed(content, place, other)))
            with one_sentence(f"{path.name}' is damaged" if file != "students.json" else "") as told:
                read()
            refused += bool(told)
    assert refused > 3
    for text in ("", "{", "[]", "5", "null", '"x"', "[" * 3000, "\0", "9" * 5000):
        path.write_text(text)
        with one_sentence(f"{path.name}' is damaged") as told:
            read()
        assert told
    path.write_text(json.dumps(content))
    assert read() == right


def test_every_key_of_metrics(trained, tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = read_lines(trained / "metrics.jsonl")
    rows[0]["weights"] = {"pkt": 2.0}
    for place in places(rows):
        for other in (..., *OTHERS):
            path.write_text("".join(json.dumps(row) + "\n" for row in changed(rows, place, other)))
            with one_sentence("metrics.jsonl' is damaged: in line ") as told:
                found = _balanced(path)
            if not told:
                assert found == {"pkt": 2.0} or "weights" in place or place == (0,)


def test_a_file_that_is_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(ValueError, match=r"summary\.json' cannot be read: Is a directory"):
        read_json(tmp_path / "summary.json", {})

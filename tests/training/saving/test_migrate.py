"""Files of older versions are read, and what they say is what it was."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from _harness.fits import same_state
from _harness.runs import in_process, killed_run, run

from congruence.training.saving.migrate import FORMAT, migrate_checkpoint, migrate_identity


def as_format_1(state):
    """A checkpoint as format 1 had it: lists where parts now save themselves."""
    position = state.pop("position")
    old = {"congruence": 1, "scheduler": state.pop("scheduler", None), "scaler": state.pop("scaler", {})}
    old["position"] = [position[key] for key in ("epoch", "batch", "step", "seconds")]
    old["optimizers"] = [state.pop(name) for name in sorted(state) if name.startswith("optimizer.")]
    old["generators"] = state.pop("generators")["ranks"]
    old["loader"] = state.pop("loader")["generators"]
    old["history"] = state.pop("history")["epochs"]
    recorder = state["recorder"]
    sums = {name: value for names, of in recorder["sums"].items() for name, value in zip(names, of, strict=True)}
    counts = {name: count for names, count in recorder["counts"].items() for name in names}
    old["recorder"] = {**state.pop("recorder"), "sums": sums, "counts": counts}
    return {**state, **old}


def test_a_run_of_format_1_goes_on_to_the_same_bits(tmp_path):
    expected, made = run("plain", tmp_path / "whole")
    out = tmp_path / "run"
    assert in_process(killed_run, "plain", out, 6, signal.SIGKILL) == -signal.SIGKILL
    for file in (out / "checkpoints").iterdir():
        torch.save(as_format_1(torch.load(file, weights_only=True)), file)
    record = json.loads((out / "run.json").read_text())
    for younger in ("micro_batch", "compile"):  # nor the others that say how fast it is, which were always off
        del record["options"][younger]
    (out / "run.json").write_text(json.dumps(record))
    result, again = run("plain", out, resume=True)
    same_state(made, again)
    assert expected.history == result.history
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_the_present_format_is_left_as_it_is():
    state = {"congruence": FORMAT, "position": {"step": 3}}
    assert migrate_checkpoint(state) == state


@pytest.mark.parametrize("version", [None, 0, FORMAT + 1, "2"])
def test_another_version_is_not_guessed_at(version):
    assert migrate_checkpoint({"congruence": version, "position": [0, 0, 0, 0.0]}) is None


def test_an_identity_keeps_what_it_says():
    identity = {"terms": [], "options": {"epochs": 3, "compile": True}}
    assert migrate_identity(identity)["options"] == {
        "epochs": 3,
        "compile": True,
        "one_standard_error": False,
        "micro_batch": None,
        "channels_last": False,
        "teacher_speed": "exact",
        "sync_batch_norm": False,
        "shard": None,
    }

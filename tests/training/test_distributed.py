"""Two ranks are one: gradients, numbers, files, sentences; and torchrun starts it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _harness.fits import CPU, constant, data, distiller, frozen, normalised, on_a_rank
from _harness.runs import on_ranks

import congruence as cg
from congruence.core.files import read_lines
from congruence.training.distributed import pick_device
from congruence.training.validate import validate

SCRIPT = """
import sys
import torch
import congruence as cg

torch.manual_seed(0)
points = torch.randn(24, 6)
data = torch.utils.data.TensorDataset(points, points[:, :3].argmax(1))
loader = cg.data.loader(data, batch_size=8)
teacher, student = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
distiller = cg.Distiller(teacher, student, ["ce", "kd", cg.Term("pkt", weight=10.0)], example=points[:2])
result = cg.fit(distiller, loader, loader, cg.FitOptions(epochs=2, device="cpu", out=sys.argv[1], log_every=1))
assert torch.distributed.get_world_size() == 2
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two ranks left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(on_a_rank, folder)
    return folder, [torch.load(folder / f"found-{rank}.pt") for rank in (0, 1)]


def alike(first, second, tolerance):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("name", "keys", "accumulate"),
    [("balanced state", ("kd", "pkt", "mimic"), 1), ("balanced accumulated", ("kd",), 3)],
)
def test_two_ranks_balance_as_one(name, keys, accumulate, found):
    _, ranks = found
    made = distiller("ce", *(cg.Term(key, weight="balanced") for key in keys))
    frozen(made)
    cg.fit(made, cg.data.loader(data(), batch_size=8), options=constant(accumulate=accumulate))
    for of_rank in ranks:
        alike(of_rank[name], made.state_dict(), 1e-5)
    assert ranks[0][name].keys() == ranks[1][name].keys()
    for key, value in ranks[0][name].items():
        assert torch.equal(value, ranks[1][name][key]), key


@pytest.mark.parametrize(("name", "terms"), [("classes", ("ce", "kd", "pkt")), ("relations", ("pkt", "mimic"))])
def test_two_ranks_are_one(name, terms, found, tmp_path):
    folder, (first, second) = found
    loader = cg.data.loader(data(), batch_size=8)
    made, val = distiller(*terms), cg.data.loader(data(23, seed=1), batch_size=10, shuffle=False)
    assert first[name] == second[name]
    assert first[name] == pytest.approx(validate(made, val, CPU), rel=1e-9)
    frozen(made)
    result = cg.fit(made, loader, val, constant(out=tmp_path / "run", log_every=2))
    alike(first[f"{name} state"], second[f"{name} state"], 0)
    alike(made.state_dict(), first[f"{name} state"], 1e-5)
    assert first[f"{name} history"] == second[f"{name} history"]
    for mine, theirs in zip(result.history, first[f"{name} history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    rows = [read_lines(path / "metrics.jsonl") for path in (tmp_path / "run", folder / name)]
    assert len(rows[0]) == len(rows[1])
    for mine, theirs in zip(*rows, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert value == pytest.approx(theirs[key], rel=1e-3), key


def test_a_step_that_overflows_is_skipped_by_all_ranks(found):
    folder, (first, second) = found
    alike(first["half state"], second["half state"], 0)
    skipped = [row["skipped"] for row in read_lines(folder / "half" / "metrics.jsonl") if "skipped" in row]
    assert 0 < sum(skipped) < len(skipped)


def test_one_sentence_on_all_ranks(found):
    _, both = found
    for one in both:
        assert one["error"].startswith("ValueError: The folder")
        assert "holds another run" in one["error"]
        assert one["loss"].startswith("NonFiniteLossError: At step 3 the loss of 'Breaks' was not finite")
        assert one["gradient"].startswith("NonFiniteLossError: At step 3 the gradient was not finite")
    for how in ("loss", "gradient"):
        assert torch.equal(both[0][f"{how} weight"], both[1][f"{how} weight"])
        assert torch.isfinite(both[0][f"{how} weight"]).all()


def test_distributed_samplers_hear_of_the_epochs(found):
    _, (first, second) = found
    assert first["epochs"] == sorted(first["epochs"])
    assert set(first["epochs"]) >= {0, 1, 2}
    assert second["epochs"] == []  # callbacks are the first rank's
    parameters = {k: v for k, v in first["sampled state"].items() if "running" not in k}
    alike(parameters, {k: second["sampled state"][k] for k in parameters}, 0)


def test_one_s_own_evaluation_is_the_first_rank_s(found):
    _, both = found
    assert both[0]["evaluated"] == both[1]["evaluated"] == {"mine": 0.0}


def test_torchrun(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not re.search("destroy_process_group|Warning", done.stderr), done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 6
    assert [row["step"] for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert Path(tmp_path / "run" / "student.safetensors").exists()


def test_synchronised_batch_norms_make_two_ranks_one(found):
    """The weights and running statistics of a run, and each gradient in float64, where ranks have half batches."""
    _, ranks = found
    made = distiller("ce", "kd", cg.Term("pkt", weight=0.01))
    cg.fit(made, cg.data.loader(data(), batch_size=8), options=constant(sync_batch_norm=True))
    whole = normalised(slice(0, 8))
    inputs = whole.pop("x")
    for number, of_rank in enumerate(ranks):
        for name in ("synchronised", "synchronised sharded"):
            alike(of_rank[name], made.state_dict(), 1e-5)
        own = of_rank["normalised"].pop("x") / 2  # of the mean over its half; DDP takes that over the ranks
        torch.testing.assert_close(own, inputs[4 * number : 4 * number + 4], rtol=1e-9, atol=1e-12)
        alike(of_rank["normalised"], whole, 1e-9)


def test_what_does_not_go_with_synchronised_batch_norms():
    for other in ({"micro_batch": 2}, {"compile": True}):
        with pytest.raises(ValueError, match=r"`sync_batch_norm` must be False with `(micro_batch|compile)`, got True"):
            constant(sync_batch_norm=True, **other)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="`device` must be an available device, got 'abc'"):
        pick_device("abc")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="`device` must be an available device, got 'cuda'"):
            pick_device("cuda")

"""`benchmarks/gpu_tables.py` on a CPU: its images, its rows, and a rehearsal where pydantic and POT are missing."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from _harness.cases import OWN_KEYS
from _harness.pages import ROOT
from _harness.reads import LOOKING

from congruence.bench.planfile import load_plan

FOLDER = ROOT / "benchmarks"
BLOCKED = """
import runpy, sys
for name in ("pydantic", "ot", "sklearn", "PIL", "safetensors", "filelock", "typer", "rich"):
    sys.modules[name] = None  # as where it is not installed
sys.argv = sys.argv[1:]
sys.path.insert(0, "benchmarks")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_tables

    yield gpu_tables
    for name in ("gpu_tables", "gpu_course", "gpu_images", "record"):
        sys.modules.pop(name, None)


def test_packed_images_come_back(tables, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 6), dtype=np.uint8)
    images[0], images[1] = 255, 0
    gpu = tables.gpu_images
    assert (gpu.unpack(gpu.pack(images), images.shape) == images).all()
    parts = {"train": (images, np.arange(7)), "test": (images[:2], np.array([9, 8]))}
    paths = gpu.write(tmp_path, parts, per_file=4)
    assert len(paths) == 3
    found = gpu.read(tmp_path)
    assert (found["train"][0] == images).all()
    assert found["train"][1].tolist() == list(range(7))
    assert found["test"][1].tolist() == [9, 8]
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"lacks part-1\.npz: 2 of 3 parts are there"):
        gpu.read(tmp_path)


def test_batches_are_cut_mirrored_and_normalised(tables):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    moments = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    images = tables.gpu_images.Images(pixels, np.arange(3), moments, torch.device("cpu"))
    rows, shift = torch.tensor([2, 0]), torch.tensor([[4, 4, 1], [0, 7, 0]])
    normal = (torch.from_numpy(pixels) / 255 - moments[0].view(1, 3, 1, 1)) / moments[1].view(1, 3, 1, 1)
    torch.testing.assert_close(images.batch(rows), normal[rows])
    border = torch.nn.functional.pad(torch.from_numpy(pixels), (4,) * 4)
    cut = (border[0, :, 0:8, 7:15] / 255 - moments[0].view(3, 1, 1)) / moments[1].view(3, 1, 1)
    found = images.batch(rows, shift)
    torch.testing.assert_close(found[0], normal[2].flip(2))
    torch.testing.assert_close(found[1], cut)


def test_its_rows_are_those_of_the_plans(tables):
    plan = load_plan("paper/kd2m-1").only("cifar10")
    wanted = {cell.method: cell.config.stages["student"] for cell in plan.cells()}
    found = {method: values["stages"]["student"] for method, _, values in tables.cells("kd2m-1")}
    assert set(found) == set(wanted)
    for method, stage in found.items():
        assert [term["key"] for term in stage["terms"]] == [term.key for term in wanted[method].terms]
        assert stage["student"]["model"] == wanted[method].student.model
        assert stage["train"]["epochs"] == wanted[method].train.epochs


def test_no_step_that_looks_at_values_becomes_a_graph(tables):
    assert set(LOOKING) & set(OWN_KEYS) <= sys.modules["gpu_course"].LOOKING


def test_assignment_finds_what_the_simplex_finds(tables, monkeypatch):
    import ot

    cost = np.random.default_rng(1).random((9, 9))
    weights = np.full(9, 1 / 9)
    best = float((ot.emd(weights, weights, cost) * cost).sum())
    monkeypatch.setitem(sys.modules, "ot", None)
    tables.exact_transport()
    plan, _ = sys.modules["ot"].emd(weights, weights, cost)
    assert float((plan * cost).sum()) == pytest.approx(best)
    assert plan.sum(0) == pytest.approx(weights)


@pytest.mark.slow
def test_a_rehearsal_needs_neither_pydantic_nor_pot_and_goes_on(tables, tmp_path, capsys):
    def call(table, *more):
        command = [sys.executable, "-c", BLOCKED, "benchmarks/gpu_tables.py", "run", table, "--rehearse"]
        words = ["--out", str(tmp_path), "--seeds", "0", "1", *more]
        ended = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
        assert ended.returncode == 0, ended.stderr
        lines = (tmp_path / f"{table}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], ended.stdout

    rows, _ = call("kd2m-1", "--rows", "joint_wasserstein")
    assert [(row["method"], row["variant"], row["seed"]) for row in rows] == [
        ("joint_wasserstein", "cifar10", 0),
        ("joint_wasserstein", "cifar10", 1),
    ]
    assert all(0 <= row["accuracy_best"] <= 1 and 0 < row["gpcl"] <= 1 for row in rows)
    rows, told = call("perception-coherence-1", "--rows", "pkt_h", "hkd")
    assert [row["method"] for row in rows] == ["pkt_h", "pkt_h", "hkd", "hkd"]
    assert all(0 < row["retrieval_top_100_published"] <= 1 and row["accuracy_best"] is None for row in rows)
    assert "auxiliary" in told
    # Nothing is trained again, in this process either.
    more = {"table": "perception-coherence-1", "rows": ["pkt_h", "hkd"], "data": None, "out": tmp_path, "minutes": 1.0}
    tables.run_table(argparse.Namespace(**more, seeds=[0, 1], rehearse=True))
    assert len((tmp_path / "perception-coherence-1.jsonl").read_text().splitlines()) == 4
    assert "paper:" not in capsys.readouterr().out

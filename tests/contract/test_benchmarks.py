"""The committed figures are whole and say where they come from; nothing is timed here."""

from __future__ import annotations

import ast
import json
import math
import os
import runpy
import subprocess
import sys

import pytest
from _harness.pages import ROOT

from congruence.methods import keys

ANGLE = {"time at B=128": 0.3333, "memory at B=128": 0.25, "memory at B=1024": 1.0}
SOFT_RANK = {
    **{f"auto, B=64, temperature {tau}": 1.05 for tau in (0.1, 0.3)},
    **{f"fast, B=256, temperature {tau}": 0.05 for tau in (0.1, 0.3)},
    **{f"fast, B=512, temperature {tau}": 0.0167 for tau in (0.1, 0.3)},
    **{f"memory at B=4096, {name}": 2e9 for name in ("cosine", "euclidean")},
}
# A figure with no bar (None) is there to be read beside one that has it.
CRD = {
    "scores, shared negatives": 0.2,
    **dict.fromkeys(["scores, own negatives", "step, shared negatives", "step, own negatives"]),
}
METRICS = {
    "kernel_transfer_error over plain": 0.1,
    "linear_cka over plain": 0.1,
    "mmd_discrepancy of the polynomial kernel over plain": 0.1,
    "retrieval_map over plain": 0.25,
    "neighbour_overlap over plain": 0.75,
    "intra_class_similarity over plain": 0.25,
    "inter_class_similarity over plain": 0.25,
    "kernel_transfer_error, N=10000": 64.0,
    "linear_cka, N=10000": 64.0,
    "retrieval_map, N=10000": 128.0,
    "neighbour_overlap, N=10000": 128.0,
    "inter_class_similarity, N=10000": 128.0,
    "kernel_transfer_error, N=50000": 64.0,
    "linear_cka, N=50000": 64.0,
    "retrieval_map of 2000 queries, N=50000": 256.0,
    "knn_accuracy of 2000 queries, N=50000": 256.0,
    "inter_class_similarity, N=50000": 256.0,
    "kernel_transfer_error, N=1000000": 64.0,
    "linear_cka, N=1000000": 64.0,
    "estimate of neighbour_overlap, N=1000000": 128.0,
    "estimate of global_perception_coherence, N=1000000": 128.0,
}
BARS = {
    "cached_epoch": 1.1,
    "channels_last": None,
    "compiled_step": None,
    "gpcl": 0.1,
    "step_overhead": 1.03,
    "import_time": 1.3,
    "rkd_angle": ANGLE,
    "method_cost": None,
    "one_epoch": 100.0,
    "softrank": SOFT_RANK,
    "crd": CRD,
    "transport": None,
    "metrics": METRICS,
}
ON_A_GPU = {"gpu": None}  # there once one was lent
FOLDER = ROOT / "benchmarks" / "results"
RESULTS = sorted(path for name in BARS | ON_A_GPU for path in FOLDER.glob(f"{name}*.json"))


def test_the_figures_are_there():
    assert {f"{name}.json" for name in BARS} <= {path.name for path in RESULTS}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_is_whole(path):
    result = json.loads(path.read_text(encoding="utf8"))
    name = result["benchmark"]
    assert path.stem in (name, f"{name}_{result['machine']['device']}")
    assert {"definition", "date", "commit", "machine", "versions", "figures"} <= set(result)
    assert {"cpu", "cores", "threads", "device", "system"} <= set(result["machine"])
    assert {"python", "torch", "congruence"} <= set(result["versions"])
    assert result["commit"]
    assert (ROOT / "benchmarks" / f"{name}.py").is_file()
    names = [figure["name"] for figure in result["figures"]]
    assert names
    assert len(set(names)) == len(names)
    for figure in result["figures"]:
        assert math.isfinite(figure["value"])
        assert figure["value"] > 0
        bars = (BARS | ON_A_GPU)[name]
        bar = bars[figure["name"]] if isinstance(bars, dict) else bars
        if bar is None:
            assert not {"bar", "within"} & set(figure)
            continue
        assert figure["bar"] == bar
        assert figure["within"] == (figure["value"] <= figure["bar"])


def test_every_row_trained_an_epoch_without_a_warning():
    result = json.loads((FOLDER / "one_epoch.json").read_text(encoding="utf8"))
    trained = {tuple(figure["name"].split(", ")) for figure in result["figures"]}
    assert trained == {(key, variant) for key in keys() for variant in ("resnet8", "cnn3")}
    assert result["warnings"] == {}


def test_the_page_is_as_the_figures_are():
    update = runpy.run_path(str(ROOT / "docs" / "update_benchmarks.py"), run_name="update_benchmarks")
    assert update["PAGE"].read_text(encoding="utf8") == update["page"](), "run `python docs/update_benchmarks.py`"


def test_what_is_over_its_bar_is_marked():
    update = runpy.run_path(str(ROOT / "docs" / "update_benchmarks.py"), run_name="update_benchmarks")
    figures = [
        {"name": "a", "value": 2.0, "bar": 1.0, "within": False, "seconds": 12345.6},
        {"name": "b", "value": 0.5, "bar": 1.0, "within": True},
    ]
    assert update["table"](figures) == [
        "| figure | value | bar | seconds |",
        "|---|---:|---:|---:|",
        "| a | 2 (over) | 1 | 12,346 |",
        "| b | 0.5 | 1 | – |",
    ]
    assert update["table"]([{"name": "c", "value": 1.25}]) == ["| figure | value |", "|---|---:|", "| c | 1.25 |"]


@pytest.mark.slow
def test_the_call_for_a_gpu_is_rehearsed():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--quick"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    for words in ("soft rank, fast / formula", "RKD angle", "channels last / not, bfloat16", "cached / ce"):
        assert words in done.stdout


def test_every_bar_of_the_metrics_has_its_figure():
    result = json.loads((FOLDER / "metrics.json").read_text(encoding="utf8"))
    assert {figure["name"] for figure in result["figures"]} == set(METRICS), "measure again: make bench"


def test_every_method_without_maps_has_its_figure():
    from congruence.methods import keys, row

    result = json.loads((FOLDER / "step_overhead.json").read_text(encoding="utf8"))
    measured = {figure["name"] for figure in result["figures"]}
    known = {key for key in keys() if "maps" not in row(key).needs.roles}
    assert measured == known, "measure again: make bench"


def test_every_method_has_its_cost():
    from congruence.methods import keys

    figures = json.loads((FOLDER / "method_cost.json").read_text(encoding="utf8"))["figures"]
    assert [figure["name"] for figure in figures] == list(keys()), "measure again: make bench"
    for figure in figures:
        assert set(figure) == {"name", "value", "milliseconds", "extra_megabytes", "state_megabytes"}
        assert figure["milliseconds"] > 0
        assert figure["state_megabytes"] >= 0
        assert math.isfinite(figure["extra_megabytes"])
    of_ce = next(figure for figure in figures if figure["name"] == "ce")
    # Beside itself it differs by what the machine and the profiler's buffers make.
    assert of_ce["value"] == pytest.approx(1, abs=0.2)
    assert of_ce["extra_megabytes"] == pytest.approx(0, abs=1)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_measures(path):
    tree = ast.parse(path.read_text(encoding="utf8"))
    assert ast.get_docstring(tree)
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))

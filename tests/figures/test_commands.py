"""What is measured is what the commands would measure: bars, rows and plans are those of now. `make figures` runs it.

Nothing is timed here, and a row without figures is no error: `python docs/rows_without_figures.py` names it.
"""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from _harness.pages import ROOT, script

from congruence.bench.planfile import load_plan

FOLDER = ROOT / "benchmarks" / "results"
BENCHMARKS = sorted(path for path in FOLDER.glob("*.json") if path.stem != "demo")
EPOCHS = {
    f"{student}: {kind}": bar
    for student, cached in (("resnet8", 1.08), ("cnn3", 1.15))
    for kind, bar in (
        ("live, kd", 1.02),
        *((f"cached, {method}", cached) for method in ("kd", "pkt", "cckd", "perception_coherence")),
    )
}
ANGLE = {
    "time at B=128": 0.3333,
    "memory at B=128": 0.25,
    "memory at B=1024": 1.0,
    "time of distance and angle at B=64, D=128": None,
}
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
    "balanced_weights": 1.02,
    "evaluate": None,
    "compare": {"time over forward passes": 2.0, "peak memory, megabytes": None},
    "tokens": None,
    "dense": None,
    "cached_epoch": EPOCHS,
    "memory_order": None,
    "compiled_step": None,
    "gpcl": 0.1,
    "rankings": {
        "argsort / GPCL, N=10000, 1 thread": None,  # what these are to reach is `least`
        "argsort / GPCL, N=10000, 2 threads": None,
        "seconds of GPCL, N=50000, 2 threads": 25.0,
        "seconds of mAP, N=50000, 2 threads": 10.0,
    },
    "step_overhead": 1.03,
    "import_time": 1.3,
    "rkd_angle": ANGLE,
    "method_cost": None,
    "one_epoch": 100.0,
    "best_epoch": None,
    "first_tries": None,
    "photographs": None,
    "plan_overhead": 0.15,
    "shares": None,
    "peers": None,  # what they are to reach is `least`
    "softrank": SOFT_RANK,
    "crd": CRD,
    "transport": defaultdict(
        lambda: None,
        {
            f"{row}, B=1024, 100 classes, over the forwards": 1.0
            for row in (
                "class_wasserstein",
                "class_gaussian_wasserstein, full",
                "class_gaussian_wasserstein",
                "joint_wasserstein",
            )
        },
    ),
    "wkd": 0.2,
    "course": None,
    "other_classes": None,
    "first_texts": None,
    "image_files": None,
    "large_folder": None,
    "validation": None,
    "large_batches": {
        f"{row}, {size}, {form}": 2.15 if size == "16,384" else None
        for row in ("pkt", "cckd", "rkd-distance", "perception-coherence")
        for size, form in (("4,096", "plain"), ("4,096", "blocks"), ("16,384", "blocks"), ("16,384", "step"))
    },
    "scaling": {
        f"{row}: {what}": 4 if what.startswith("collectives") else None
        for row in ("ce", "pkt", "crd")
        for what in ("efficiency of 2 ranks", "collectives a step beside DDP's", "bytes a step beside DDP's")
    },
    "metrics": METRICS,
    "gpu": None,
}
PLANS = sorted(path.parent.name for path in (ROOT / "results").glob("*/results.jsonl"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_bars_are_those_of_now(path):
    result = json.loads(path.read_text(encoding="utf8"))
    bars = BARS[result["benchmark"]]
    for figure in result["figures"]:
        assert figure.get("bar") == (bars[figure["name"]] if isinstance(bars, dict) else bars), figure["name"]


def test_every_bar_of_the_metrics_has_its_figure():
    result = json.loads((FOLDER / "metrics.json").read_text(encoding="utf8"))
    assert {figure["name"] for figure in result["figures"]} == set(METRICS), "measure again: make bench"


def test_rows_trained_an_epoch_without_a_warning():
    assert json.loads((FOLDER / "one_epoch.json").read_text(encoding="utf8"))["warnings"] == {}


def test_costs_are_beside_cross_entropy():
    figures = json.loads((FOLDER / "method_cost.json").read_text(encoding="utf8"))["figures"]
    for figure in figures:
        assert set(figure) == {"name", "value", "milliseconds", "extra_megabytes", "state_megabytes"}
        assert figure["milliseconds"] > 0
        assert figure["state_megabytes"] >= 0
    of_ce = next(figure for figure in figures if figure["name"] == "ce")
    # Beside itself it differs by what the machine and the profiler's buffers make.
    assert of_ce["value"] == pytest.approx(1, abs=0.2)
    assert of_ce["extra_megabytes"] == pytest.approx(0, abs=1)


@pytest.mark.parametrize("name", PLANS)
def test_every_cell_is_one_of_its_plan(name):
    """A plan that was changed after its run would be shown with another plan's numbers."""
    results = (ROOT / "results" / name / "results.jsonl").read_text(encoding="utf8")
    rows = [json.loads(line) for line in results.splitlines()]
    plan = load_plan(name)
    cells = {(method, *cell) for method in plan.recipes for cell in _variants(plan)}
    found = {(row["method"], row["variant"], row["seed"]) for row in rows}
    assert found <= cells
    begun = {cell[:2] for cell in found}  # the plan's other methods and variants have no results yet
    if found < {cell for cell in cells if cell[:2] in begun}:
        assert f"**Unfinished: {len(found)} of " in (ROOT / "docs" / "results.md").read_text(encoding="utf8")


def _variants(plan):
    return [(variant, seed) for variant in plan.variants for seed in plan.seeds_in(variant)]


def test_the_demo_has_a_teacher_worth_learning_from():
    table = script("update_readme").demo().splitlines()
    columns = [[column.strip() for column in line.split("|")] for line in table[2:]]
    means = {name: float(accuracy.split("±")[0]) for _, name, accuracy, *_ in columns if accuracy != "–"}
    assert means["teacher"] >= means["ce"] + 3

"""The benchmarks run, and their page is written right; what they measured is checked by `make figures`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
from _harness.pages import ROOT, script


def test_what_is_over_its_bar_is_marked():
    update = script("update_benchmarks")
    figures = [
        {"name": "a", "value": 2.0, "bar": 1.0, "within": False, "seconds": 12345.6},
        {"name": "b", "value": 0.5, "bar": 1.0, "within": True},
    ]
    assert update.table(figures, []) == [
        "| figure | value | bar | seconds |",
        "|---|---:|---:|---:|",
        "| a | 2 (over) | 1 | 12,346 |",
        "| b | 0.5 | 1 | – |",
    ]


def test_what_does_not_reach_its_least_is_marked():
    figures = [
        {"name": "a", "value": 1.5, "least": 1.6, "reached": False, "ours": 3.0},
        {"name": "b", "value": 1.7, "least": 1.6, "reached": True},
    ]
    assert script("update_benchmarks").table(figures, [])[0::2] == [
        "| figure | value | least | ours |",
        "| a | 1.5 (under) | 1.6 | 3 |",
    ]


def test_what_is_not_measured_is_a_dash():
    update = script("update_benchmarks")
    line, rule, *figures = update.table([{"name": "c", "value": 1.25}], ["d"])
    assert [line, rule] == ["| figure | value |", "|---|---:|"]
    assert figures == ["| c | 1.25 |", "| d | – |"]
    keys = update.OF_ROWS["method_cost"]
    assert update.missing("method_cost", [{"name": key} for key in keys[1:]]) == [keys[0]]
    assert update.missing("crd", []) == []


def test_results_that_are_missing_are_dashes():
    generated = script("generated")
    numbers = dict.fromkeys(("accuracy_best", "accuracy_last", "retrieval_map", "gpcl"), 0.5)
    table = generated.results([{"method": "ce", "parameters": 9, **numbers}], [], ["mine"], more=False)
    assert [column.strip() for column in table.splitlines()[-1].split("|")] == ["", "mine", *"–––––", ""]
    page = "| a | – | 1 |\n|-----|--:|\n| ce   |  50.0 |\n"
    assert generated.measured(page + "| mine | – |\n") == generated.measured(page)
    assert generated.measured(page + "| mine | 1 |\n") != generated.measured(page)


def test_every_benchmark_finds_what_it_imports():
    """None is run here: a name that the house has changed would show months later, in `make bench`."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    code = "import importlib\nfor name in " + repr(names) + ":\n    importlib.import_module(name)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


# A test of code, though it is slow: a GPU is lent for minutes, in which its script must not turn out to be broken.
@pytest.mark.slow
def test_the_call_for_a_gpu_is_rehearsed():
    """With nothing but torch and NumPy: the machine that is lent has neither pydantic nor POT."""
    folder = str(ROOT / "benchmarks")
    code = (
        "import runpy, sys\nsys.modules.update(pydantic=None, ot=None)\n"
        f"sys.path.insert(0, {folder!r})\nsys.argv = ['gpu.py', '--device', 'cpu', '--quick']\n"
        f"runpy.run_path({folder!r} + '/gpu.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    for words in (
        "soft rank, fast / formula",
        "RKD angle",
        "GPCL / argsort",
        "class_wasserstein_loss / the forwards",
        "images as bytes on the device",
        "AdamW of resnet8, fused",
        "ours / peers' form",
        "channels last / not, bfloat16",
        "cached / ce",
    ):
        assert words in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_measures(path):
    tree = ast.parse(path.read_text(encoding="utf8"))
    assert ast.get_docstring(tree)
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))

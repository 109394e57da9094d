"""Our tests speak of our own rows: a package that somebody installed turns none of them red."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _harness.pages import ROOT

import congruence as cg

KEY = "plugged_in"
MODULE = f'''
from dataclasses import replace

from torch import nn

from congruence.data import SOURCES
from congruence.evaluation import Number
from congruence.methods import Row


def loss(student, teacher):
    """L = mean |f_S − f_T|."""
    return (student - teacher).abs().mean()


class Loss(nn.Module):
    def forward(self, student, teacher):
        return loss(student, teacher)


METHOD = Row("{KEY}", "Nothing that a test of ours expects.", "none", Loss, loss)
DATASET = replace(SOURCES["digits"], name="{KEY}")
METRIC = Number("{KEY}", lambda of: 0.5)
'''
# What the package adds: a line for each group of entry points, its object in MODULE.
ENTRY_POINTS = {
    "congruence.methods": f"{KEY} = plug_in:METHOD",
    "congruence.datasets": f"{KEY} = plug_in:DATASET",
    "congruence.metrics": f"{KEY} = plug_in:METRIC",
}
# What looks at the catalogue, and of what is run for each row the quickest.
CHECKED = [
    "contract/test_api.py",
    "contract/test_benchmarks.py",
    "contract/test_catalogue.py",
    "contract/test_docs.py",
    "contract/test_floors.py::test_a_method_is_its_key",
    "contract/test_floors.py::test_neither_distiller_nor_loop_names_a_method",
    "contract/test_readme.py",
    "figures/test_format.py",
    "bench/test_methods_plan.py",
    "cli/test_data.py",
    "cli/test_methods.py",
    "cli/test_distill.py::test_a_recipe_ends_with_numbers_and_a_student",
    "config/test_load.py",
    "config/test_schema.py",
    "data/sources/test_catalogue.py",
    "data/sources/test_fetch.py::test_available_names_the_embedded_default",
    "evaluation/test_diagnostics.py",
    "evaluation/test_measure.py",
    "evaluation/test_numbers.py",
    "evaluation/test_watch.py",
    "methods/test_term.py",
    "pipeline/test_recipes.py",
    "training/test_waiting.py",
]
CHOSEN = (
    "not (rehearsed or two_ranks or ranks_are_one or trains or is_short or test_pages_run or wrong_row or reader_gives"
    " or resumed or finds_what_it_imports or parts_that_do or come_last)"
    " and (not (test_a_row_keeps_the_contract or test_a_step_of) or pkt)"
    " and (not test_docstring_examples or congruence.methods or congruence.config or congruence.cli)"
)
# Where `keys()` of the catalogue stands on purpose; elsewhere `OWN_KEYS` is meant.
WITH_ALL_KEYS = {"tests/contract/test_plug_ins.py", "tests/contract/test_catalogue.py", "tests/methods/test_term.py"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder on the path, as that of installed packages is."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "plug_in-1.0.dist-info"
    info.mkdir()
    (folder / "plug_in.py").write_text(MODULE, encoding="utf8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    groups = [f"[{group}]\n{point}\n" for group, point in ENTRY_POINTS.items()]
    (info / "entry_points.txt").write_text("\n".join(groups))
    return folder


def python(folder, *arguments):
    """Run Python where the package is installed, as a process of no other test run."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    paths = os.pathsep.join([str(folder), str(Path(cg.__file__).parents[1])])
    environment = {**ours, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_scripts_and_tests_speak_of_our_own_rows():
    """Else a package that is installed would have its rows in our figures, or be tested by what we say of ours."""
    asks = re.compile(r"from congruence\.methods(\.catalogue)? import [^\n]*\bkeys\b|\b(methods|catalogue)\.keys\(\)")
    paths = [path for folder in ("tests", "docs", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    asking = {str(path.relative_to(ROOT)) for path in paths if asks.search(path.read_text(encoding="utf8"))}
    assert asking == WITH_ALL_KEYS, "use `_harness.cases.OWN_KEYS`, or `catalogue.ROWS`"


@pytest.mark.slow
def test_an_installed_row_turns_no_test_red(folder):
    installed = "from congruence import data, methods; from congruence.evaluation.numbers import numbers_in"
    last = "print(methods.keys()[-1], data.available()[-1].name, list(numbers_in('run'))[-1])"
    assert python(folder, "-c", f"{installed}; {last}") == f"{KEY} {KEY} {KEY}\n"
    tests = [str(ROOT / "tests" / name) for name in CHECKED]
    printed = python(folder, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", CHOSEN, *tests)
    assert "test_a_row_keeps_the_contract[pkt] PASSED" in printed
    assert KEY not in printed, "a test is of the installed row"

"""Every example runs: those of the docstrings, and the blocks of the README and of the pages in docs/."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest
import torch
from _harness.pages import ROOT, blocks, run
from torch import nn

import congruence as cg

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules():
    return sorted(m.name for m in pkgutil.walk_packages(cg.__path__, "congruence.") if not m.name.endswith("__main__"))


@pytest.mark.parametrize("name", ["congruence", *modules()])
def test_docstring_examples(name, tmp_path, monkeypatch):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if not name.startswith("congruence.integrations."):
            raise
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    report: list[str] = []
    usual = {"torch": torch, "nn": nn, "cg": cg}
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs={**usual, **vars(module)}):
        torch.manual_seed(0)
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("package", ["losses", "metrics"])
def test_every_public_function_has_an_example(package):
    module = getattr(cg, package)
    functions = [name for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    without = [name for name in functions if ">>>" not in (inspect.getdoc(getattr(module, name)) or "")]
    assert functions
    assert not without, f"no Example in congruence.{package}: {without}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "page"}
    page_blocks = blocks(page)
    left_out = [f"line {block.line}: {block.reason}" for block in page_blocks if block.reason]
    for block in page_blocks:
        if not block.reason:
            run(block, namespace, f"(blocks that are not run: {left_out or 'none'})")
    text = page.read_text(encoding="utf8")
    assert text.count("<!-- not run:") == len(left_out), f"a mark without a block after it; not run: {left_out}"


def test_the_tests_that_the_page_of_reliability_names_are_there():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).is_file()]

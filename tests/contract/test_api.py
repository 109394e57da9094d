"""The public surface changes only on purpose."""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path

import pytest
from _harness import api

SNAPSHOT = Path(__file__).with_name("api.txt")


def test_the_public_surface_is_the_committed_one():
    before = SNAPSHOT.read_text(encoding="utf8").splitlines()
    change = list(difflib.unified_diff(before, api.lines(), "api.txt", "now", n=0, lineterm=""))
    assert not change, "\n".join(["the public surface changed; where that is meant:", f"    {api.COMMAND}", *change])


@pytest.mark.parametrize("package", api.PACKAGES)
def test_every_public_name_is_listed_once_and_there(package):
    module = importlib.import_module(package)
    names = list(module.__all__)
    assert len(names) == len(set(names))
    assert set(names) <= set(dir(module))
    for name in names:
        assert getattr(module, name) is not None


def test_a_name_that_is_not_there_is_told():
    import congruence

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = congruence.nothing


@pytest.mark.parametrize("package", ["congruence.losses", "congruence.metrics"])
def test_tensors_are_positional_and_hyperparameters_keyword_only(package):
    module = importlib.import_module(package)
    checked = 0
    for name in module.__all__:
        value = getattr(module, name)
        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
        for parameter in inspect.signature(value).parameters.values():
            tensor = "Tensor" in str(parameter.annotation)
            if not tensor and (inspect.isclass(value) or parameter.default is not inspect.Parameter.empty):
                assert parameter.kind is not positional, f"{package}.{name}: `{parameter.name}` is not keyword-only"
            checked += 1
    assert checked

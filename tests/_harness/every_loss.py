"""Every `LossCase` that the tests of the losses describe, by the name of its function."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from _harness.losses import LossCase, LossTester

_FOLDER = Path(__file__).parents[1] / "losses"


def _cases() -> dict[str, LossCase]:
    found: dict[str, LossCase] = {}
    for file in sorted(_FOLDER.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"every_loss_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for member in vars(module).values():
            if isinstance(member, type) and issubclass(member, LossTester) and hasattr(member, "case"):
                found[member.case.name] = member.case
    return found


LOSS_CASES = _cases()

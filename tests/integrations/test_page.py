"""What docs/guide/other-loops.md shows of `congruence.integrations`, run as printed."""

from __future__ import annotations

import pytest
import torch
from _harness import trainers
from _harness.pages import ROOT, blocks, run

PAGE = ROOT / "docs" / "guide" / "other-loops.md"
SHOWN = [block for block in blocks(PAGE) if "congruence.integrations." in block.code]


@pytest.mark.filterwarnings(*trainers.THIRD_PARTY)
@pytest.mark.parametrize("block", SHOWN, ids=lambda block: f"line {block.line}")
def test_the_page(block, tmp_path, monkeypatch):
    for library in ("accelerate", "lightning", "transformers"):
        if f"congruence.integrations.{library}" in block.code:
            trainers.imported(library)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    run(blocks(PAGE)[0], namespace)
    distiller = namespace["distiller"]
    before = {name: value.clone() for name, value in distiller.student_state_dict().items()}
    run(block, namespace)
    assert distiller.clock.epoch == 3
    assert any(not torch.equal(value.cpu(), before[name]) for name, value in distiller.student_state_dict().items())

"""docs/real-encoders.md: every block of Python runs as printed, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "real-encoders.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.S)


def test_every_block_runs(capsys):
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf8"))
    assert len(blocks) >= 3
    scope: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    said = capsys.readouterr().out
    assert "['ce', 'kd', 'pkt:meaning', 'pkt:words'] ['meaning', 'words']" in said
    assert "student tokens 'blocks' [2, 17, 16], teacher tokens 'blocks' [2, 65, 32]" in said

"""`docs/develop/adding-a-metric.md`, followed to the letter: by an option, and in a package of its own."""

from __future__ import annotations

import pytest
from _harness.followed import execute, fences, install, prints, steps, write
from _harness.pages import ROOT

TEXT = (ROOT / "docs" / "develop" / "adding-a-metric.md").read_text(encoding="utf8")
OUTSIDE = fences(TEXT.split("\n## In congruence itself\n")[0])
# All that is left out of the page's commands: the recipe's epochs.
QUICK = [word for stage in ("teacher", "student") for word in ("--set", f"stages.{stage}.train.max_steps=4")]


def test_every_block_is_a_file_a_module_or_commands():
    assert [fence.file or fence.kind for fence in OUTSIDE] == [
        *("python", "mine.toml", "console"),
        *("python", "pyproject.toml", "console"),
    ]


@pytest.mark.slow
def test_the_page_is_right(tmp_path):
    module = tmp_path / "my_metrics.py"
    for fence in OUTSIDE:
        if fence.file:
            write(tmp_path, fence)
        elif fence.kind == "python":
            before = module.read_text(encoding="utf8") if module.exists() else ""
            module.write_text(before + fence.code, encoding="utf8")
        else:
            for command, expected in steps(fence):
                if command == "pip install -e .":
                    install(tmp_path)
                    continue
                quick = QUICK if " distill " in command else []
                prints(command, expected, execute(tmp_path, "-m", *command.split(), *quick))

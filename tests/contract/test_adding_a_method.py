"""`docs/develop/adding-a-method.md`, followed to the letter in a package of its own."""

from __future__ import annotations

import pytest
from _harness.followed import execute, fences, install, prints, steps, write
from _harness.pages import ROOT, blocks

PAGE = ROOT / "docs" / "develop" / "adding-a-method.md"
TEXT = PAGE.read_text(encoding="utf8")
OUTSIDE = fences(TEXT.split("\n## In congruence itself\n")[0])


def test_every_block_is_a_file_a_script_or_commands():
    assert {fence.kind for fence in OUTSIDE if not fence.file} == {"console", "python"}
    assert [fence.kind for fence in fences(TEXT)].count("python") == len(blocks(PAGE))
    assert sum(fence.kind == "console" for fence in OUTSIDE) == 3


@pytest.mark.slow
def test_the_page_is_right(tmp_path):
    for fence in OUTSIDE:
        if fence.file:
            write(tmp_path, fence)
    for fence in OUTSIDE:
        if fence.kind == "console":
            for command, expected in steps(fence):
                if command == "pip install -e .":
                    install(tmp_path)
                else:
                    prints(command, expected, execute(tmp_path, "-m", *command.split()))
        elif not fence.file:
            # By its key the row keeps the contract, too.
            checked = "from congruence.testing import check_row\ncheck_row('centre_distance')\nprint('checked')"
            assert execute(tmp_path, "-c", f"{fence.code}\n{checked}") == "checked\n"

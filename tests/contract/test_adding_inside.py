"""The parts "In congruence itself" of the pages on adding, followed to the letter in a copy of the checkout."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from _harness.followed import checkout, execute, fences, prints, steps, write
from _harness.pages import ROOT

INSIDE = "\n## In congruence itself\n"


def inside(page):
    text = (ROOT / "docs" / "develop" / f"{page}.md").read_text(encoding="utf8")
    return fences(text.split(INSIDE)[1])


def put(folder, fence):
    """Put a block where the paragraph before it says: at the end of a table or of a file, or before a line."""
    path = folder / fence.named
    text = path.read_text(encoding="utf8")
    if fence.lead.startswith("At the end of the table `"):
        table = re.search(rf"^{fence.quoted}\b.*[({{]\n(?:[ \n].*\n|\n)*(?=[)}}]\n)", text, re.MULTILINE)
        end = table.end()
        text = text[:end] + fence.code + text[end:]
    elif fence.lead.startswith("Before the line `"):
        assert text.count(f"\n{fence.quoted}\n") == 1
        text = text.replace(fence.quoted, fence.code + fence.quoted)
    else:
        assert fence.lead.startswith("At the end of `"), f"where does this block go? {fence.lead}"
        text = f"{text}\n\n{fence.code}"
    path.write_text(text, encoding="utf8")


def follow(folder, page):
    """Write the files, put the parts where they belong, run the commands."""
    sources = str(folder / "src")
    for fence in inside(page):
        if fence.kind == "console":
            for command, expected in steps(fence):
                program, *words = command.split()
                if program == "make":
                    # The environment is that of this test: it is not set up again.
                    ready = ["-o", ".venv/ready", f"BIN={Path(sys.executable).parent}"]
                    printed = execute(folder, *words, *ready, sources=sources, program="make")
                elif program == "python":
                    printed = execute(folder, *words, sources=sources)
                else:
                    module = ["-m", program, *(["-p", "no:cacheprovider"] if program == "pytest" else [])]
                    printed = execute(folder, *module, *words, sources=sources)
                prints(command, expected, printed)
        elif fence.file:
            write(folder, fence)
        else:
            put(folder, fence)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["adding-a-method", "adding-a-metric", "adding-a-dataset"])
def test_the_part_is_right(page, tmp_path):
    follow(checkout(tmp_path), page)

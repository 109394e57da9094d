"""An installed package that declares entry points, and a fresh process that sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def install(folder: Path, group: str, entry_points: str) -> None:
    """Put into `folder` what an installed package has there; it is installed where the folder is on the path."""
    info = folder / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry_points}\n")


def in_a_fresh_process(
    folder: Path, group: str, entry_points: str, script: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script where a package in `folder` is installed; the tests' own modules can be imported too."""
    install(folder, group, entry_points)
    paths = [str(folder), *[path for path in sys.path if path.endswith("tests")]]
    setup = f"import sys; sys.path[:0] = {paths!r}\n"
    return subprocess.run(
        [sys.executable, "-c", setup + script], capture_output=True, text=True, timeout=120, cwd=cwd, check=False
    )

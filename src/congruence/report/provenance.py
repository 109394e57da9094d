"""What a page says of how its content came about: settings, versions, the commit, and commands."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from congruence.core.check import sentence
from congruence.training.saving.run_directory import RunDirectory

_PACKAGES = ("congruence", "torch", "numpy", "scikit-learn", "plotly")
_FACTS = ("status", "epochs", "steps", "seconds", "torch", "device")  # of summary.json
_SECONDS = 5


def versions() -> dict[str, str]:
    """Return the versions by which the page was made, and the commit of the working directory, where it has one."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str:
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


def of_folder(folder: Path, name: str) -> dict[str, Any]:
    """Return a run's {"name", "facts", "config"}: how it ended, and its resolved configuration, "" without one."""
    directory = RunDirectory(folder)
    facts: dict[str, Any] = {"folder": str(folder)}
    try:
        summary = directory.summary() or {}
    except ValueError as error:
        summary, facts["summary"] = {}, sentence(error)
    facts |= {key: summary[key] for key in _FACTS if key in summary}
    text = directory.config.read_text(encoding="utf8") if directory.config.is_file() else ""
    return {"name": name, "facts": facts, "config": text}

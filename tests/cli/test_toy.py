"""`congruence toy`."""

import re
import sys

from typer.testing import CliRunner

from congruence.cli.main import app


def test_it_prints_the_coherence_and_writes_pictures(tmp_path):
    result = CliRunner().invoke(app, ["toy", "two-moons", "--epochs", "2", "--out", str(tmp_path / "toy")])
    assert result.exit_code == 0, result.output
    before, after = map(float, re.search(r"GPCL before ([0-9.]+), after ([0-9.]+)", result.stdout).groups())
    assert 0.5 < before < after < 1
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [
        "two-moons-batch64.gif",
        "two-moons-batch64.png",
    ]


def test_bad_input_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["toy", "moons"])
    assert result.exit_code == 2
    names = "'two-moons', 'clusters', 'ten-clusters', 'clusters3d'"
    assert result.stderr == f"`toy`: `name` must be one of {names}, got 'moons'.\n"
    result = CliRunner().invoke(app, ["toy", "clusters", "--batch", "1"])
    assert (result.exit_code, result.stderr) == (2, "`transfer`: `batch` must be an integer >= 2, got 1.\n")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = CliRunner().invoke(app, ["toy", "clusters"])
    assert result.exit_code == 2
    assert "pip install 'congruence[plots]'" in result.stderr
    assert not list(tmp_path.rglob("*.png"))

"""`congruence data`."""

from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.data import SOURCES


def test_the_list_says_what_is_there(tmp_path):
    result = CliRunner().invoke(app, ["data", "--root", str(tmp_path)])
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert list(lines)[: len(SOURCES)] == list(SOURCES)
    assert "absent" not in lines["digits"]
    assert lines["cifar10"].endswith(f"{tmp_path / 'cifar10'} (absent: congruence data fetch cifar10)")
    assert lines["svhn"].endswith(f"{tmp_path / 'svhn'} (absent: your files in their published layout)")


def test_fetching_what_is_no_package(tmp_path):
    result = CliRunner().invoke(app, ["data", "fetch", "digits", "--root", str(tmp_path)])
    assert result.exit_code == 2
    assert "there is nothing to fetch" in result.stderr


def test_fetching_an_unknown_name(tmp_path):
    result = CliRunner().invoke(app, ["data", "fetch", "cifar11", "--root", str(tmp_path)])
    assert result.exit_code == 2
    assert "Did you mean 'cifar10'" in result.stderr


def test_fetch_reports_each_step(tmp_path, monkeypatch):
    monkeypatch.setattr("congruence.data.fetch", lambda name, root, report: report(f"{name} into {root}"))
    result = CliRunner().invoke(app, ["data", "fetch", "cifar10", "--root", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, f"cifar10 into {tmp_path}\n")

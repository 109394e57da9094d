"""Every failure is one sentence on stderr and an exit code."""

import pytest
import typer
from typer.testing import CliRunner

from congruence.cli.errors import one_line
from congruence.training import NonFiniteLossError


def outcome(error):
    app = typer.Typer(pretty_exceptions_enable=False)

    def verb() -> None:
        raise error

    app.command()(one_line(verb))
    return CliRunner().invoke(app, [])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("`f`: `x` must be 1, got 2."), 2, "`f`: `x` must be 1, got 2."),
        (
            NonFiniteLossError("At step 3 the loss of 'kd' was not finite."),
            1,
            "At step 3 the loss of 'kd' was not finite.",
        ),
        (PermissionError(13, "Permission denied", "/x"), 1, "Permission denied: '/x'."),
        (OSError(28, "No space left on device"), 1, "No space left on device."),
        (KeyError("a"), 1, "Unexpected KeyError: 'a' (CONGRUENCE_DEBUG=1 shows where)."),
        (
            KeyboardInterrupt(),
            130,
            "Interrupted: repeat the command, for a run with --resume, to go on.",
        ),
    ],
)
def test_one_line_and_a_code(error, code, text, monkeypatch):
    monkeypatch.delenv("CONGRUENCE_DEBUG", raising=False)
    result = outcome(error)
    assert (result.exit_code, result.stderr, result.stdout) == (code, text + "\n", "")


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("CONGRUENCE_DEBUG", "1")
    error = ValueError("x")
    assert outcome(error).exception is error


def test_a_stopped_run_leaves_with_its_own_code():
    assert outcome(SystemExit(0)).exit_code == 0

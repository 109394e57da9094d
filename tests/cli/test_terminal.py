"""Names and paths are shown as they are written and harmlessly: on a terminal, in a pipe, in tables and errors."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from congruence.bench.table import text
from congruence.cli.compare import _table
from congruence.cli.errors import one_line
from congruence.cli.main import main
from congruence.cli.progress import Cells
from congruence.cli.train import table
from congruence.core.printable import printable

NASTY = "[/x] [red] \x1b[2J\x1b]0;t\x07 \x9b5A a\nb\r \u202e"
SHOWN = "[/x] [red] \\x1b[2J\\x1b]0;t\\x07 \\x9b5A a\\nb\\r \\u202e"
MAIN = "from congruence.cli.main import main; main()"
ON_A_TERMINAL = f"""
import logging, sys
from congruence.cli.progress import Cells, Reporter
from congruence.training.options import Event
with Reporter() as reporter:
    assert reporter.live
    (callback,) = reporter({NASTY!r})
    callback(Event("log", 0, 2, 1, 2, {{"loss [/x] \\x1b[2J": 0.25}}, None))
    logging.getLogger("congruence").warning("told of %s", {NASTY!r})
watch = Cells()
watch({{"method": {NASTY!r}, "variant": "[/bold]", "seed": 0, "failed": {NASTY!r}}}, 1, 1)
watch.close()
sys.argv = ["congruence", "distill", {NASTY.replace(chr(0), "")!r}]
{MAIN}
"""


def on_a_terminal(script):
    """Run a script whose streams are a pseudo-terminal of 400 columns; returns what it showed and its exit code."""
    primary, secondary = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "400", "LINES": "50"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=secondary, stdout=secondary, stderr=secondary, env=environment
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            part = os.read(primary, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(primary)
    return shown.decode(), process.wait(timeout=60)


def test_on_a_terminal():
    shown, status = on_a_terminal("from congruence.core.printable import printable_output as p; p()\n" + ON_A_TERMINAL)
    assert status == 2, shown
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
    assert not re.search("[\x07\x9b\u202e]", shown)
    assert f"{SHOWN} epoch 1/2" in shown
    assert "loss [/x] \\x1b[2J 0.25" in shown
    assert f"told of {SHOWN}" in shown
    assert f"{SHOWN} [/bold], seed 0: failed: {SHOWN}" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["distill", NASTY], "[/x] [red] \\x1b[2J"),
        (["bench", NASTY, "--out", "x"], "[/x] [red] \\x1b[2J"),
        ([NASTY], "[/x] [red] \\x1b[2J"),
        (["distill", f"--{NASTY}"], "[/x] [red] \\x1b[2J"),
        (["evaluate", os.fsdecode(b"a\xff")], "'a\\udcff' is no run's folder: give --weights with a configuration."),
    ],
)
def test_an_argument_is_shown_on_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["congruence", *arguments])
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())  # which `main` changes for its process
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert (ended.value.code, out) == (2, "")
    assert line.isprintable()
    assert said in line.replace("\\\\", "\\")


def test_tables():
    lines = text([["", "n"], [NASTY, "1"]]).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(f"| {SHOWN} | 1 |")
    assert table({NASTY: {"accuracy": 0.5}}, title=NASTY).splitlines()[0].startswith(SHOWN)
    shown = _table("classes", [{"class": NASTY, "lost": 0.5}]).splitlines()
    assert len(shown) == 3
    assert shown[2].isprintable()


@pytest.mark.parametrize("live", [True, False])
def test_cells(live, capsys):
    watch = Cells(live=live)
    watch({"method": "[/x]", "variant": "[red]", "seed": 0, "accuracy_best": 0.5}, 1, 1)
    watch.close()
    assert "[/x] [red], seed 0: accuracy 0.5000" in capsys.readouterr().out


def test_errors_of_single_lines():
    import typer

    from congruence.config import ConfigError

    def outcome(error):
        def verb() -> None:
            raise error

        program = typer.Typer()
        program.command()(one_line(verb))
        return CliRunner().invoke(program, []).stderr.splitlines()

    assert outcome(ValueError(f"bad {NASTY}")) == [f"bad {SHOWN}"]
    assert outcome(ConfigError([f"a: {NASTY}", "b"])) == [f"a: {SHOWN}", "b"]
    assert outcome(FileNotFoundError(2, "No such file", NASTY)) == [f"No such file: '{SHOWN}'."]


def test_long_arguments_are_cut(monkeypatch, capsys):
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())
    for arguments in (["methods", "x" * 5000], ["bench", "x" * 5000, "--out", "x"], ["evaluate", "é " * 5000]):
        monkeypatch.setattr(sys, "argv", ["congruence", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        [line] = err.splitlines()
        assert len(line) < 600


def test_printable():
    assert printable(NASTY) == SHOWN
    assert printable("été ± 你好 []") == "été ± 你好 []"
    assert printable("a\nb", lines=True) == "a\nb"


# What is started in the background, as a job of CI may be, has Ctrl-C ignored: not so here.
INTERRUPTED_AT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["congruence", "methods", "kd"]
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("typer", "Interrupted.\n"),
        ("torch", "Interrupted: repeat the command, for a run with --resume, to go on.\n"),
    ],
)
def test_ctrl_c_while_importing_is_one_line_and_130(name, said):
    script = INTERRUPTED_AT.format(name=name) + MAIN
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, said, "")

"""The program as a whole."""

import signal
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import congruence
from congruence.cli.main import app
from congruence.cli.train import table

PROGRAM = (sys.executable, "-c", "from congruence.cli.main import main; main()")


def test_help_names_every_verb():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(
        f" {verb} " in result.stdout
        for verb in ("demo", "teach", "distill", "evaluate", "compare", "export", "bench", "methods", "toy", "data")
    )


def verbs(command=None, path=()):
    """Yield every command with the words that call it."""
    command = command or get_command(app)
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs(below, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), list(verbs()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_help_is_shown_as_it_is_written(path, command, monkeypatch):
    """Nothing in brackets is taken for markup and lost: the extra congruence[report]."""
    monkeypatch.setenv("COLUMNS", "400")
    shown = CliRunner().invoke(app, [*path, "--help"]).stdout
    for parameter in command.params:
        written = getattr(parameter, "help", None)
        assert " ".join((written or "").replace("\\[", "[").split()) in " ".join(shown.split())


def test_the_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"congruence {congruence.__version__}\n")


def test_a_wrong_option_is_a_usage_error():
    result = CliRunner().invoke(app, ["distill", "--nonsense"])
    assert result.exit_code == 2
    assert "--nonsense" in result.stderr


@pytest.mark.parametrize(("word", "own"), [("train", "distill"), ("eval", "evaluate"), ("xyz", None)])
def test_a_command_by_the_name_that_others_give_it(word, own):
    told = subprocess.run([*PROGRAM, word], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    near = f" Did you mean '{own}'?" if own else ""
    assert told.stderr == f"No such command '{word}'.{near} (--help lists the options.)\n"
    assert own is None or own in [path[0] for path, _ in verbs() if path]


def test_nothing_heavy_is_imported_before_a_verb_runs():
    code = "import sys, congruence.cli.main; print([m for m in ('torch', 'pydantic', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_sigterm_saves_and_leaves_with_a_sentence(tmp_path):
    arguments = ("distill", "digits/ce", "--out", str(tmp_path / "run"), "--set", "stages.student.train.epochs=1000")
    small = ("--set", "stages.teacher.train.max_steps=1", "--set", 'stages.student.student={model="resnet8"}')
    with subprocess.Popen(
        [*PROGRAM, *arguments, *small], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("student: epoch 1/1000"):
                break
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "SIGTERM at step" in complaint
    assert "resume goes on from this step" in complaint
    assert "Traceback" not in complaint
    assert (tmp_path / "run" / "student.safetensors").exists()


def test_columns_of_large_numbers_stay_apart():
    written = table({"best": {"parameters": 77_587}, "teacher": {"parameters": 11_170_371}}, title="test set")
    assert written.splitlines()[-1].split() == ["parameters", "77,587", "11,170,371"]

"""The program `congruence`."""

from __future__ import annotations

from congruence.cli.interrupts import INTERRUPTED, quiet

with quiet():  # imports take the most time before a verb begins
    import importlib
    import signal
    import sys
    from typing import Annotated

    import typer

    from congruence.cli.bench import bench, demo
    from congruence.cli.cache import cache
    from congruence.cli.compare import compare
    from congruence.cli.data import app as data_app
    from congruence.cli.distill import distill
    from congruence.cli.errors import one_line
    from congruence.cli.evaluate import evaluate
    from congruence.cli.export import export
    from congruence.cli.figures import figures
    from congruence.cli.methods import methods
    from congruence.cli.report import report
    from congruence.cli.say import say
    from congruence.cli.teach import teach
    from congruence.cli.toy import toy
    from congruence.core.printable import printable_output

# What other programs call these commands.
_ELSEWHERE = {
    **dict.fromkeys(("train", "run", "fit"), "distill"),
    **dict.fromkeys(("eval", "test", "measure"), "evaluate"),
    **dict.fromkeys(("benchmark", "plan", "sweep"), "bench"),
    **dict.fromkeys(("plot", "draw"), "figures"),
}
app = typer.Typer(
    name="congruence",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"congruence {importlib.import_module('congruence').__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Make a small model see the world the way a big one does."""


for verb in (demo, teach, distill, evaluate, compare, export, report, figures, bench, cache, methods, toy):
    app.command()(one_line(verb))
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the program."""
    printable_output()
    try:
        status = app(standalone_mode=False) or 0
    except KeyboardInterrupt:
        say("Interrupted.", err=True)
        status = INTERRUPTED
    except typer.Abort:
        say("Aborted.", err=True)
        status = 1
    except Exception as error:
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        if told := error.format_message().strip():  # may contain any argument text; "" if help was shown
            meant = next((own for word, own in _ELSEWHERE.items() if told == f"No such command '{word}'."), None)
            near = f" Did you mean '{meant}'?" if meant else ""
            say(f"{told}{near} (--help lists the options.)", err=True, colour="red")
        status = error.exit_code
    if status == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the user may press Ctrl-C again
    sys.exit(status)

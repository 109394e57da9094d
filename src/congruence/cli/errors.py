"""`one_line`: makes every verb fail with one line on stderr and an exit code, without a traceback."""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import typer

from congruence.cli.interrupts import INTERRUPTED
from congruence.cli.say import say
from congruence.core.brevity import cut

P = ParamSpec("P")
R = TypeVar("R")
BAD_INPUT, FAILED = 2, 1
_LONG_WORD = re.compile(r"\S{240,}")  # longer than paths usually are
_LONGEST = 800  # characters of a line


def one_line(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn a verb's exception into one line and an exit code: 2 for bad input, 1 for other failures, 130 for Ctrl-C.

    CONGRUENCE_DEBUG=1 in the environment lets the traceback through.
    """

    @functools.wraps(verb)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            say(
                "Interrupted: repeat the command, for a run with --resume, to go on.",
                err=True,
                colour="red",
            )
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if os.environ.get("CONGRUENCE_DEBUG") == "1":
                raise
            for line in _sentences(error):
                say(_short(line), err=True, colour="red")
            bad = isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG)
            raise typer.Exit(BAD_INPUT if bad else FAILED) from None

    return wrapper


def _short(line: str) -> str:
    """Cut arguments of thousands of characters in the middle, and then the line if it is still too long."""
    words = _LONG_WORD.sub(lambda found: cut(found[0]), line)
    return words if len(words) <= _LONGEST else cut(words, _LONGEST // 2)


def _sentences(error: Exception) -> Sequence[str]:
    """Return one line for each problem of a configuration or plan; one line for any other error."""
    from congruence.config.problems import ConfigError

    return error.lines if isinstance(error, ConfigError) else (_sentence(error),)


def _sentence(error: Exception) -> str:
    from congruence.training import NonFiniteLossError

    if isinstance(error, ValueError | NonFiniteLossError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'." if error.filename else f"{error.strerror}."
    text = (str(error).splitlines() or [""])[0]
    return f"Unexpected {type(error).__name__}: {text} (CONGRUENCE_DEBUG=1 shows where)."

"""`one_line`: how every verb fails, with one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def one_line(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn what a verb raises into its sentence and an exit code: 2 for bad input, 1 for what failed, 130 for Ctrl-C.

    CONGRUENCE_DEBUG=1 in the environment lets the traceback through.
    """

    @functools.wraps(verb)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            typer.secho("Interrupted: --resume goes on from the last checkpoint.", err=True, fg="red")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if os.environ.get("CONGRUENCE_DEBUG") == "1":
                raise
            typer.secho(_sentence(error), err=True, fg="red")
            raise typer.Exit(BAD_INPUT if isinstance(error, ValueError) else FAILED) from None

    return wrapper


def _sentence(error: Exception) -> str:
    from congruence.training import NonFiniteLossError

    if isinstance(error, ValueError | NonFiniteLossError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'." if error.filename else f"{error.strerror}."
    text = (str(error).splitlines() or [""])[0]
    return f"Unexpected {type(error).__name__}: {text} (CONGRUENCE_DEBUG=1 shows where)."

"""Text as a terminal or a log may show it: what is no printable character is written out, names and paths included."""

from __future__ import annotations

import logging
import sys


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text in which every character that is not printable stands as its escape.

    Args:
        text: any.
        lines: whether it has lines, whose ends stay.

    Example:
        >>> printable("cat\x1b[2J\n[/x]"), printable("a\nb", lines=True)
        ('cat\\x1b[2J\\n[/x]', 'a\nb')
    """
    return "".join(char if char.isprintable() or (lines and char == "\n") else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", errors="backslashreplace").decode()


class PrintableFormatter(logging.Formatter):
    """Writes each record's message on one line that a terminal may show."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the message, its format's other parts as they are."""
        record.message = printable(record.message)
        return super().formatMessage(record)


def printable_output() -> None:
    """Let this process, a program's own, write what its streams cannot encode as escapes, and log printable lines."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())

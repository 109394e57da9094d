"""Text made safe for a terminal or a log: characters that are not printable are written as escapes."""

from __future__ import annotations

import logging
import sys


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text with every character that is not printable replaced by its escape.

    Args:
        text: any text.
        lines: keep line breaks.

    Example:
        >>> printable("cat\x1b[2J\n[/x]"), printable("a\nb", lines=True)
        ('cat\\x1b[2J\\n[/x]', 'a\nb')
    """
    return "".join(char if char.isprintable() or (lines and char == "\n") else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", errors="backslashreplace").decode()


class PrintableFormatter(logging.Formatter):
    """Formats each log record's message as one printable line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the formatted record with its message made printable."""
        record.message = printable(record.message)
        return super().formatMessage(record)


def printable_output() -> None:
    """Make this process write characters that its streams cannot encode as escapes, and log printable lines."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())

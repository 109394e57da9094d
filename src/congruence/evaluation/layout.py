"""A table of cells as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from congruence.core.printable import printable


def text(lines: Sequence[Sequence[str]]) -> str:
    """Lay a table out as Markdown with aligned columns, which reads well in a terminal too.

    Example:
        >>> print(text([["", "accuracy"], ["small", "0.9"]]))
        |       | accuracy |
        |-------|---------:|
        | small |      0.9 |
    """
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def row(line: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return f"| {' | '.join([line[0].ljust(widths[0]), *padded[1:]])} |"

    rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([row(lines[0]), f"|{'|'.join(rules)}|", *(row(line) for line in lines[1:])])

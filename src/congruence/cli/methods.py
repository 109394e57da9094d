"""`congruence methods`: list the methods of the catalogue; with a key, print the method's card."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Annotated

import typer

from congruence.cli.say import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from congruence.methods import Row

_SECTION = re.compile(r"\n(?:Shape|Args|Returns|Raises|Example|Reference|Deviations):\n")


def methods(
    key: Annotated[str | None, typer.Argument(help="A method's key, to print its card.", metavar="KEY")] = None,
) -> None:
    """List the methods; with a key, print its formula, needs, hyper-parameters, default weight and paper."""
    from congruence.methods import keys, row

    if key is not None:
        say(card(row(key)), lines=True)
        return
    width = max(map(len, keys()))
    for name in keys():
        say(f"{name:{width}}  {row(name).summary}")


def home(function: Callable[..., object]) -> str:
    """Return the module that exports a function: `congruence.losses` for built-in methods, else the package's."""
    module = function.__module__
    return "congruence.losses" if module.startswith("congruence.losses.") else module


def formulas(row: Row) -> str:
    """Return the formulas of a method: what the docstrings of its function and of its `Method` say before sections."""
    from congruence.methods import Method

    described = [row.function]
    if issubclass(row.part, Method) and row.part is not row.function:
        described.append(row.part)  # the part about what the method trains and stores around its loss
    return "\n\n".join(_SECTION.split(inspect.getdoc(each) or "", maxsplit=1)[0].strip() for each in described)


def needed(row: Row) -> str:
    """Say what a method needs of the models and the data, and how its loss is reduced.

    Example:
        >>> from congruence.methods import row
        >>> needed(row("mlld"))
        'logits, teacher, labels, the views weak, strong; relates the samples of a batch'
    """
    scope = "relates the samples of a batch" if row.needs.scope == "batch" else "a mean over samples"
    needs = [*row.needs.roles, *(n for n in ("teacher", "labels", "index", "facts") if getattr(row.needs, n))]
    if row.needs.views != ("main",):
        needs.append(f"the views {', '.join(row.needs.views)}")
    return f"{', '.join(needs)}; {scope}"


def card(row: Row) -> str:
    """Write all about a method; the formulas are those in the docstrings of its function and of its `Method`."""
    labels = [
        "labels: not read, but it matches distributions regardless of the classes, so it is useful only if most "
        "samples have labels"
    ] * row.blind
    given = [f"{n}={'(needed)' if v is inspect.Parameter.empty else repr(v)}" for n, v in row.defaults().items()]
    return "\n".join(
        [
            f"{row.key}: {row.summary}",
            "",
            f"{home(row.function)}.{row.function.__name__}",
            formulas(row),
            "",
            f"needs: {needed(row)}",
            *labels,
            f"hyper-parameters: {', '.join(given) or 'none'}",
            f"default weight: {row.weight}",
            f"paper: {row.reference}",
            *([f"year: {row.year}"] * (row.year is not None)),
            *([f"link: {row.link}"] * bool(row.link)),
        ]
    )

"""The page of the command line, from the program itself: `docs/update_reference.py` writes it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from prose import markdown, paragraphs, table

from congruence.cli.main import app

_VALUES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
_INTRODUCTION = """# Command line

`congruence VERB --help` prints what stands here, and `congruence --version` the version.

What goes wrong is one sentence on standard error. The program ends with 0, with 2 for wrong input, with 1 for what
failed, and with 130 after Ctrl-C.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([_INTRODUCTION, *(_section(name, verb) for name, verb in verbs())])


def verbs() -> Iterator[tuple[str, Any]]:
    """Yield each verb with its command, those of a group by both words."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"congruence {name}", command
            yield from ((f"congruence {name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield f"congruence {name}", command


def _section(name: str, command: Any) -> str:
    parts = [f"## {name}", paragraphs(inspect.cleandoc(command.help or ""))]
    taken = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join([name, *(_metavar(each) for each in taken), "[OPTIONS]"])
    parts.append(f"```\n{usage}\n```")
    if taken:
        rows = [[f"`{each.metavar or each.name.upper()}`", _help(each)] for each in taken]
        parts.append(table(["argument", "meaning"], rows))
    panels: dict[str, list[list[str]]] = {}
    for option in command.params:
        if option.param_type_name == "option" and not option.hidden and "--help" not in option.opts:
            panels.setdefault(option.rich_help_panel or "", []).append(
                [_spelt(option), _default(option), _help(option)]
            )
    for panel, rows in panels.items():
        parts += [f"{panel}:"] * bool(panel) + [table(["option", "default", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return f"{name if argument.required else f'[{name}]'}{'...' if argument.nargs == -1 else ''}"


def _spelt(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    names = " / ".join(_code(f"{name}{value}") for name in [*option.opts, *option.secondary_opts])
    return f"{names}, repeatable" if option.multiple else names


def _code(text: str) -> str:
    """Return text as code, also in a table, where a bar must not end the cell."""
    return f"<code>{text.replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _kind(option: Any) -> str:
    """Return what stands for an option's value, from the type that the verb's signature gives it."""
    annotation = option.type_descriptor.annotation
    annotation = typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    return "|".join(choices) or _VALUES[annotation]


def _default(option: Any) -> str:
    value = option.default() if callable(option.default) else option.default
    if option.required:
        return "needed"
    if value is None or value is False or value == [] or value == ():
        return ""
    if value is True:
        return "on"
    return f"`{value}`"


def _help(parameter: Any) -> str:
    said = markdown((parameter.help or "").replace("\\[", "["))  # which rich would take for its own
    variable = getattr(parameter, "envvar", None)
    return f"{said} The environment variable `{variable}` says the same." if variable else said

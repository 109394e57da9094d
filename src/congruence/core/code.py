"""The content of a Python function as plain values: its names, instructions and constants."""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

Value = str | bool | int | float


def code_parts(code: types.CodeType, doc: str | None, where: str = "") -> Iterator[tuple[str, Value]]:
    """Yield (place, value) pairs that identify a function's code, including the functions inside it.

    Example:
        >>> first, second = (lambda z: z * 2), (lambda z: z + 2)
        >>> dict(code_parts(first.__code__, None)) == dict(code_parts(second.__code__, None))
        False
    """
    yield f"{where}.code", f"{' '.join(code.co_names)} {code.co_code.hex()}"
    for number, constant in enumerate(code.co_consts):
        if isinstance(constant, types.CodeType):
            yield from code_parts(constant, None, f"{where}.function{number}")
        elif isinstance(constant, (str, bool, int, float)) and constant != doc:
            yield f"{where}.constant{number}", constant


def hook_parts(hook: Any, libraries: tuple[str, ...]) -> Iterator[tuple[str, Value]]:
    """Yield the code of a hook that may change its module's output, and the numbers that the hook holds.

    Nothing is yielded for a hook that returns None, since it only observes, or for a library's hook. A hook's other
    contents are skipped: they may be data that it has collected so far.
    """
    hook = getattr(hook, "__func__", hook)
    code = getattr(hook, "__code__", None)
    if code is None or f"{hook.__module__}.".startswith(libraries) or not _returns(code):
        return
    yield from code_parts(code, hook.__doc__)
    empty = types.CellType()
    for number, cell in enumerate(hook.__closure__ or ()):
        if cell != empty and isinstance(cell.cell_contents, float):
            yield f".cell{number}", cell.cell_contents


def _returns(code: types.CodeType) -> bool:
    """Whether a function returns anything but a plain None."""
    for before, step in pairwise(dis.get_instructions(code)):
        if step.opname.startswith("RETURN_"):
            given = step if step.opname == "RETURN_CONST" else before
            if given.opname not in ("LOAD_CONST", "RETURN_CONST") or given.argval is not None:
                return not step.opname.startswith("RETURN_GENERATOR")
    return False

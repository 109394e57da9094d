"""`plain_pickle`, which runs no code: NumPy arrays are rebuilt from stand-ins, any other name raises."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congruence.core.printable import printable


class _Type:
    """Stands for `numpy.dtype`; only plain numbers and bytes are allowed."""

    def __init__(self, name: object, *_: object) -> None:
        text = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(text, str) or text[:1] not in tuple("?biufS"):
            raise pickle.UnpicklingError("an array of objects")
        self.value = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order == ">":
            self.value = self.value.newbyteorder(">")


class _Array:
    """Stands for an array; the real one is made from its bytes, shape and type alone."""

    value: npt.NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, sizes, kind, fortran, content = state
        self.fill(content, kind, sizes, "F" if fortran else "C")

    def fill(self, content: Any, kind: Any, sizes: Any, order: Any) -> _Array:
        """Read the bytes; raise if their number does not match."""
        if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError("an array of objects")
        flat = np.frombuffer(content, kind.value)
        self.value = flat.reshape([int(size) for size in sizes], order="F" if order == "F" else "C")
        return self


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(content: object, kind: object, sizes: object, order: object) -> _Array:
    return _Array().fill(content, kind, sizes, order)


def _encode(text: str, coding: str = "latin1") -> bytes:
    """Undo how old protocols write bytes."""
    if coding != "latin1":
        raise pickle.UnpicklingError(f"the coding {coding!r}")
    return text.encode("latin1")


def _empty() -> bytes:
    """Return empty bytes, as old protocols write them."""
    return b""


# The names under which NumPy 1 and 2 write arrays with pickle protocols 0 to 5.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


class _Refused(Exception):
    """A name that is not allowed."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an allowed name without importing anything."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _resolved(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Replace stand-ins by arrays; an object that several places share is resolved once and shared again."""
    known = {} if known is None else known
    if isinstance(value, _Array):
        return value.value
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in known:
        if isinstance(value, dict):
            known[id(value)] = {_resolved(key, known): _resolved(item, known) for key, item in value.items()}
        else:
            known[id(value)] = [_resolved(item, known) for item in value]
    return known[id(value)]


def plain_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, strings, bytes, numbers and arrays of numbers; tuples come back as lists.

    Args:
        path: the file, also one written by Python 2 (its strings come back as bytes).

    Returns:
        The value.

    Raises:
        ValueError: with the file's name, if it asks for anything else or is cut short. Nothing that the file names is
            imported or called.
    """
    try:
        content = path.read_bytes()
        return _resolved(_Plain(io.BytesIO(content), encoding="bytes").load())
    except _Refused as error:
        raise ValueError(
            f"The file '{path}' asks for '{printable(str(error))}' when read, which data never needs; nothing was run."
        ) from None
    except OSError as error:
        raise ValueError(f"The file '{path}' cannot be read: {error.strerror or error}.") from None
    except RecursionError:
        raise ValueError(f"The file '{path}' is damaged: it is nested too deeply.") from None
    except Exception as error:  # A damaged pickle can raise anything.
        why = printable(" ".join(str(error).split()).rstrip("."))
        raise ValueError(f"The file '{path}' is damaged: it cannot be read as a pickle ({why}).") from None

"""The public surface as text. After a change that is meant, write it by hand, from the repository's root:

python tests/_harness/api.py > tests/contract/api.txt
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

COMMAND = "python tests/_harness/api.py > tests/contract/api.txt"
PARTS = ("losses", "metrics", "data", "models", "geometry", "methods", "teacher_cache", "testing")
PACKAGES = ("congruence", *(f"congruence.{part}" for part in PARTS))


def signature(value: object) -> str:
    """A signature as written, the same under every Python; nothing for a class that does not define one."""
    inherits = isinstance(value, type) and not {"__init__", "__new__"} & set(vars(value))
    if inherits or getattr(value, "_is_protocol", False):
        return ""
    text = re.sub(r"ForwardRef\('([^']*)'[^)]*\)", r"'\1'", str(inspect.signature(value)))
    return re.sub(r" at 0x[0-9a-f]+", "", text).replace("'", "").replace('"', "")


def members(cls: type) -> Iterator[str]:
    """The public methods and properties that a class defines itself."""
    for name, value in sorted(vars(cls).items()):
        if name.startswith("_"):
            continue
        inner = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if isinstance(value, property):
            yield f".{name}"
        elif inspect.isfunction(inner):
            yield f".{name}{signature(inner)}"


def lines() -> list[str]:
    """One line for every name, function, class, method and property."""
    found = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(module.__all__):
            value, path = getattr(module, name), f"{package}.{name}"
            if inspect.ismodule(value):
                found.append(f"{path}: module")
            elif inspect.isclass(value) and issubclass(value, Exception):
                found.append(f"class {path}({value.__bases__[0].__name__})")
            elif inspect.isclass(value):
                found.append(f"class {path}{signature(value)}")
                found += [f"    {path}{member}" for member in members(value)]
            elif callable(value):
                found.append(f"{path}{signature(value)}")
            else:
                found.append(f"{path}: {type(value).__name__}")
    return found


if __name__ == "__main__":
    print("\n".join(lines()))

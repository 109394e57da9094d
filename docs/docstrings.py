"""How the site reads docstrings of this house: a griffe extension, named in mkdocs.yml.

Google's style knows "Examples"; here a docstring has one "Example", whose `>>>` must not become quotations.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)Example:\n", re.MULTILINE)


class House(griffe.Extension):
    """Leave out what is for developers, and rename the section that griffe would take for a box of prose."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Leave out how a module prints its hyper-parameters."""
        cls.members.pop("extra_repr", None)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring before it is parsed."""
        if obj.docstring is None:
            return
        if obj.is_module and obj.docstring.value.startswith("Floor "):  # of docs/architecture.md; the page has a head
            obj.docstring = None
        else:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:\n", obj.docstring.value)

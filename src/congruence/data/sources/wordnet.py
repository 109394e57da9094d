"""The example sentences of WordNet, from the `data.*` files of its database."""

from __future__ import annotations

import re
from pathlib import Path

from congruence.core.files import absent, damaged
from congruence.data.sources.store import Lines, Texts

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
LEAST = 5  # words of an example; shorter ones are phrases
_EXAMPLE = re.compile(r'"([^"]+)"')


def read_wordnet(folder: Path) -> Lines:
    """Read the different examples of five words or more, in the order of the files; they have no labels.

    A line of a `data.*` file describes a sense. What follows " | " is its definition and its examples in double quotes.

    Raises:
        ValueError: with the file's name, if one is absent or holds no examples.
    """
    found: dict[str, None] = {}
    for name in FILES:
        path, before = folder / name, len(found)
        try:
            lines = path.read_text(encoding="latin1").splitlines()
        except FileNotFoundError:
            raise absent(path) from None
        except OSError as error:
            raise ValueError(f"The file '{path}' cannot be read: {error.strerror or error}.") from None
        for line in lines:
            if line.startswith(" "):  # the licence
                continue
            examples = (" ".join(text.split()) for text in _EXAMPLE.findall(line.partition(" | ")[2]))
            found.update((text, None) for text in examples if len(text.split()) >= LEAST)
        if len(found) == before:
            raise damaged(path, "it holds no examples of WordNet")
    return Lines(Texts(tuple(found), None))

"""What is wrong with a configuration, all of it at once: the errors, and how pydantic's become sentences of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from congruence.core import check
from congruence.core.brevity import brief, cut, listed
from congruence.core.printable import printable

_SENTENCE = re.compile(r"`\w+`: `(\w+)` must be (.+), got (.+)\.", re.DOTALL)
# What pydantic adds to a location for each type that a value might have had: no key of the file.
_BRANCH = re.compile(r"int|float|str|constrained-\w+|(list|dict|tuple)\[.*\]")
MOST = 30  # lines: who has more to mend begins with these
_WORDS = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "text in quotes",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "missing": "a value",
}


class ConfigError(ValueError):
    """A configuration cannot be used; the message has one line for each reason.

    Args:
        lines: "file: key: expected ..., got ...", each.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        every = tuple(dict.fromkeys(map(printable, lines)))
        more = (f"... and {len(every) - MOST:,} more.",) if len(every) > MOST else ()
        self.lines = (*every[:MOST], *more)
        super().__init__("\n".join(self.lines))


class Problems(ValueError):
    """Several things wrong in one table: (key below the table, sentence) each; the key "" is the table itself."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__(" ".join(sentence for _, sentence in problems))


def one_by_one(make: Callable[..., Any], values: Mapping[str, Any], **always: Any) -> list[tuple[str, str]]:
    """Try keyword arguments one by one, each beside those that are right, so that every wrong one is named.

    One that is right by itself, but not beside the others, is told of the whole (the key "").
    """

    def wrong(**given: Any) -> str | None:
        try:
            make(**{**always, **given})
        except (TypeError, ValueError) as error:
            return str(error)
        return None

    right: dict[str, Any] = {}
    left = {} if wrong(**values) is None else dict(values)
    while passed := [name for name in left if wrong(**right, **{name: left[name]}) is None]:
        right[passed[0]] = left.pop(passed[0])  # others may have a meaning beside this one alone
    return [
        (name if wrong(**{name: value}) is not None else "", str(wrong(**right, **{name: value})))
        for name, value in left.items()
    ]


def expected(names: Iterable[str], got: str, *, what: str = "one of ") -> str:
    """Write "expected one of a, b, got 'c'. Did you mean 'a'?"."""
    choices = tuple(names)
    return f"expected {what}{listed(choices)}, got {brief(got)}.{check.near(got, choices)}"


def reworded(sentence: str, key: str) -> str:
    """Turn the library's sentence about an argument into one about a key, which the line already names."""
    match = _SENTENCE.fullmatch(sentence)
    if match is None:
        return sentence
    what = f"expected {match[2]}" if match[1] == key else f"`{match[1]}` must be {match[2]}"
    return f"{what}, got {cut(match[3], 160)}."


def explain(error: Mapping[str, Any], keys: Callable[[tuple[str, ...]], Iterable[str]]) -> list[tuple[str, str]]:
    """Turn one of pydantic's errors into (dotted key, sentence) pairs.

    Args:
        error: an entry of `ValidationError.errors()`.
        keys: gives the keys that a table may have, by the table's location.
    """
    key_path = tuple(str(part) for part in error["loc"] if not str(part).startswith("@"))
    kind, got = error["type"], error["input"]
    while len(key_path) > 1 and kind != "extra_forbidden" and _BRANCH.fullmatch(key_path[-1]):
        key_path = key_path[:-1]
    reason = error.get("ctx", {}).get("error")
    if isinstance(reason, Problems):
        return [(".".join((*key_path, *filter(None, [key]))), reworded(text, key)) for key, text in reason.problems]
    if kind == "extra_forbidden":
        text = expected(keys(tuple(map(str, error["loc"][:-1]))), key_path[-1])
    elif isinstance(reason, ValueError):
        text = reworded(str(reason), key_path[-1] if key_path else "")
    elif kind == "literal_error":
        text = expected(re.findall(r"'(\w+)'", error["ctx"]["expected"]), str(got))
    elif kind == "greater_than_equal":
        text = f"expected an integer >= {error['ctx']['ge']}, got {brief(got)}."
    elif kind == "too_short":
        text = "expected at least one, got none."
    elif kind in _WORDS:
        text = f"expected {_WORDS[kind]}, got {'nothing' if kind == 'missing' else brief(got)}."
    else:
        text = f"{error['msg'].rstrip('.').replace('Input should be', 'expected')}, got {brief(got)}."
    return [(".".join(key_path), text)]

"""A plan: which recipes, which seeds, and the cells that come of them."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from congruence.config.load import load_config
from congruence.config.schema import RunConfig
from congruence.config.shipped import shipped
from congruence.core import check


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(type(item) is kind for item in value)


_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a string"),
    "seeds": (lambda value: bool(value) and _list_of(int)(value), "a list of whole numbers"),
    "methods": (
        lambda value: isinstance(value, dict) and bool(value) and _list_of(str)(list(value.values())),
        "at least one method",
    ),
    "set": (_list_of(str), "a list of KEY=VALUE"),
}


@dataclass(frozen=True)
class Cell:
    """One run of a plan: a method with a seed."""

    method: str
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """The cell's folder."""
        return f"{self.method}-seed{self.seed}"

    @property
    def teacher(self) -> str | None:
        """The name of the earlier stage that teaches, None where there is none."""
        given = self.config.stages[self.config.last].teacher
        return given if isinstance(given, str) else None

    def teacher_key(self) -> str:
        """Return a hash of all that decides the teacher, by which cells share one."""
        return digest(self.config.upto(str(self.teacher)).model_dump(mode="json", exclude={"name", "extends"}))

    def key(self) -> str:
        """Return a hash of all that decides the cell's result."""
        return digest(self.config.model_dump(mode="json"))


@dataclass(frozen=True)
class Plan:
    """Methods × seeds.

    Args:
        name: of the plan.
        recipes: a recipe (name or path) for each method's row.
        seeds: of the students; the teacher has its own, in its recipe.
        overrides: `KEY=VALUE` for every recipe.
    """

    name: str
    recipes: Mapping[str, str]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """Return the cells, method by method."""
        made = []
        for method, recipe in self.recipes.items():
            config = load_config(recipe, self.overrides)
            for seed in self.seeds:
                seeded = load_config(recipe, (*self.overrides, f"stages.{config.last}.train.seed={seed}"))
                made.append(Cell(method, seed, seeded))
        return made


def digest(value: Any) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def load_plan(path_or_name: str, *, overrides: tuple[str, ...] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """Read a plan: a TOML file, or the name of a shipped one.

    Raises:
        ValueError: naming file, key, what was expected and what was found.
    """
    path = Path(path_or_name) if Path(path_or_name).is_file() else shipped("plans", path_or_name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}.") from None
    problems = _problems(str(path), raw)
    if problems:
        raise ValueError("\n".join(problems))
    return Plan(raw["name"], raw["methods"], seeds or tuple(raw["seeds"]), (*raw.get("set", ()), *overrides))


def _problems(file: str, raw: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that is wrong with a plan."""
    problems = [f"{file}: {key}: unknown key.{check.near(key, _KEYS)}" for key in raw if key not in _KEYS]
    for key, (accepts, expected) in _KEYS.items():
        if key not in raw and key != "set":
            problems.append(f"{file}: {key}: missing.")
        elif key in raw and not accepts(raw[key]):
            got = f", got {raw[key]!r}" if raw[key] else ""
            problems.append(f"{file}: {key}: expected {expected}{got}.")
    return problems

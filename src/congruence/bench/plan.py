"""A plan: which recipes, which seeds, and the cells that come of them."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from congruence.config.load import load_config
from congruence.config.schema import RunConfig
from congruence.config.shipped import names, shipped
from congruence.core import check

_KEYS = {"name": str, "seeds": list, "methods": dict, "set": list}


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
        given = self.config.stages[self.stage].teacher
        return given if isinstance(given, str) else None

    @property
    def stage(self) -> str:
        """The stage that a cell runs: the config's last."""
        return list(self.config.stages)[-1]

    def teacher_key(self) -> str:
        """Return a hash of all that decides the teacher, by which cells share one."""
        stages = self.config.model_dump(mode="json")["stages"]
        earlier = {name: stage for name, stage in stages.items() if name != self.stage}
        return digest({"data": self.config.model_dump(mode="json")["data"], "stages": earlier})

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
            stage = list(config.stages)[-1]
            for seed in self.seeds:
                seeded = load_config(recipe, (*self.overrides, f"stages.{stage}.train.seed={seed}"))
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
    path = Path(path_or_name) if path_or_name.endswith(".toml") else shipped("plans", path_or_name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf8"))
    except OSError:
        near = check.near(path_or_name, names("plans"))
        raise ValueError(f"There is no plan '{path_or_name}'.{near} Shipped: {', '.join(names('plans'))}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}.") from None
    problems = [f"{path}: {key}: unknown key.{check.near(key, _KEYS)}" for key in raw if key not in _KEYS]
    for key, kind in _KEYS.items():
        if key in raw and not isinstance(raw[key], kind):
            problems.append(f"{path}: {key}: expected a {kind.__name__}, got {raw[key]!r}.")
        if key not in raw and key != "set":
            problems.append(f"{path}: {key}: missing.")
    if problems:
        raise ValueError("\n".join(problems))
    return Plan(raw["name"], raw["methods"], seeds or tuple(raw["seeds"]), (*raw.get("set", ()), *overrides))

"""Configurations and plans with keys, kinds, sizes and depths that nobody meant: the right values, or short sentences.

`make attack` makes 50 times as many as `make test`.
"""

from __future__ import annotations

import copy
import json
import random
import tomllib

import pytest
from _harness.attacks import changed, one_sentence, places, scale
from _harness.plans import TINY

from congruence.bench.planfile import load_plan
from congruence.config import load_config
from congruence.config.save import _value, resolved_toml

LONGEST = 300  # characters of a line, beside the file's path
RECIPES = ("digits/pkt", "digits/kda", "digits/crd", "digits/cckd", "cifar10/kd", "cub200/pkt")


class Deep(str):
    """TOML that stands for itself."""


def value(draws):
    """A value that may mean nothing at all."""
    depth = draws.choice((2, 25, 900, 3000))
    kinds = (
        lambda: draws.choice((0, 1, -1, 7, 10**9, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**18, 10**400)),
        lambda: draws.choice((0.0, -0.5, 1e308, -1e308, 1e-308, 5e-324, float("inf"), float("-inf"), float("nan"))),
        lambda: draws.choice(("", "x", "auto", "1", "a\0b", "[/x]", "\x1b[2J", "a\nb", "../x", "é" * 200, "x" * 5000)),
        lambda: draws.choice(("digits", "cnn3", "kd", "balanced", "sgd", "bf16", "cpu", "teacher", "student/x")),
        lambda: draws.choice((True, False, [], {}, [[]], [{}], {"": 1}, [1, "x"], {"key": "kd"}, [{"key": "kd"}])),
        lambda: draws.choice(("x" * 100_000, [0] * 5000, {str(number): number for number in range(3000)})),
        lambda: Deep("[" * depth + "]" * depth),
        lambda: Deep("{a=" * depth + "1" + "}" * depth),
        lambda: Deep("9" * draws.choice((19, 20, 400, 4301, 9000))),
        lambda: [value(draws) for _ in range(draws.randrange(3))],
        lambda: {draws.choice(("name", "key", "x", "a.b", "weight")): value(draws) for _ in range(draws.randrange(3))},
    )
    return draws.choice(kinds)()


def attacked(content, draws):
    """Change a few places of nested tables, or add to them."""
    for _ in range(draws.choice((1, 1, 1, 2, 4))):
        where = [path for path in places(content)]
        path = draws.choice(where)
        if draws.random() < 0.25:
            content = changed(content, path)
        elif draws.random() < 0.25:
            content = copy.deepcopy(content)
            inner = content
            for key in path[:-1]:
                inner = inner[key]
            if isinstance(inner, dict):
                inner[draws.choice(("x", "epochs", "name", "teacher", "weight", "a b", "é", "\x1b"))] = value(draws)
        else:
            content = changed(content, path, value(draws))
        if not content:
            break
    return content


def toml(content):
    """Write a table as TOML, inline."""

    def text(inner):
        if isinstance(inner, Deep):
            return str(inner)
        if isinstance(inner, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {text(item)}" for key, item in inner.items()) + "}"
        if isinstance(inner, list):
            return f"[{', '.join(map(text, inner))}]"
        return _value(inner)

    return "".join(f"{json.dumps(key)} = {text(item)}\n" for key, item in content.items())


def short(told, path):
    """Whether each line of what was told is as short as a person reads; the path's length is nobody's fault."""
    return all(len(line.replace(str(path), "")) <= LONGEST for text in told for line in text.split("\n"))


@pytest.mark.parametrize("name", RECIPES)
def test_configurations(name, tmp_path):
    draws, path, held = random.Random(name), tmp_path / "a.toml", 0
    content = tomllib.loads(resolved_toml(load_config(name)))
    for _ in range(7 * scale()):
        path.write_text(toml(attacked(content, draws)), encoding="utf8")
        with one_sentence(f"{path}: ", seconds=5) as told:
            config = load_config(path)
            (tmp_path / "again.toml").write_text(resolved_toml(config), encoding="utf8")
            assert repr(load_config(tmp_path / "again.toml")) == repr(config)
            held += 1
        assert short(told, path), told
    assert held < 7 * scale() or scale() == 1


def test_overrides():
    draws = random.Random("overrides")
    keys = [".".join(map(str, path)) for path in places(tomllib.loads(resolved_toml(load_config("digits/kda"))))]
    for _ in range(14 * scale()):
        key = draws.choice((*keys, "x", "", ".", "stages.x", "stages.student.terms.-1.key", "é", "\x1b", "x" * 5000))
        given = f"{key}{draws.choice(('=', '=', '=', ''))}{toml({'x': value(draws)})[6:-1]}"
        with one_sentence(seconds=5) as told:
            load_config("digits/kda", [given])
        assert short([line.partition(": ")[2] for text in told for line in text.split("\n")], "\0"), told


def test_plans(tmp_path):
    draws, path, held = random.Random("plans"), tmp_path / "a.toml", 0
    content = tomllib.loads(TINY) | {
        "variants": {"a": [], "b": ["stages.student.train.epochs=2"]},
        "seeds_of": {"b": [1, 2]},
        "overrides": {"kd": ["stages.student.terms.1.weight=2.0"], "ce-a": ["stages.student.train.batch_size=32"]},
        "tune": {"candidates": 9, "rungs": 2, "eta": 3, "seed": 9, "ranges": {"lr": [0.01, 0.1]}},
        "resources": {"cpus": 1},
        "baseline": "ce",
    }
    for _ in range(6 * scale()):
        path.write_text(toml(attacked(content, draws)), encoding="utf8")
        with one_sentence(seconds=10) as told:
            plan = load_plan(str(path))
            cells = plan.cells()
            assert len({cell.name.casefold() for cell in cells}) == len(cells) == plan.count()
            plan.trials()
            held += 1
        assert short(told, path), told
    assert held < 6 * scale() or scale() == 1

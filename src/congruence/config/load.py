"""Reading a configuration: files that extend others, overrides, and every error at once."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congruence.config.problems import ConfigError, expected, explain
from congruence.config.shipped import shipped

if TYPE_CHECKING:
    from pydantic import BaseModel

    from congruence.config.schema import RunConfig

Place = tuple[str, ...]
_LINE = re.compile(r"(.*) \(at line (\d+), column \d+\)", re.DOTALL)


def load_config(path_or_name: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        path_or_name: a TOML file, or the name of a shipped recipe such as "digits/pkt".
        overrides: "stages.student.train.epochs=3": a dotted key (an item of a list by its number) and a TOML value; a
            bare word is text.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: with a line for each thing that is wrong: the file (or the override), the key, what was expected,
            what was found, and near names.
        ValueError: where there is no such file or recipe.

    Example:
        >>> config = load_config("digits/pkt", ["stages.student.train.epochs=3"])
        >>> config.stages["student"].train.epochs, list(config.stages)
        (3, ['teacher', 'student'])
    """
    path = Path(path_or_name).expanduser()
    if not path.is_file():
        path = shipped("recipes", str(path_or_name))
    origins: dict[Place, str] = {}
    values = _read(path, (), origins)
    values.setdefault("name", f"{path.resolve().parent.name}/{path.stem}")
    return from_values(values, str(path), origins, overrides)


def from_values(
    values: Mapping[str, Any],
    source: str,
    origins: Mapping[Place, str] | None = None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Check a configuration given as plain values.

    Args:
        values: as TOML gives them.
        source: what to name in errors.
        origins: what to name instead for single keys.
        overrides: as of `load_config`.

    Raises:
        ConfigError: with a line for each thing that is wrong.
    """
    changed, named = copy.deepcopy(dict(values)), dict(origins or {})
    wrong = _override(changed, overrides, named)
    try:
        config = _checked(changed, source, named)
    except ConfigError as error:
        raise ConfigError([*wrong, *error.lines]) from None
    if wrong:
        raise ConfigError(wrong)
    return config


def _checked(values: Mapping[str, Any], source: str, origins: Mapping[Place, str]) -> RunConfig:
    from pydantic import ValidationError

    from congruence.config.schema import RunConfig, wrong_links

    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        found = [pair for problem in error.errors() for pair in explain(problem, _keys)]
        # The schema links stages only once each is right by itself.
        found += wrong_links(values.get("stages"))
        lines = [f"{_origin(key, origins, source)}: {key or 'file'}: {sentence}" for key, sentence in found]
        raise ConfigError(lines) from None


def _read(path: Path, above: tuple[Path, ...], origins: dict[Place, str]) -> dict[str, Any]:
    """Read a file and what it extends, the nearer one winning."""
    path = path.resolve()
    if path in above:
        chain = " extends ".join(f"'{file.name}'" for file in (*above[above.index(path) :], path))
        raise ConfigError([f"{above[-1]}: extends: expected a chain that ends, got {chain}."])
    try:
        values = tomllib.loads(path.read_text(encoding="utf8"))
    except tomllib.TOMLDecodeError as error:
        match = _LINE.fullmatch(str(error))
        where, what = (f"line {match[2]}", match[1]) if match else ("the file's end", str(error).split(" (at")[0])
        raise ConfigError([f"{path}: {where}: {what}."]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{path}: the file cannot be read: {reason}."]) from None
    base: dict[str, Any] = {}
    extends = values.pop("extends", None)
    if extends is not None:
        if not isinstance(extends, str) or not (path.parent / extends).is_file():
            raise ConfigError([f"{path}: extends: expected a file beside this one, got {extends!r}."])
        base = _read(path.parent / extends, (*above, path), origins)
    return _merge(base, values, str(path), origins, ())


def _merge(
    base: dict[str, Any], over: Mapping[str, Any], source: str, origins: dict[Place, str], place: Place
) -> dict[str, Any]:
    """Lay tables over each other key by key; lists and single values are replaced."""
    merged = dict(base)
    for key, value in over.items():
        here = (*place, key)
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, source, origins, here)
        else:
            merged[key] = _merge({}, value, source, origins, here) if isinstance(value, dict) else value
            origins[here] = source
    return merged


def _override(values: dict[str, Any], overrides: Iterable[str], origins: dict[Place, str]) -> list[str]:
    """Apply overrides; return a line for each that cannot be."""
    problems = []
    for text in overrides:
        key, equals, written = text.partition("=")
        place = tuple(key.strip().split("."))
        if not equals or not all(place):
            problems.append(f"--set {text}: expected key=value, got {text!r}.")
            continue
        problem = _set(values, place, _value(written.strip()))
        if problem:
            problems.append(f"--set {text}: {key.strip()}: {problem}")
        origins[place] = f"--set {text}"
    return problems


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(values: dict[str, Any], place: Place, value: Any) -> str | None:
    """Set a value below tables and lists; return what is wrong with the key."""
    if place[0] == "stages" and len(place) > 1:
        stages = values.get("stages", {})
        if isinstance(stages, dict) and place[1] not in stages:
            return expected(stages, place[1], what="a stage of the file: ")
    at: Any = values
    for position, key in enumerate(place):
        last = position == len(place) - 1
        if isinstance(at, list):
            if not key.isdigit() or int(key) >= len(at):
                return f"expected an item from 0 to {len(at) - 1} of the list, got {key!r}."
            if last:
                at[int(key)] = value
            else:
                at = at[int(key)]
        elif not isinstance(at, dict):
            return f"expected a table at '{'.'.join(place[:position])}', got {at!r}."
        elif last:
            at[key] = value
        else:
            at = at.setdefault(key, {})
    return None


def _origin(key: str, origins: Mapping[Place, str], source: str) -> str:
    """Return what set a key, or else the nearest table around it."""
    place = tuple(key.split("."))
    for end in range(len(place), 0, -1):
        if place[:end] in origins:
            return origins[place[:end]]
    return source


def _keys(place: Place) -> Iterable[str]:
    """Return the keys that the table at a location of the schema may have."""
    from congruence.config import diagnostics, schema, training
    from congruence.config import tables as parts

    tables: dict[Place, type[BaseModel]] = {
        (): schema.RunConfig,
        ("data",): parts.DataConfig,
        ("diagnostics",): diagnostics.DiagnosticsConfig,
        ("stages", "*"): schema.StageConfig,
        ("stages", "*", "train"): training.TrainConfig,
        ("stages", "*", "train", "optimizer"): training.OptimizerConfig,
        ("stages", "*", "train", "schedule"): training.ScheduleConfig,
        ("stages", "*", "train", "augment"): training.AugmentConfig,
        ("stages", "*", "train", "sampler"): training.SamplerConfig,
        ("stages", "*", "teacher_head"): parts.HeadConfig,
        ("stages", "*", "teacher_cache"): parts.CacheConfig,
    }
    if place and place[-1] == "@photo":
        return tuple(training.PhotoAugmentConfig.model_fields)
    plain = tuple("*" if position == 1 else part for position, part in enumerate(place) if not part.startswith("@"))
    return tuple(tables.get(plain, parts.ModelConfig).model_fields)

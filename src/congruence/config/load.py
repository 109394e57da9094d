"""`load_config` and `from_values`: TOML files that extend others, then overrides, checked with every error at once."""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congruence.config.problems import ConfigError, expected, explain
from congruence.config.shipped import names, shipped
from congruence.config.sizes import DEEPEST, problems
from congruence.core import check
from congruence.core.brevity import brief, cut

if TYPE_CHECKING:
    from pydantic import BaseModel

    from congruence.config.schema import RunConfig


class NotTomlError(ValueError):
    """A text is no TOML; the message says where, and what is wrong there."""


class TooLargeError(NotTomlError):
    """A text is deeper, or has longer numbers, than Python's reader takes."""


KeyPath = tuple[str, ...]  # ("stages", "student", "train"): keys from the root of the file inward
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
            what is there, and near names.
        ValueError: where there is no such file or recipe.

    Example:
        >>> config = load_config("digits/pkt", ["stages.student.train.epochs=3"])
        >>> config.stages["student"].train.epochs, list(config.stages)
        (3, ['teacher', 'student'])
    """
    path = Path(path_or_name).expanduser()
    if not os.path.isfile(path):
        path = shipped("recipes", str(path_or_name))
    origins: dict[KeyPath, str] = {}
    values = _read(path, (), origins)
    values.setdefault("name", f"{path.resolve().parent.name}/{path.stem}")
    return from_values(values, str(path), origins, overrides)


def from_values(
    values: Mapping[str, Any],
    source: str,
    origins: Mapping[KeyPath, str] | None = None,
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
    check_sizes(values, source, origins or {})
    changed, named = copy.deepcopy(dict(values)), dict(origins or {})
    wrong = _override(changed, overrides, named)
    check_sizes(changed, source, named)
    try:
        config = _checked(changed, source, named)
    except ConfigError as error:
        raise ConfigError([*wrong, *error.lines]) from None
    if wrong:
        raise ConfigError(wrong)
    return config


def check_sizes(values: Any, source: str, origins: Mapping[KeyPath, str]) -> None:
    """Refuse what is too large to mean anything, before it is looked at closely."""
    lines = [f"{_origin(key, origins, source)}: {key or 'file'}: {sentence}" for key, sentence in problems(values)]
    if lines:
        raise ConfigError(lines)


def _checked(values: Mapping[str, Any], source: str, origins: Mapping[KeyPath, str]) -> RunConfig:
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


def _read(path: Path, above: tuple[Path, ...], origins: dict[KeyPath, str]) -> dict[str, Any]:
    """Read a file and what it extends, the nearer one winning."""
    path = path.resolve()
    if path in above:
        chain = " extends ".join(f"'{file.name}'" for file in (*above[above.index(path) :], path))
        raise ConfigError([f"{above[-1]}: extends: expected a chain that ends, got {chain}."])
    try:
        values = parsed(path.read_text(encoding="utf8"))
    except NotTomlError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {unread(error)}"]) from None
    base: dict[str, Any] = {}
    extends = values.pop("extends", None)
    if extends is not None:
        base = _read(_extended(path, extends), (*above, path), origins)
    return _merge(base, values, str(path), origins, ())


def _extended(path: Path, extends: Any) -> Path:
    """Return the file that a file extends: one beside it, or a shipped recipe by its name."""
    if isinstance(extends, str) and os.path.isfile(path.parent / extends):
        return path.parent / extends
    if extends in names("recipes"):
        return shipped("recipes", extends)
    told = f"expected a file beside this one, or a shipped recipe, got {brief(extends)}."
    raise ConfigError([f"{path}: extends: {told}{check.near(str(extends), names('recipes'))}"])


def unread(error: OSError | UnicodeDecodeError) -> str:
    """Say why a file cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    return f"the file cannot be read: {reason}."


def parsed(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        NotTomlError: "line 3: ...", also for what Python's reader gives up on.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _LINE.fullmatch(str(error))
        where, what = (f"line {match[2]}", match[1]) if match else ("the file's end", str(error).split(" (at")[0])
        raise NotTomlError(f"{where}: {cut(what)}.") from None
    except RecursionError:
        raise TooLargeError(f"expected tables and lists at most {DEEPEST} deep in each other.") from None
    except ValueError:  # Python reads no longer ones
        raise TooLargeError("expected numbers of at most 19 digits, got one of more than 4,300.") from None


def _merge(
    base: dict[str, Any], over: Mapping[str, Any], source: str, origins: dict[KeyPath, str], table: KeyPath
) -> dict[str, Any]:
    """Lay tables over each other key by key; lists and single values are replaced."""
    merged = dict(base)
    for key, value in over.items():
        key_path = (*table, key)
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, source, origins, key_path)
        else:
            merged[key] = _merge({}, value, source, origins, key_path) if isinstance(value, dict) else value
            origins[key_path] = source
    return merged


def _override(values: dict[str, Any], overrides: Iterable[str], origins: dict[KeyPath, str]) -> list[str]:
    """Apply overrides; return a line for each that cannot be."""
    wrong = []
    for text in overrides:
        shown = cut(text)
        key, equals, written = text.partition("=")
        key_path = tuple(key.strip().split("."))
        if not equals or not all(key_path):
            wrong.append(f"--set {shown}: expected key=value, got {brief(text)}.")
            continue
        try:
            problem = _set(values, key_path, _value(written.strip()))
        except TooLargeError as error:
            problem = str(error)
        if problem:
            wrong.append(f"--set {shown}: {cut(key.strip())}: {problem}")
        origins[key_path] = f"--set {shown}"
    return wrong


def _value(text: str) -> Any:
    try:
        return parsed(f"value = {text}")["value"]
    except TooLargeError:
        raise
    except NotTomlError:
        return text


def _set(values: dict[str, Any], key_path: KeyPath, value: Any) -> str | None:
    """Set a value below tables and lists; return what is wrong with the key."""
    if key_path[0] == "stages" and len(key_path) > 1:
        stages = values.get("stages", {})
        if isinstance(stages, dict) and key_path[1] not in stages:
            return expected(stages, key_path[1], what="a stage of the file: ")
    container: Any = values
    for depth, key in enumerate(key_path):
        last = depth == len(key_path) - 1
        if isinstance(container, list):
            if not key.isdigit() or int(key) >= len(container):
                return f"expected an item from 0 to {len(container) - 1} of the list, got {brief(key)}."
            if last:
                container[int(key)] = value
            else:
                container = container[int(key)]
        elif not isinstance(container, dict):
            return f"expected a table at '{'.'.join(key_path[:depth])}', got {brief(container)}."
        elif last:
            container[key] = value
        else:
            container = container.setdefault(key, {})
    return None


def _origin(key: str, origins: Mapping[KeyPath, str], source: str) -> str:
    """Return what set a key, or else the nearest table around it."""
    key_path = tuple(key.split("."))
    for end in range(len(key_path), 0, -1):
        if key_path[:end] in origins:
            return origins[key_path[:end]]
    return source


def _keys(table: KeyPath) -> Iterable[str]:
    """Return the keys that the table at a location of the schema may have."""
    from congruence.config import diagnostics, protocol, schema, training
    from congruence.config import tables as parts

    tables: dict[KeyPath, type[BaseModel]] = {
        (): schema.RunConfig,
        ("data",): parts.DataConfig,
        ("diagnostics",): diagnostics.DiagnosticsConfig,
        ("protocol",): protocol.ProtocolConfig,
        ("stages", "*"): schema.StageConfig,
        ("stages", "*", "train"): training.TrainConfig,
        ("stages", "*", "train", "optimizer"): training.OptimizerConfig,
        ("stages", "*", "train", "schedule"): training.ScheduleConfig,
        ("stages", "*", "train", "augment"): training.AugmentConfig,
        ("stages", "*", "train", "sampler"): training.SamplerConfig,
        ("stages", "*", "teacher_head"): parts.HeadConfig,
        ("stages", "*", "teacher_head", "*"): parts.HeadConfig,
        ("stages", "*", "teacher_cache"): parts.CacheConfig,
    }
    if table and table[-1] == "@photo":
        return tuple(training.PhotoAugmentConfig.model_fields)
    if table and table[-1] == "inputs" and len(table) > 3:
        return tuple(parts.InputsConfig.model_fields)
    schema_path = tuple("*" if depth == 1 else part for depth, part in enumerate(table) if not part.startswith("@"))
    return tuple(tables.get(schema_path, parts.ModelConfig).model_fields)

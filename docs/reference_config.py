"""The page of the configuration, from the tables in `congruence.config`: `docs/update_reference.py` writes it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
from prose import arguments, head, paragraphs, sentence, table
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from congruence import FitOptions, OptimizerOptions, ScheduleOptions, Term
from congruence.config.diagnostics import DiagnosticsConfig
from congruence.config.protocol import ProtocolConfig
from congruence.config.schema import RunConfig
from congruence.config.tables import DataConfig, TermConfig
from congruence.config.training import (
    AugmentConfig,
    OptimizerConfig,
    PhotoAugmentConfig,
    ScheduleConfig,
    TrainConfig,
)
from congruence.data import Augment, PhotoAugment, load
from congruence.evaluation import Diagnostics
from congruence.evaluation.protocols import KINDS

Model = type[pydantic.BaseModel]
# Whose docstring says what a key means that the table itself does not say.
SAME_AS: dict[Model, tuple[Any, ...]] = {
    AugmentConfig: (Augment,),
    DataConfig: (load,),
    DiagnosticsConfig: (Diagnostics,),
    OptimizerConfig: (OptimizerOptions,),
    PhotoAugmentConfig: (PhotoAugment,),
    ProtocolConfig: (),  # see `_of_protocols`
    ScheduleConfig: (ScheduleOptions,),
    TermConfig: (Term,),
    TrainConfig: (FitOptions,),
}
_PLAIN = {bool: "true or false", int: "integer", float: "number", str: "text"}
# What must stand beside a key for its values to be looked at.
_BESIDE: dict[Model, dict[str, Any]] = {TermConfig: {"key": "pkt"}}
_WRONG = (-1, [-1.0, -2.0])
# Of two tables at one path.
_KINDS: dict[Model, str] = {AugmentConfig: " of small images", PhotoAugmentConfig: " of photographs"}
_INTRODUCTION = """# Configuration

A configuration is a TOML file; `congruence distill FILE` runs it. This page lists every table and every key. A key
whose default is "needed" must be given. Unknown keys are refused with the near names, and everything that is wrong is
said at once. Where a meaning speaks of None, the key is left out: TOML has no such value.

`--set stages.student.train.epochs=3` on the command line overrides one value: the path is the table's name here, a dot
and the key, with the stage's own name in the place of `NAME`. Paths of files and folders are relative to the working
directory, that of `extends` to the file's own folder.

```toml
[data]
name = "digits"

[stages.teacher]
student = { model = "resnet20" }
terms = [{ key = "ce" }]
train = { epochs = 15, augment = true, optimizer = { lr = 0.1 } }

[stages.student]
teacher = "teacher"
labels_per_class = 10
student = { model = "cnn3" }
terms = [{ key = "ce" }, { key = "pkt", weight = "balanced" }]
train = { epochs = 40, augment = true, optimizer = { name = "adamw", lr = 0.003 } }
```
"""


class Place(NamedTuple):
    """A table and the paths at which it stands in a file."""

    model: Model
    paths: list[str]


def page() -> str:
    """Return the page."""
    return "\n".join([_INTRODUCTION, *(_section(place) for place in places())])


def places() -> list[Place]:
    """Return the tables of a file, each once, in the order in which they are met."""
    found: dict[Model, list[str]] = {RunConfig: [""]}
    waiting: list[tuple[Model, str]] = [(RunConfig, "")]
    while waiting:
        model, path = waiting.pop(0)
        for key, field in model.model_fields.items():
            for inner in _tables(field.annotation):
                name = "stages.NAME" if key == "stages" else f"{path}.{key}".lstrip(".")
                name = f"[{name}]" if inner is TermConfig else name
                if inner not in found:
                    waiting.append((inner, name))
                paths = found.setdefault(inner, [])
                paths += [name] * (name not in paths)
    return [Place(model, paths) for model, paths in found.items()]


def meanings(model: Model) -> dict[str, str]:
    """Return what each key means, "" where nothing says it."""
    same = [arguments(other) for other in SAME_AS.get(model, ())]
    said = {key: value for each in reversed(same) for key, value in each.items()}
    said = {**(_of_protocols() if model is ProtocolConfig else said), **arguments(model)}
    return {key: said.get(key, "") for key in model.model_fields}


def allowed(model: Model, key: str) -> str:
    """Say which values a key takes: what the error of a wrong one says is expected, else what its type says."""
    field = model.model_fields[key]
    return _expected(model, key) or _words(field.annotation, field.metadata)


def default(field: FieldInfo) -> str:
    """Write a default; "none" where the key may be left out without one."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, pydantic.BaseModel | dict):
        return "that of its keys" if isinstance(value, pydantic.BaseModel) else "`{}`"
    if isinstance(value, tuple):
        value = list(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _section(place: Place) -> str:
    model, paths = place
    more = [f"Also: {', '.join(f'`[{path}]`' for path in paths[1:])}."] if paths[1:] else []
    said = meanings(model)
    rows = [
        [f"`{key}`", allowed(model, key), default(field), sentence(said[key], key)]
        for key, field in model.model_fields.items()
    ]
    about = head(model)
    if re.fullmatch(r"`[\w.]+`\.", about):  # which says where the rest is
        about = "\n\n".join([head(SAME_AS[model][0]), f"In Python: {about}"])
    parts = [f"## {_title(model, paths[0])}", paragraphs(about), *more]
    return "\n\n".join([*parts, table(["key", "values", "default", "meaning"], rows)]) + "\n"


def _title(model: Model, path: str) -> str:
    title = f"`[{path}]`" if path else "The file"
    return title + _KINDS.get(model, "")


def _anchor(model: Model) -> str:
    path = next(place.paths[0] for place in places() if place.model is model)
    return re.sub(r"[^\w\s-]", "", _title(model, path)).lower().replace(" ", "-")


def _of_protocols() -> dict[str, str]:
    said: dict[str, dict[str, list[str]]] = {}
    for kind, protocol in KINDS.items():
        for key, meaning in arguments(protocol).items():
            said.setdefault(key, {}).setdefault(meaning, []).append(f'"{kind}"')
    return {
        key: " ".join(f"Of {' and '.join(kinds)}: {meaning}" for meaning, kinds in each.items())
        for key, each in said.items()
    }


def _expected(model: Model, key: str) -> str:
    """Return what the library's own sentence about a wrong value says of the right ones, "" where it has none."""
    for wrong in _WRONG:
        beside = {"weight": "balanced"} if key == "share" else {}
        try:
            model.model_validate({**_BESIDE.get(model, {}), **beside, key: wrong})
        except pydantic.ValidationError as error:
            told = " ".join(str(each.get("ctx", {}).get("error", "")) for each in error.errors())
            if match := re.search(rf"`{key}` must be (.+?), got ", told):
                text = match[1].replace(">=", "≥").replace("<=", "≤").removesuffix(" or None")
                text = re.sub(r", or False$|, False or|\bor False$", lambda m: m[0].replace("False", "false"), text)
                text = re.sub(r"'([^' ]+)'", r'`"\1"`', text.replace("True", "true"))
                return re.sub(r"^an? (?=number|integer)", "", text)
    return ""


def _words(annotation: Any, metadata: list[Any] | None = None) -> str:
    """Write a type as one reads it in a file."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _words(inner[0], [*(metadata or []), *_flat(inner[1:])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(each) for each in inner if each is not type(None)))
    if origin is Literal:
        return " or ".join(f'`"{each}"`' if isinstance(each, str) else f"`{each}`" for each in inner)
    if origin is tuple:
        return f"list of {'numbers' if inner[-1] is ... else f'{len(inner)} {_plural(inner[0])}'}"
    if origin is list:
        return f"list of {_plural(inner[0])}"
    if origin is dict:
        return "table" if inner[1] is Any else f"table of {_plural(inner[1])} by name"
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return f"[table](#{_anchor(annotation)})"
    bounds = [f" {sign} {getattr(each, of)}" for each in metadata or [] for of, sign in _SIGNS if hasattr(each, of)]
    return _PLAIN.get(annotation, "any value") + "".join(bounds)


_SIGNS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def _plural(annotation: Any) -> str:
    words = _words(annotation)
    linked = re.sub(r"\[table\]", "[tables]", words)
    return linked if linked != words else re.sub(r"^(integer|number|text)", r"\1s", words)


def _flat(metadata: tuple[Any, ...]) -> Iterator[Any]:
    for each in metadata:
        yield from each.metadata if isinstance(each, FieldInfo) else [each]


def _tables(annotation: Any) -> Iterator[Model]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    else:
        for inner in typing.get_args(annotation):
            yield from _tables(inner)

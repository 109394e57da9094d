"""The model card of an export: README.md in the hub's format, written from what is known."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from congruence.core.files import naming
from congruence.evaluation.exporting.formats import LIBRARIES

_LIBRARY = {**LIBRARIES, "onnx": "onnx"}
_UNKNOWN = "unknown"
_SHOWN = {
    "accuracy": "accuracy",
    "retrieval_map": "retrieval mAP",
    "gpcl": "coherence with the teacher (GPCL)",
    "agreement": "agreement with the teacher",
}
_PLAIN = re.compile(r"[A-Za-z][\w .+-]*")


@dataclass(frozen=True)
class CardFacts:
    """Facts for a model card besides those of the export; any may be unknown.


    Args:
        name: the model's name.
        student: description of the model.
        teachers: descriptions of its teachers.
        terms: (key, weight, hyper-parameters) of each term.
        training: facts of the training, by name.
        data: the name of the data.
        measured: test numbers by name, one list entry for each seed; the first is this run's.
        teacher_numbers: the teacher's test numbers.
        license: the model's licence.
        teacher_license: the teacher's licence.
    """

    name: str = "student"
    student: str = ""
    teachers: tuple[str, ...] = ()
    terms: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    measured: Mapping[str, Sequence[float]] = field(default_factory=dict)
    teacher_numbers: Mapping[str, float] = field(default_factory=dict)
    license: str | None = None
    teacher_license: str | None = None


def spread(values: Sequence[float]) -> str:
    """Write a number, with its deviation over runs where there are several.

    Example:
        >>> spread([0.5]), spread([0.5, 0.6, 0.7])
        ('0.5000', '0.6000 ± 0.1000 (3 runs)')
    """
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f} ({len(values)} runs)"


def write_card(path: Path, facts: CardFacts, exported: Mapping[str, Any]) -> None:
    """Write a card.

    Args:
        path: of the file.
        facts: of the run.
        exported: what model.json says.
    """
    parts = [_head(facts, exported), f"# {facts.name}", _what(facts, exported), _files(exported)]
    parts += [_how(facts), _numbers(facts, exported), _input(exported), _licences(facts)]
    with naming(path):
        path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf8")


def _head(facts: CardFacts, exported: Mapping[str, Any]) -> str:
    images = len(exported.get("shape", ())) == 3
    tags = ["knowledge-distillation", "congruence", *(["image-classification"] if images and facts.measured else [])]
    lines = ["---", f"license: {_yaml(facts.license or _UNKNOWN)}"]
    lines.append(f"library_name: {_LIBRARY.get(exported['export']['to'], 'pytorch')}")
    lines += _listed("tags", tags)
    lines += _listed("metrics", [key for key in ("accuracy",) if key in facts.measured])
    lines += _listed("datasets", [facts.data] if facts.data else [])
    return "\n".join([*lines, "---"])


def _listed(key: str, values: Iterable[str]) -> list[str]:
    values = list(values)
    return [f"{key}:", *(f"- {_yaml(value)}" for value in values)] if values else []


def _yaml(text: str) -> str:
    """Write text as YAML reads it back: as it is where it is plain words, else in quotes."""
    plain = _PLAIN.fullmatch(text) and text.strip() == text
    return (
        text if plain and text.lower() not in ("yes", "no", "on", "off", "true", "false", "null") else json.dumps(text)
    )


def _what(facts: CardFacts, exported: Mapping[str, Any]) -> str:
    student = facts.student or "A student"
    text = f"{student[0].upper()}{student[1:]} with {exported['parameters']:,} parameters"
    if facts.teachers:
        text += f", distilled from {' and '.join(facts.teachers)}"
    return text + (f", trained on {facts.data}." if facts.data else ".")


def _files(exported: Mapping[str, Any]) -> str:
    of = exported["export"]
    lines = ["## Files", "", f"Exported to {of['to']} in {of['precision']}:", ""]
    lines += [f"- `{name}`" for name in of["files"]]
    outputs = ", ".join(f"`{each['name']}` {_shape(each['shape'])}" for each in of.get("outputs", ()))
    if outputs:
        inputs = ", ".join(f"`{each['name']}` {each['dtype']} {_shape(each['shape'])}" for each in of["inputs"])
        lines += ["", f"It takes {inputs} and gives {outputs}."]
    return "\n".join(lines)


def _shape(shape: Iterable[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _how(facts: CardFacts) -> str:
    if not facts.terms:
        return ""
    lines = ["## How it was trained", "", "| term | weight | hyper-parameters |", "|---|---|---|"]
    for key, weight, options in facts.terms:
        lines.append(f"| {key} | {weight} | {', '.join(f'{k} = {v}' for k, v in options.items()) or '-'} |")
    said = ", ".join(f"{key} {value}" for key, value in facts.training.items())
    return "\n".join([*lines, *(["", f"Training: {said}."] if said else [])])


def _numbers(facts: CardFacts, exported: Mapping[str, Any]) -> str:
    lines = []
    if facts.measured:
        lines += ["## Numbers", "", "Measured on the test data.", "", "| number | student | teacher |", "|---|---|---|"]
        for key, values in facts.measured.items():
            teacher = facts.teacher_numbers.get(key)
            told = "-" if teacher is None else f"{teacher:.4f}"
            lines.append(f"| {_SHOWN.get(key, key)} | {spread(values)} | {told} |")
    of = exported["export"]
    for title, checked in (("The file", of.get("check")), ("The int8 file", of.get("int8"))):
        if checked:
            lines += ["", *([] if lines else ["## Numbers", ""]), f"{title} beside the model: {told_of(checked)}."]
    return "\n".join(lines).strip()


def told_of(checked: Mapping[str, Any]) -> str:
    """Describe the result of a comparison in a clause.

    Example:
        >>> told_of({"on": "the test data", "samples": 9, "largest_difference": {"logits": 1e-6}, "agreement": 1.0})
        'largest difference 1e-06 (logits), agreement 1.0000, on 9 samples of the test data'
    """
    apart = ", ".join(f"{value:.2g} ({name})" for name, value in checked["largest_difference"].items())
    parts = [f"largest difference {apart}"] if apart else []
    if checked.get("agreement") is not None:
        parts.append(f"agreement {checked['agreement']:.4f}")
    if checked.get("accuracy") is not None:
        parts.append(f"accuracy {checked['exported_accuracy']:.4f} (the model's {checked['accuracy']:.4f})")
    how = f" ({checked['how']})" if checked.get("how") else ""
    return f"{', '.join(parts)}, on {checked['samples']} samples of {checked['on']}{how}"


def _input(exported: Mapping[str, Any]) -> str:
    if "mean" not in exported or len(exported.get("shape", ())) != 3:
        return ""
    channels, height, width = exported["shape"]
    lines = ["## Input", "", f"Images with {channels} channel{'s' if channels > 1 else ''}, "]
    lines[-1] += (
        f"{_resized(exported, (height, width))}. The input is the image, scaled to [0, 1]: (image − mean) / std,"
    )
    lines[-1] += f" with mean {exported['mean']} and std {exported['std']}."
    if exported.get("class_names"):
        names = ", ".join(exported["class_names"][:20])
        lines += ["", f"Classes in the order of the outputs: {names}{' …' if exported['classes'] > 20 else ''}."]
    return "\n".join(lines)


def _resized(exported: Mapping[str, Any], size: tuple[int, int]) -> str:
    """Describe how an image of another size is brought to (height, width)."""
    resize = exported.get("resize")
    by = f"({exported['interpolation']})"
    if isinstance(resize, int):
        first = f"resized to {resize} on the shorter side {by}"
    elif resize is not None:
        first = f"resized to {resize[0]}×{resize[1]} {by}"
    else:
        first = f"if of another size, resized to cover {size[0]}×{size[1]} as closely as the ratio allows {by}"
    return f"{first}, then cropped at the centre to {size[0]}×{size[1]}"


def _licences(facts: CardFacts) -> str:
    lines = ["## Licence", ""]
    own = f"This model: {facts.license}." if facts.license else "The licence of this model was not given."
    if not facts.teachers and facts.teacher_license is None:
        more = "" if facts.license else " It must be looked up before the model is shared."
        return "\n".join([*lines, own + more])
    theirs = (
        f"Its teacher: {facts.teacher_license}."
        if facts.teacher_license
        else "The teacher's licence was not given: it must be looked up before this model is shared."
    )
    follows = "Some licences bind models that were trained on a teacher's outputs, too."
    return "\n".join([*lines, f"{own} {theirs} {follows}"])

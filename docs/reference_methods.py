"""The page of methods, from the catalogue: `docs/update_reference.py` writes it."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from generated import ROOT
from prose import arguments, markdown, paragraphs, sentence, table

from congruence.cli.methods import formulas, home, needed
from congruence.methods import Row
from congruence.methods.rows_compared import COMPARED
from congruence.methods.rows_founding import FOUNDING
from congruence.methods.rows_modern import MODERN
from congruence.methods.rows_recent import RECENT

GROUPS = {
    "The five founding papers": FOUNDING,
    "Objectives and methods that these papers compare with": COMPARED,
    "Logits, maps and embeddings since 2021": RECENT,
    "Tokens, queues and sentences": MODERN,
}
_INTRODUCTION = """# Methods

Each method is one row of the catalogue, with a key. `congruence methods` lists the keys, and `congruence methods KEY`
prints what stands here. A term of the objective is one method with its weight and its layers:

```python
import congruence as cg

terms = [cg.Term("ce"), cg.Term("pkt", weight="balanced")]
```

```toml
terms = [{ key = "ce" }, { key = "pkt", weight = "balanced" }]
```

Without `weight` a term has its **published weight**, which belongs to the networks, the batch size and the optimizer of
the paper. `weight = "balanced"` measures one while the student trains
([balanced weights](../guide/balanced-weights.md)).

The column *labels* says what the labels are to a method. *read*: its loss reads them. *beside*: it matches
distributions whatever the classes are, so that it needs a loss of labels beside it, for most samples.

A year is that of publication, or that of the preprint where there is no other. A few methods have no paper that is
linked here: they are written from a definition, or from the public documentation of a library.
"""
_LABELS = {
    "read": "read by the loss",
    "beside": "not read, but wanted beside it, for most samples, by another term",
    "": "not needed",
}
_SCHEDULE = ("start_epoch", "stop_epoch", "warmup_epochs", "decay", "cosine_from")
_ADDRESS = re.compile(r"(?:, )?(https?://\S+)")


def page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION]
    for title, rows in GROUPS.items():
        parts += [f"## {title}\n", overview(rows) + "\n", *map(card, rows)]
    return "\n".join(parts)


def overview(rows: tuple[Row, ...]) -> str:
    """Return the short table of some rows."""
    cells = [[f"[`{r.key}`](#{r.key})", markdown(r.summary), r.labels, _year(r)] for r in rows]
    return table(["key", "what is transferred", "labels", "year"], cells)


def card(row: Row) -> str:
    """Return all about a row."""
    name = f"{home(row.function)}.{row.function.__name__}"
    facts = {
        "Paper": paper(row),
        "Function": f"[`{name}`](api/losses.md#{name})" if name.startswith("congruence.losses.") else f"`{name}`",
        "Needs": markdown(needed(row)),
        "Labels": _LABELS[row.labels],
        "Published weight": weight(row.weight),
        "In Python": f'`cg.Term("{row.key}")`',
        "In a configuration": f'`{{ key = "{row.key}" }}`',
        "Shipped recipes": recipes(row.key),
    }
    listed = "\n".join(f"- **{title}:** {text}" for title, text in facts.items() if text)
    parts = [f"### {row.key}", markdown(row.summary), listed, paragraphs(formulas(row)), hyperparameters(row)]
    return "\n\n".join(filter(None, parts)) + "\n"


def paper(row: Row) -> str:
    """Return the reference with its links."""
    text = _ADDRESS.sub("", row.reference)
    code = [f"[code]({address})" for address in _ADDRESS.findall(row.reference)]
    linked = f"[{markdown(text)}]({row.link})" if row.link else markdown(text)
    year = [_year(row)] if row.year and str(row.year) not in text else []
    return ", ".join([linked, *year, *code])


def weight(value: float | Mapping[str, float]) -> str:
    """Write a weight, or that of each part."""
    parts = value.items() if isinstance(value, Mapping) else [("", value)]
    return ", ".join(f"{f'`{part}`' if part else ''} {number:g}".strip() for part, number in parts)


def recipes(key: str) -> str:
    """Say which recipe of each dataset has the method's name, and which schedule its term has there."""
    found = []
    for path in sorted((ROOT / "recipes").glob(f"*/{key}.toml")):
        stages = tomllib.loads(path.read_text(encoding="utf8")).get("stages", {})
        terms = [term for stage in stages.values() for term in stage.get("terms", []) if term["key"] == key]
        course = {name: term[name] for term in terms for name in _SCHEDULE if name in term}
        said = ", ".join(f"`{name} = {value}`" for name, value in course.items())
        found.append(f"`{path.parent.name}/{key}`" + (f" ({said})" if said else ""))
    return ", ".join(found)


def hyperparameters(row: Row) -> str:
    """Return the table of hyper-parameters, with what the docstrings say of each."""
    meanings = meaning_of_each(row)
    rows = [[f"`{n}`", default(value), sentence(meanings[n], n)] for n, value in row.defaults().items()]
    return table(["hyper-parameter", "default", "meaning"], rows) if rows else ""


def meaning_of_each(row: Row) -> dict[str, str]:
    """Return what each hyper-parameter means: as the method says, else as its function does."""
    said = {**arguments(row.function), **arguments(row.part), **arguments(row.part.__init__)}
    return {name: said.get(name, "") for name in row.defaults()}


def default(value: Any) -> str:
    """Write a default."""
    return "needed" if value is inspect.Parameter.empty else f"`{value!r}`"


def _year(row: Row) -> str:
    return str(row.year) if row.year else ""

"""The page of the zoo's networks, with what each costs: `docs/update_reference.py` writes it."""

from __future__ import annotations

import torch
from prose import markdown, table
from torch.utils.flop_counter import FlopCounterMode

import congruence as cg

CLASSES, SIDE = 10, 32

_INTRODUCTION = f"""# Networks of the zoo

`--student NAME`, `model = "NAME"` in a configuration, or `cg.models.build("NAME", classes={CLASSES})`. Their weights
are random: they are students to be trained, or teachers whose weights you have. Parameters are those with {CLASSES}
classes, multiply-adds those of one image of {SIDE} × {SIDE} pixels in three channels. What a model of yours costs is
told by `congruence compare` ([comparing](../guide/comparing.md)).
"""


def page() -> str:
    """Return the page."""
    head, rows = ["network", "parameters", "multiply-adds", "options", "what it is"], []
    for name, entry in cg.models.ZOO.items():
        parameters, multiply_adds = size(name)
        options = ", ".join(f"`{option}`" for option in entry.options)
        rows.append([f"`{name}`", f"{parameters:,}", millions(multiply_adds), options, markdown(entry.description)])
    return f"{_INTRODUCTION}\n{table(head, rows)}\n"


def size(name: str) -> tuple[int, int]:
    """Return a network's parameters and the multiply-adds of one image, without memory for either."""
    with torch.device("meta"):
        network = cg.models.build(name, classes=CLASSES).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, SIDE, SIDE))
    return cg.models.count_parameters(network), counter.get_total_flops() // 2


def millions(count: int) -> str:
    """Return a count in millions, to three digits.

    Example:
        >>> millions(1_234_567), millions(41_000_000)
        ('1.23 M', '41 M')
    """
    return f"{count / 1e6:.3g} M" if count < 1e9 else f"{count / 1e6:,.0f} M"

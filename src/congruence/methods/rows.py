"""A row of the catalogue: what a method is called, what it is made of, and what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from congruence.core import check
from congruence.methods.loss_method import LossMethod
from congruence.methods.method import Method, Needs

FEATURES = Needs()


@dataclass(frozen=True)
class Row:
    """One method of the catalogue.

    Args:
        key: by which users name it.
        summary: one line.
        reference: the paper, with equation numbers.
        part: the class whose keyword arguments are the hyper-parameters: a loss module, or a `Method`.
        function: the public function (or `Method`) whose docstring holds the formula.
        needs: of the method.
        weight: the published default weight, for each part where there are several.
        share: of a balanced weight, by default (see `Term`).
        project: for a loss module, whether a trained linear map (on maps a convolution) makes the student's width the
            teacher's.
        labels_of_each: for a loss module, whether it takes labels of both sides; the batch's serve for each.
        listed: for a loss module, whether it takes all layers of a side as one list.
        blind: whether it matches distributions whatever the samples' classes. It makes sense beside the labels of most
            samples: where few have one the student is worse for it.
        part_aliases: names that parts of the weight had in older versions, each with the part that it means.
        older: what a run of an older version meant by words that mean something else today: for a hyper-parameter, from
            its value (None where it was not given) to today's word for the same.
        year: in which the paper came out, as `reference` has it; of a preprint alone, that of the preprint.
        link: to the paper.
    """

    key: str
    summary: str
    reference: str
    part: type[nn.Module]
    function: Callable[..., Any]
    needs: Needs = FEATURES
    weight: float | Mapping[str, float] = 1.0
    share: float = 1.0
    project: bool = False
    labels_of_each: bool = False
    listed: bool = False
    blind: bool = False
    part_aliases: Mapping[str, str] = field(default_factory=dict)
    older: Mapping[str, Mapping[str | None, str]] = field(default_factory=dict)
    year: int | None = None
    link: str = ""

    @property
    def labels(self) -> str:
        """What labels are to the row: "read" by its loss, wanted "beside" it (see `blind`), or "" where it needs none.

        Example:
            >>> from congruence.methods import row
            >>> row("class_wasserstein").labels, row("wasserstein").labels, row("pkt").labels
            ('read', 'beside', '')
        """
        return "read" if self.needs.labels else "beside" if self.blind else ""

    def defaults(self) -> dict[str, Any]:
        """Return the hyper-parameters and their defaults; `inspect.Parameter.empty` where there is none."""
        parameters = inspect.signature(self.part).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def make(self, **hyperparameters: Any) -> Method:
        """Build the method; an unknown hyper-parameter lists the near ones."""
        defaults = self.defaults()
        for name in hyperparameters:
            if name not in defaults:
                allowed, close = ", ".join(f"`{k}`" for k in defaults) or "none", check.near(name, defaults)
                raise ValueError(f"`Term`: '{self.key}' has no hyper-parameter `{name}` (it has: {allowed}).{close}")
        made = self.part(**hyperparameters)
        if isinstance(made, Method):
            return made
        return LossMethod(
            made, self.needs, project=self.project, labels_of_each=self.labels_of_each, listed=self.listed
        )


def current_parts(row: Row, weight: Any) -> Any:
    """Return a weight with its parts under the names that they have today, whichever names were written.

    Where two names mean one part, it is left as it is, for the check of parts to refuse.
    """
    if not isinstance(weight, Mapping):
        return weight
    renamed = {row.part_aliases.get(part, part): value for part, value in weight.items()}
    return renamed if len(renamed) == len(weight) else weight


def current_words(row: Row, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters that an older version was given, in today's words for what they meant then.

    Example:
        >>> from congruence.methods import row
        >>> current_words(row("joint_wasserstein"), {"beta": 2.0, "label_cost": "euclidean"})
        {'beta': 2.0, 'label_cost': 'squared_euclidean'}
    """
    meant = {name: words.get(hyperparameters.get(name)) for name, words in row.older.items()}
    return {**hyperparameters, **{name: word for name, word in meant.items() if word is not None}}

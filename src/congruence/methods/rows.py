"""A row of the catalogue: a method's key, its parts, and what it needs."""

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
        key: the name that users give.
        summary: one line that describes the method.
        reference: the paper, with equation numbers.
        part: the class whose keyword arguments are the hyper-parameters: a loss module, or a `Method`.
        function: the public function (or `Method`) whose docstring holds the formula.
        needs: the method's needs.
        weight: the published default weight; one for each part if there are several.
        share: the default share of a balanced weight (see `Term`).
        project: for a loss module, whether a trained linear map (a convolution on maps) brings the student to the
            teacher's width.
        labels_of_each: for a loss module, whether it takes labels of both sides; both are the batch's labels.
        listed: for a loss module, whether it takes all layers of a side as one list.
        blind: whether it matches distributions regardless of the samples' classes. Such a method should be used only if
            most samples have labels: with few labels the student gets worse.
        part_aliases: names that parts of the weight had in older versions, mapped to today's names.
        older: values that had another meaning in older versions: for each hyper-parameter, a mapping from the old value
            (None if it was not given) to today's word for that meaning.
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
        """How the method uses labels:

        its loss "read"s them, most samples should have them "beside" it (see `blind`), or "".

        Example:
            >>> from congruence.methods import row
            >>> row("class_wasserstein").labels, row("wasserstein").labels, row("pkt").labels
            ('read', 'beside', '')
        """
        return "read" if self.needs.labels else "beside" if self.blind else ""

    def defaults(self) -> dict[str, Any]:
        """Return the hyper-parameters and their defaults, `inspect.Parameter.empty` for those without."""
        parameters = inspect.signature(self.part).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def make(self, **hyperparameters: Any) -> Method:
        """Build the method; the error for an unknown hyper-parameter lists similar names."""
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
    """Return a weight with its parts under today's names.

    If two names mean the same part, it is returned unchanged, so that the check of parts raises.
    """
    if not isinstance(weight, Mapping):
        return weight
    renamed = {row.part_aliases.get(part, part): value for part, value in weight.items()}
    return renamed if len(renamed) == len(weight) else weight


def current_words(row: Row, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters given to an older version, in today's words for their meaning then.

    Example:
        >>> from congruence.methods import row
        >>> current_words(row("joint_wasserstein"), {"beta": 2.0, "label_cost": "euclidean"})
        {'beta': 2.0, 'label_cost': 'squared_euclidean'}
    """
    meant = {name: words.get(hyperparameters.get(name)) for name, words in row.older.items()}
    return {**hyperparameters, **{name: word for name, word in meant.items() if word is not None}}

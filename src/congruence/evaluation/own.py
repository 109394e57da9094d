"""User metrics, named package.module:function."""

from __future__ import annotations

from collections.abc import Sequence

from congruence.core.importing import import_callable
from congruence.evaluation.number import Number, from_outside
from congruence.evaluation.numbers import RESERVED, numbers_in
from congruence.evaluation.published import published


def own_numbers(targets: Sequence[str], *, trust: bool = False) -> tuple[Number, ...]:
    """Import functions from `Embeddings` to a number, or to several by name, each called what the function is.

    Args:
        targets: "package.module:function".
        trust: whether they may be imported.

    Raises:
        ValueError: without trust, for one that is not there, or whose name another number has.

    Example:
        >>> own_numbers(["my_metrics:top5"])
        Traceback (most recent call last):
        congruence.core.importing.UntrustedError: The metric 'my_metrics:top5' imports and runs your code: allow ...
    """
    rows: dict[str, Number] = {}
    taken = {*RESERVED, *numbers_in("run"), *numbers_in("plan")}
    for target in dict.fromkeys(targets):
        if ":" not in target:
            raise ValueError(f"A metric is named package.module:function, got '{target}'.")
        function = import_callable(target, what="metric", trust=trust)
        key = target.rpartition(":")[2].rpartition(".")[2]
        if key in taken or key in rows or published(key) is not None:
            raise ValueError(f"The metric '{target}' needs another name: a number is called '{key}' already.")
        rows[key] = from_outside(Number(key, function, shown=("run", "plan")), target)
    return tuple(rows.values())

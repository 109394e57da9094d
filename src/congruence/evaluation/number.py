"""A row of the table of numbers."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor

from congruence.core import check
from congruence.evaluation.embeddings import NEEDS, Embeddings

Value = float | int | None
Place = Literal["run", "plan", "compare", "diagnostics"]
PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Number:
    """A row of the table.

    Args:
        key: the key under which the number is stored, unique in each place.
        function: from embeddings to the number, or to several by name; None for numbers known without embeddings
            (parameters, seconds).
        needs: required inputs, of `embeddings.NEEDS`; if one is missing, the number is None.
        shown: the places that show it: a run's test numbers (`test.json`, `evaluate`), a plan's results, `compare`, the
            diagnostics.
        title: title of its column in a plan's table; by default the key.
        label: label of its line in a run's table; by default the key, and "" for a number that is stored without a
            line.
        scale: factor in a plan's table, 100 for per cent.
        digits: decimal places in a plan's table.
        form: format of its line in a run's table.
        higher_is_better: None if neither direction is better.
        detail: only shown in the long tables of `bench` and `evaluate`, and only if at least one row has it.
        last: in a plan, measured with the weights of the last epoch instead of the best.
        of_classes: meaningless for a student that no term trained as a classifier.
        on_request: measured only on request (`evaluate --exact`, `compare(exact=True)`), because it is slow.
        names: names of the numbers, if the function returns several: each is None if a need is not met.
        teacher_too: the diagnostics also measure it for the teacher, with the prefix "teacher_".
    """

    key: str
    function: Callable[[Embeddings], Value | Mapping[str, Value]] | None
    needs: tuple[str, ...] = ()
    shown: tuple[Place, ...] = PLACES
    title: str | None = None
    label: str | None = None
    scale: float = 1.0
    digits: int = 3
    form: str = ".4f"
    higher_is_better: bool | None = None
    detail: bool = False
    last: bool = False
    of_classes: bool = False
    on_request: bool = False
    teacher_too: bool = False
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for argument, words, among in (("needs", self.needs, tuple(NEEDS)), ("shown", self.shown, PLACES)):
            wrong = [word for word in words if word not in among]
            if wrong:
                check.fail("Number", argument, f"words among {', '.join(among)}", f"{wrong[0]!r}")

    def measure(self, of: Embeddings) -> dict[str, Value]:
        """Return the number under its key, or several by name; None if a need is not met."""
        if self.function is None or of.missing(self.needs):
            return dict.fromkeys(self.names or (self.key,))
        value = self.function(of)
        return dict(value) if isinstance(value, Mapping) else {self.key: value}


def from_outside(number: Number, called: str) -> Number:
    """Return a row of another package or the user, whose function's errors become a sentence with its name.

    If it returns several numbers, they are called KEY.NAME.
    """
    function = number.function

    def measure(of: Embeddings) -> dict[str, Value]:
        try:
            result = None if function is None else function(of)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0].removesuffix(".")
            raise ValueError(f"The metric '{called}' failed: {type(error).__name__}: {reason}.") from error
        if isinstance(result, Mapping):
            return {f"{number.key}.{name}": _plain(value, called) for name, value in result.items()}
        return {number.key: _plain(result, called)}

    return replace(number, function=measure)


def _plain(value: Any, called: str) -> float | None:
    """Return a number of any kind, or a tensor of one element, as a Python number."""
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if plain is not None and not isinstance(plain, numbers.Real):
        got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"The metric '{called}' must return a number, several by name, or None, got {got}.")
    return None if plain is None else float(plain)

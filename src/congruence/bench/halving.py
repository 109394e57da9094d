"""`Halving`, a search by successive halving: many short runs of each row, then fewer longer ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Halving:
    """A search over settings of each row, with the same candidates and epochs for every row, judged on validation.

    Rung r of R runs its trials from scratch for ⌈course · eta^(r + 1 − R)⌉ epochs, so that the last rung has the full
    length, and passes on the ⌈candidates / eta^(r + 1)⌉ best. Candidate 0 is the row with its recipe's settings; the
    others are spread over the ranges on a logarithmic scale, by the same rule for every row (multiples of powers of the
    root of x^(d + 1) = x + 1, modulo 1).

    Args:
        candidates: number of candidates for each row.
        rungs: R.
        eta: the number of trials is divided by this from rung to rung.
        seed: seed of these runs, different from the plan's.
        ranges: smallest and largest value by key: "lr" of the last stage's optimizer; for the terms whose key is the
            method's name (if there are none, for all terms with a teacher) "factor", which multiplies the weight,
            "share", or a hyper-parameter. A row without such terms has equally many candidates, which differ only in
            "lr".
        overrides: `KEY=VALUE` for these runs only.
        variants: such overrides for single variants.

    Example:
        >>> search = Halving(9, 2, 3, seed=100, ranges={"lr": (1e-3, 1e-2), "share": (0.1, 10.0)})
        >>> [(search.survivors(rung), search.epochs(40, rung)) for rung in range(2)], search.budget(40)
        ([(9, 14), (3, 40)], 246)
        >>> search.values(["lr", "share"])[:3]
        [{}, {'lr': 0.0018, 'share': 0.138}, {'lr': 0.00102, 'share': 1.9}]
    """

    candidates: int
    rungs: int
    eta: int
    seed: int
    ranges: Mapping[str, tuple[float, float]]
    overrides: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def survivors(self, rung: int) -> int:
        """Return the number of trials of a row in a rung."""
        return math.ceil(self.candidates / self.eta**rung)

    def epochs(self, course: int, rung: int) -> int:
        """Return the number of epochs of the trials in a rung."""
        return math.ceil(course / self.eta ** (self.rungs - 1 - rung))

    def budget(self, course: int) -> int:
        """Return the epochs of all trials of a row."""
        return sum(self.survivors(rung) * self.epochs(course, rung) for rung in range(self.rungs))

    def course(self, row: str, epochs: int | None) -> int:
        """Return the epochs of a row's full course.

        Raises:
            ValueError: if they are not said.
        """
        if epochs is None:
            raise ValueError(f"The row '{row}' cannot be searched by halving: it is trained by steps, not by epochs.")
        return epochs

    def values(self, keys: Sequence[str]) -> list[dict[str, float]]:
        """Return the candidates of a row that has these keys."""
        root = 2.0
        for _ in range(64):  # the root of x^(d + 1) = x + 1
            root = (1 + root) ** (1 / (len(keys) + 1))
        chosen: list[dict[str, float]] = [{}]
        for number in range(1, self.candidates):
            places = [(0.5 + number * root ** -(axis + 1)) % 1 for axis in range(len(keys))]
            chosen.append({key: self._at(key, place) for key, place in zip(keys, places, strict=True)})
        return chosen

    def _at(self, key: str, place: float) -> float:
        low, high = self.ranges[key]
        return float(f"{low * (high / low) ** place:.3g}")

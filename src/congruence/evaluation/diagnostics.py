"""Diagnostics: numbers of the table that are measured during training, from embeddings alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from congruence.core import check
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.from_embeddings import Numbers
from congruence.evaluation.number import Number
from congruence.evaluation.numbers import numbers_in

ALL = "all"


class _Diagnostics(Mapping[str, Number]):
    """The rows by name, in the order of the alphabet; read on first use, since packages add some."""

    def __getitem__(self, name: str) -> Number:
        return numbers_in("diagnostics")[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(numbers_in("diagnostics")))

    def __len__(self) -> int:
        return len(numbers_in("diagnostics"))


DIAGNOSTICS: Mapping[str, Number] = _Diagnostics()


def checked_names(measures: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of diagnostics, or "all" alone.

    Raises:
        ValueError: for a name that is none, with near ones.

    Example:
        >>> checked_names("gpcl")
        ('gpcl',)
    """
    names = (measures,) if isinstance(measures, str) else tuple(measures)
    wrong = [name for name in names if name not in DIAGNOSTICS and names != (ALL,)]
    if wrong or not names:
        got = f"{wrong[0]!r}.{check.near(str(wrong[0]), DIAGNOSTICS)}" if wrong else "none."
        raise ValueError(f'`Diagnostics`: `measures` must be "all" or names among {", ".join(DIAGNOSTICS)}, got {got}')
    return names


def without_teacher(measures: Sequence[str]) -> tuple[str, ...]:
    """Return those that a student without a teacher can have."""
    return tuple(name for name in measures if name == ALL or "teacher" not in DIAGNOSTICS[name].needs)


def diagnose(of: Embeddings, measures: str | Sequence[str] = ALL) -> Numbers:
    """Measure embeddings.

    Args:
        of: the embeddings.
        measures: names of the table; "all": whatever can be had.

    Returns:
        Numbers by name; one diagnostic may give several.

    Raises:
        ValueError: for an unknown name, a named one that cannot be had, or embeddings that are not finite.

    Example:
        >>> import torch
        >>> teacher = torch.eye(3)
        >>> diagnose(Embeddings(teacher.flip(1), teacher), ["gpcl", "kernel_transfer_error"])
        {'gpcl': 1.0, 'kernel_transfer_error': 0.0}
    """
    values: Numbers = {}
    for number in _to_be_had(of, measures):
        values |= _of_both_sides(number, of)
    return values


def diagnose_each(of: Embeddings, measures: str | Sequence[str], failed: Callable[[str, Exception], None]) -> Numbers:
    """Measure embeddings as `diagnose`, but for a diagnostic that raises: `failed` gets its name and the error."""
    values: Numbers = {}
    for number in _to_be_had(of, measures):
        try:
            values |= _of_both_sides(number, of)
        except Exception as error:  # a diagnostic never stops a run
            failed(number.key, error)
    return values


def _to_be_had(of: Embeddings, measures: str | Sequence[str]) -> list[Number]:
    """Return the numbers that are asked for; one that is named and cannot be had raises."""
    names = checked_names(measures)
    of.require_finite("Diagnostics")
    missing = {name: of.missing(DIAGNOSTICS[name].needs) for name in (DIAGNOSTICS if names == (ALL,) else names)}
    for name in names if names != (ALL,) else ():
        if missing[name]:
            got = f"'{name}', which needs {' and '.join(missing[name])}"
            check.fail("Diagnostics", "measures", "diagnostics that can be had here", got)
    return [DIAGNOSTICS[name] for name, lacks in missing.items() if not lacks]


def _of_both_sides(number: Number, of: Embeddings) -> Numbers:
    """Measure the student and, where the row says so, the teacher beside it; what cannot be had is left out."""
    values = number.measure(of)
    alone = of.teacher_alone() if number.teacher_too else None
    if alone is not None:
        values |= {f"teacher_{name}": value for name, value in number.measure(alone).items()}
    return {name: value for name, value in values.items() if value is not None}

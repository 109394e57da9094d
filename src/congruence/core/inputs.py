"""`Inputs`: the same samples as each model takes them, where models take them differently."""

from __future__ import annotations

from typing import Any

from congruence.core.devices import row_count

STUDENT, TEACHER = "student", "teacher"


class Inputs(dict[str, Any]):
    """The same samples, prepared for each model: two tokenizers on one text, two sizes or normalisations of one image.

    Wherever a batch, an item of a dataset or an example has inputs, it may have these: each model gets its own. Models
    are named as in the distiller; "student" serves every student without an entry of its own, and "teacher" every
    teacher.

    Args:
        **by_model: what each model takes: a tensor, a tuple or a mapping of keyword arguments. The samples are the
            same, in one order.

    Raises:
        ValueError: for no entry at all.

    Example:
        >>> import torch
        >>> inputs = Inputs(teacher=torch.ones(2, 3, 8, 8), student=torch.ones(2, 3, 4, 4))
        >>> inputs_of(inputs, "teacher", TEACHER).shape, inputs_of(torch.ones(2, 3), "teacher", TEACHER).shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 3]))
    """

    def __init__(self, **by_model: Any) -> None:
        if not by_model:
            raise ValueError(
                "`Inputs`: expected what each model takes, by its name (teacher=..., student=...), got none."
            )
        super().__init__(by_model)


def inputs_of(inputs: Any, model: str, kind: str = STUDENT) -> Any:
    """Return what a model takes: its own of `Inputs`, all of anything else.

    Args:
        inputs: of a batch.
        model: its name in the distiller.
        kind: "student" or "teacher", whose entry it has where there is none of its name.

    Raises:
        ValueError: where there is neither.
    """
    if not isinstance(inputs, Inputs):
        return inputs
    for name in (model, kind):
        if name in inputs:
            return inputs[name]
    named = kind if model == kind else f"{model} or {kind}"
    raise ValueError(f"`Inputs`: the {model} has none: expected an entry {named}, got {', '.join(inputs)}.")


def check_rows_agree(inputs: Any) -> None:
    """Refuse `Inputs` whose entries are of other numbers of samples.

    Raises:
        ValueError: with the numbers.
    """
    if not isinstance(inputs, Inputs):
        return
    counts = {name: row_count(value) for name, value in inputs.items()}
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) > 1:
        got = ", ".join(f"{count} of the {name}" for name, count in known.items())
        raise ValueError(f"`Inputs`: expected the same samples for each model, got {got}.")

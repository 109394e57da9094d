"""`Inputs`: one batch of samples in a separate form for each model."""

from __future__ import annotations

from collections.abc import ItemsView, ValuesView
from typing import Any

from congruence.core.devices import row_count
from congruence.core.later import Later, entries

STUDENT, TEACHER = "student", "teacher"


class Inputs(dict[str, Any]):
    """One batch of samples, prepared separately for each model:

    one text in two tokenizers, one image in two sizes. `Inputs` may be used wherever a batch, an item of a dataset or
    an `example` has inputs: each model gets its own entry. Models are named as in the distiller; the entry "student" is
    used for every student without an entry of its own, and "teacher" for every teacher.

    Args:
        **by_model: each model's inputs: a tensor, a tuple or a mapping of keyword arguments. All entries hold the same
            samples in the same order.

    Raises:
        ValueError: if there is no entry.

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

    # Whoever reads an entry gets inputs that are made; `entry_of` and `entries` leave a `Later` as it is.
    def __getitem__(self, model: str) -> Any:
        return made(super().__getitem__(model))

    def get(self, model: str, default: Any = None) -> Any:
        """Return a model's inputs, or `default` if there is no entry."""
        return made(super().get(model, default))

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return every model's inputs."""
        return dict(self.items()).values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return every model's name and inputs."""
        return {model: self[model] for model in self}.items()

    def __copy__(self) -> Inputs:
        return Inputs(**dict(entries(self)))


def made(inputs: Any) -> Any:
    """Return inputs, made now if they were left for later."""
    return inputs.made() if isinstance(inputs, Later) else inputs


def inputs_of(inputs: Any, model: str, kind: str = STUDENT) -> Any:
    """Return a model's inputs: its entry of `Inputs`; anything else is returned whole.

    Args:
        inputs: the inputs of a batch.
        model: the model's name in the distiller.
        kind: "student" or "teacher": the entry used if there is none under the model's name.

    Raises:
        ValueError: if `Inputs` has neither entry.
    """
    return made(entry_of(inputs, model, kind))


def entry_of(inputs: Any, model: str, kind: str = STUDENT) -> Any:
    """Return what `inputs_of` does, as it is: a `Later` if it was not made yet."""
    if not isinstance(inputs, Inputs):
        return inputs
    for name in (model, kind):
        if name in inputs:
            return dict.get(inputs, name)
    named = kind if model == kind else f"{model} or {kind}"
    raise ValueError(f"`Inputs`: the {model} has none: expected an entry {named}, got {', '.join(inputs)}.")


def check_rows_agree(inputs: Any) -> None:
    """Raise if the entries of `Inputs` that are made already hold different numbers of samples.

    Raises:
        ValueError: with the number of samples of each entry.
    """
    if not isinstance(inputs, Inputs):
        return
    counts = {name: row_count(value) for name, value in entries(inputs) if not isinstance(value, Later)}
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) > 1:
        got = ", ".join(f"{count} of the {name}" for name, count in known.items())
        raise ValueError(f"`Inputs`: expected the same samples for each model, got {got}.")

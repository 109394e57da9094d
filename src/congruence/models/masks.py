"""The mask of real tokens in a padded batch: found among a model's inputs, checked, and inverted if needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.positions import positions_of

USUAL = "attention_mask"
Mask = str | int | bool | None
_WAY = "a key of the inputs' mapping or a position in their tuple, '~' before it where True marks padding, or False"
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_mask(function: str, argument: str, value: Any) -> None:
    """Raise a clear error for an invalid name of a mask.

    Example:
        >>> check_mask("Term", "mask", True)
        Traceback (most recent call last):
        ValueError: `Term`: `mask` must be a key of the inputs' mapping or a position in their tuple, '~' before it \
where True marks padding, or False, got True.
    """
    named = isinstance(value, str) and value.removeprefix("~") != ""
    placed = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not (value is None or value is False or named or placed):
        check.fail(function, argument, _WAY, repr(value))


def token_mask(tokens: Tensor, inputs: Any, name: Mask, what: str, way: str, *, look: bool = False) -> Tensor | None:
    """Return which of a layer's tokens are real, bool [B, N]; None if all are, as far as the inputs say.

    Args:
        tokens: [B, N, C]; a tensor of other dimensions has no mask.
        inputs: of the model that gave them.
        name: of the mask, or of lengths [B]; None for "attention_mask" where the inputs are a mapping that has it,
            False for none.
        what: the layer, for sentences.
        way: what its user can do about a mask that is there but was not named.
        look: whether to look at the inputs' values for one, too: numbers 0 and 1 in a tuple are a mask or token types.

    Raises:
        ValueError: for a mask that is not there or does not fit, or one that is there and not named; and for a sample
            without a real token, on the CPU (elsewhere its row is NaN, which stops the run).

    Example:
        >>> inputs = {"x": torch.ones(1, 3), "pad": torch.tensor([[False, False, True]])}
        >>> token_mask(torch.ones(1, 3, 8), inputs, "~pad", "The layer", "").tolist()
        [[True, True, False]]
    """
    return _mask(tokens, tokens.shape[:2], inputs, name, what, way, look) if tokens.dim() == 3 else None


def position_mask(logits: Tensor, inputs: Any, name: Mask, what: str, way: str, *, look: bool = False) -> Tensor | None:
    """Return which positions of dense logits count, bool [B, T] or [B, H, W]; None where all do.

    As `token_mask`, but that a sample may have no position that counts: see there for the arguments.

    Example:
        >>> inputs = {"x": torch.ones(1, 3, 2, 2), "valid": torch.tensor([[[1, 0], [1, 1]]])}
        >>> position_mask(torch.ones(1, 4, 2, 2), inputs, "valid", "The layer", "").tolist()
        [[[True, False], [True, True]]]
    """
    return _mask(logits, positions_of(logits.shape), inputs, name, what, way, look, each=False)


def _mask(
    tokens: Tensor, places: torch.Size, inputs: Any, name: Mask, what: str, way: str, look: bool, each: bool = True
) -> Tensor | None:
    """Return the mask of a tensor's places, found among the inputs; with `each`, every sample must have a real one."""
    kind = "tokens" if tokens.dim() == 3 else "positions"
    if name is False:
        return None
    if name is None:
        if not isinstance(inputs, Mapping) or not isinstance(inputs.get(USUAL), Tensor):
            _ask_for_unnamed(tokens, places, inputs, what, way, look)
            return None
        name = USUAL
    inverted, mask = _named(inputs, name, what)
    if (
        len(places) == 2 and mask.shape == places[:1] and mask.dtype in _WHOLE and not inverted
    ):  # how many tokens each sample has
        if mask.device.type == "cpu" and int(mask.max()) > places[1]:
            raise ValueError(
                f"{what} gives {places[1]} tokens, which the lengths '{name}' of up to {int(mask.max())} do not "
                f"fit: its padded positions cannot be told: {way}."
            )
        mask = torch.arange(places[1], device=mask.device) < mask[:, None]
    if mask.shape != places:
        raise ValueError(
            f"{what} gives {kind} {list(tokens.shape)}, which the mask '{name}' {list(mask.shape)} does not fit: its "
            f"padded positions cannot be told: {way}."
        )
    if mask.is_floating_point() and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"{what} cannot be averaged by the mask '{name}': it must hold 0 and 1, got other numbers.")
    mask = mask if mask.dtype == torch.bool else mask != 0
    real = ~mask if inverted else mask
    if (
        each and real.device.type == "cpu" and not bool(real.any(1).all())
    ):  # elsewhere the check would wait for the device
        empty = int((~real.any(1)).nonzero()[0])
        raise ValueError(
            f"{what} cannot be averaged by the mask '{name}', which marks no real token of sample {empty}: leave such "
            "samples out of the batch" + (", or does True mark padding ('~' before its name)?" if not inverted else ".")
        )
    return real.to(tokens.device)


def _named(inputs: Any, name: str | int, what: str) -> tuple[bool, Tensor]:
    """Return whether a mask marks padding, and the mask."""
    inverted = isinstance(name, str) and name.startswith("~")
    key: Any = name.removeprefix("~") if isinstance(name, str) else name
    mask, has = None, type(inputs).__name__
    if isinstance(inputs, Mapping):
        has = f"the keys {', '.join(map(str, inputs))}"
        mask = inputs.get(key)
    elif isinstance(inputs, (tuple, list)):
        has = f"{len(inputs)} parts"
        place = int(key) if str(key).isdigit() else len(inputs)
        mask = inputs[place] if place < len(inputs) else None
    if not isinstance(mask, Tensor):
        raise ValueError(f"{what} has no mask '{key}' to go by: the inputs have {has}.")
    return inverted, mask


def _ask_for_unnamed(tokens: Tensor, places: torch.Size, inputs: Any, what: str, way: str, look: bool) -> None:
    """Refuse inputs that hold what looks like a mask of these tokens, of which nobody said which way it is meant."""
    in_tuple = isinstance(inputs, (tuple, list))
    parts: Any = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs) if in_tuple else ()
    for key, value in parts:
        if not isinstance(value, Tensor) or value.shape != places:
            if look and tokens.dim() == 3 and _are_lengths(key, value, tokens):
                raise ValueError(
                    f"{what} gives tokens {list(tokens.shape)}, and the inputs' {key!r} looks like how many are "
                    f"real: {way}."
                )
            continue
        called = isinstance(key, str) and ("mask" in key or "pad" in key)
        # In a mapping, numbers 0 and 1 under another name are rather token types; in a tuple nothing tells.
        if value.dtype == torch.bool or called or (look and in_tuple and bool(((value == 0) | (value == 1)).all())):
            part = f"inputs' {key!r}" if isinstance(key, str) else f"inputs' part {key}"
            raise ValueError(
                f"{what} gives tokens {list(tokens.shape)}, and the {part} looks like a mask of them: {way}."
            )


def _are_lengths(key: Any, value: Any, tokens: Tensor) -> bool:
    """Whether inputs tell by their name how many of these tokens are real in each sample [B]."""
    return (
        isinstance(key, str)
        and "len" in key
        and isinstance(value, Tensor)
        and value.dtype in _WHOLE
        and value.shape == tokens.shape[:1]
        and tokens.shape[1] > 1
        and int(value.max()) <= tokens.shape[1]
    )

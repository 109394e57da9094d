"""Marks layers that no term of a run trained, since their class predictions are meaningless."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from weakref import WeakKeyDictionary

from torch import nn

from congruence.models.parameters import bits, count_parameters

ALL = "all of it"
# By module, the bits that its parameters had when no term had reached them: after what moves them later (a run, loaded
# weights) the mark no longer holds. It is kept beside the module, which stays the user's own.
_UNTAUGHT: WeakKeyDictionary[nn.Module, tuple[int | None, ...]] = WeakKeyDictionary()


def mark_untaught(module: nn.Module) -> None:
    """Mark a layer as not trained by any term."""
    _UNTAUGHT[module] = _bits(module)


def mark_parts(model: nn.Module, parts: Iterable[str]) -> None:
    """Mark parts, named as by `whole_parts`, as not trained by any term; parts that a model lacks are ignored."""
    modules = dict(model.named_modules())
    for part in parts:
        for module in modules["" if part == ALL else part].modules() if part in modules or part == ALL else ():
            mark_untaught(module)


def is_untaught(module: nn.Module) -> bool:
    """Whether a layer was not trained by any term, and has not changed since.

    Example:
        >>> head = nn.Linear(3, 2)
        >>> mark_untaught(head)
        >>> before = is_untaught(head)
        >>> _ = head.load_state_dict(nn.Linear(3, 2).state_dict())
        >>> before, is_untaught(head)
        (True, False)
    """
    return module in _UNTAUGHT and _UNTAUGHT[module] == _bits(module)


def _bits(module: nn.Module) -> tuple[int | None, ...]:
    return tuple(bits(parameter) for parameter in module.parameters(recurse=False))


def whole_parts(model: nn.Module, names: Collection[str]) -> list[str]:
    """Return the largest parts of a model all of whose trainable parameters are among `names`, then single parameters.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
        >>> whole_parts(model, ["0.bias", "1.0.weight", "1.0.bias", "1.2.weight", "1.2.bias"])
        ['0.bias', '1']
    """
    left = set(names)
    found: list[str] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        own = {prefix + inner for inner, parameter in module.named_parameters() if parameter.requires_grad}
        if own and own <= left:
            found.append(name or ALL)
            left -= own
    return sorted([*found, *left])


def share(model: nn.Module, parts: Iterable[str], names: Iterable[str]) -> str:
    """Write parts of a model, and how many of its parameters the named ones hold.

    Example:
        >>> share(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), ["1"], ["1.weight", "1.bias"])
        "'1' (3 of 9 parameters)"
    """
    parameters = dict(model.named_parameters())
    held = sum(parameters[name].numel() for name in names)
    return f"{', '.join(map(repr, parts))} ({held} of {count_parameters(model)} parameters)"

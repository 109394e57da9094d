"""Restores a model after a forward: modes, buffers, parameters, and modules' attributes."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from congruence.core.content import same_content, script_attributes
from congruence.models.evaluating import modes_of, set_modes
from congruence.models.sharded import is_shard

Undo = Callable[[], bool]  # puts something back; returns whether it had changed
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_VALUES = (
    *(str, bytes, int, float, complex, type(None), Tensor, np.ndarray, np.generic, Enum, torch.dtype, torch.device),
    *(Mapping, list, tuple, set, frozenset, deque),
)
_OWN_STATE = frozenset({"training", "_compiled_call_impl"})


@contextlib.contextmanager
def unchanged(model: nn.Module, scratch: set[str], *, parameters: bool) -> Iterator[None]:
    """Restore everything that a forward changes in a model.

    Buffers keep their identity; newly registered ones are removed. Attributes that were rebound are restored, as are
    lists, mappings, tensors and generators that were changed in place. Things that a first forward creates stay: an
    object (such as a session) in an attribute that was None, and a module that got parameters or submodules, with its
    current attributes, since they may record that these exist.

    Args:
        model: the module.
        scratch: receives the names ("layer.calls") of attributes and extra states that had changed.
        parameters: whether the values of parameters are also restored, for which they are copied.
    """
    modes = modes_of(model)
    undone = [(name, part, _undo_part(part)) for name, part in model.named_modules()]
    tensors = [*_buffers(model), *(model.parameters() if parameters else ())]
    values = [_undo_tensor(tensor) for tensor in {id(each): each for each in tensors}.values()]
    try:
        yield
    finally:
        set_modes(modes)
        with torch.no_grad():
            for name, part, undo in undone:
                scratch.update(f"{name}.{attribute}".lstrip(".") for attribute in undo(part))
            for undo_value in values:
                undo_value()


def _buffers(model: nn.Module) -> list[Tensor]:
    return [buffer for part in model.modules() for buffer in dict(part._buffers.items()).values() if buffer is not None]


def _undo_part(part: nn.Module) -> Callable[[nn.Module], list[str]]:
    """Note what a part has; return what puts that back and says which of its attributes had changed."""
    if isinstance(part, torch.jit.ScriptModule):
        return _undo_script(part)
    buffers, transient = dict(part._buffers), set(part._non_persistent_buffers_set)
    owned = set(part._parameters), set(part._modules)
    extra = _extra_state(part)
    attributes = {name: value for name, value in vars(part).items() if name not in _OF_EVERY_MODULE | _OWN_STATE}
    inside = {name: _undo_inside(value) for name, value in attributes.items()}

    def undo(part: nn.Module) -> list[str]:
        if (set(part._parameters), set(part._modules)) != owned:
            return []
        if list(part._buffers) != list(buffers) or any(part._buffers[name] is not buffers[name] for name in buffers):
            part._buffers.clear()
            part._buffers.update(buffers)
            part._non_persistent_buffers_set.clear()
            part._non_persistent_buffers_set.update(transient)
        own = vars(part)
        changed = [name for name, value in attributes.items() if own.get(name, part) is not value]
        changed += [name for name in own if name not in attributes and name not in _OF_EVERY_MODULE | _OWN_STATE]
        changed = [name for name in changed if attributes.get(name) is not None or _is_value(own.get(name))]
        for name in changed:
            own.pop(name, None)
        own.update({name: value for name, value in attributes.items() if name in changed})
        changed += [name for name, undo_value in inside.items() if undo_value()]
        if extra is not None and not same_content(extra, part.get_extra_state()):
            part.set_extra_state(extra)
            changed.append("_extra_state")
        return changed

    return undo


def _is_value(value: Any) -> bool:
    """Whether an attribute is a number, a text, a tensor or made of them, and no part of the model (a session, say)."""
    return isinstance(value, _VALUES) or is_dataclass(value)


def _undo_script(part: torch.jit.ScriptModule) -> Callable[[nn.Module], list[str]]:
    """Note what a scripted part has: buffers and attributes are held in C++, and cannot be added by a forward."""
    buffers = dict(part._buffers.items())
    state = {}
    for name in script_attributes(part):
        value = part._c.getattr(name)
        if name not in buffers and name != "training" and not isinstance(value, Tensor):
            with contextlib.suppress(Exception):  # what cannot be copied is no plain value
                state[name] = copy.deepcopy(value)

    def undo(_: nn.Module) -> list[str]:
        for name, buffer in buffers.items():
            if part._c.getattr(name) is not buffer:
                part._c.setattr(name, buffer)
        changed = [name for name, value in state.items() if not same_content(part._c.getattr(name), value)]
        for name in changed:
            part._c.setattr(name, state[name])
        return changed

    return undo


def _extra_state(part: nn.Module) -> Any:
    """Return a copy of what a part saves beside its tensors, None if it saves nothing or cannot be given it back."""
    kind = type(part)
    if kind.get_extra_state is nn.Module.get_extra_state or kind.set_extra_state is nn.Module.set_extra_state:
        return None
    try:
        return copy.deepcopy(part.get_extra_state())
    except Exception:  # of theirs; a save would meet it, and say so
        return None


def _undo_inside(value: Any) -> Undo:
    """Return what puts back the inside of an attribute: of containers (and theirs), tensors and generators."""
    undone: list[Undo] = []
    seen: set[int] = set()

    def note(value: Any) -> None:
        if id(value) in seen or isinstance(value, (nn.Module, nn.Parameter, str, bytes, type)):
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            undone.append(_undo_tensor(value))
        elif isinstance(value, (dict, list, set, deque)):
            undone.append(_undo_container(value))
            for part in value.values() if isinstance(value, dict) else value:
                note(part)
        elif isinstance(value, tuple):
            for part in value:
                note(part)
        elif isinstance(value, np.ndarray):
            undone.append(_undo_array(value))
        elif isinstance(value, (torch.Generator, random.Random, np.random.Generator)):
            undone.append(_undo_generator(value))

    note(value)
    return lambda: any([undo() for undo in undone])


def _undo_container(value: Any) -> Undo:
    before = copy.copy(value)

    def undo() -> bool:
        parts = [list(side.items()) if isinstance(side, dict) else list(side) for side in (value, before)]
        if len(parts[0]) == len(parts[1]) and all(map(_is_same, *parts)):
            return False
        value.clear()
        value.update(before) if isinstance(value, (dict, set)) else value.extend(before)
        return True

    return undo


def _is_same(first: Any, second: Any) -> bool:
    if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
        return all(map(_is_same, first, second))
    return first is second


def _undo_array(array: Any) -> Undo:
    before = array.copy()

    def undo() -> bool:
        changed = array.tobytes() != before.tobytes()
        if changed:
            array[...] = before
        return changed

    return undo


def _undo_generator(generator: Any) -> Undo:
    if isinstance(generator, torch.Generator):
        state = generator.get_state()

        def undo() -> bool:
            generator.set_state(state)
            return True
    elif isinstance(generator, random.Random):
        words = generator.getstate()

        def undo() -> bool:
            generator.setstate(words)
            return True
    else:
        bits = copy.deepcopy(generator.bit_generator.state)

        def undo() -> bool:
            generator.bit_generator.state = bits
            return True

    return undo


def _undo_tensor(tensor: Tensor) -> Undo:
    """Note a tensor's values, size and type; what puts them back leaves one alone that has them."""
    if tensor.is_meta or is_shard(tensor):  # a forward sees whole copies of shards
        return lambda: False
    try:
        before = tensor.detach().clone()
    except (RuntimeError, NotImplementedError):  # of a type that cannot be copied; nor can a forward write into it
        return lambda: False

    def undo() -> bool:
        # By value: batch norm moves its statistics without counting a version. And a needless write would break a graph
        # that saved the tensor.
        if _equal(tensor, before):
            return False
        if tensor.shape == before.shape and tensor.dtype == before.dtype:
            tensor.copy_(before)
        else:  # observers of quantization give theirs another size
            tensor.data = before
        return True

    return undo


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype or first.device != second.device:
        return False
    try:
        if torch.equal(first, second):
            return True
        if not first.is_floating_point():
            return False
        return bool(((first == second) | (first.isnan() & second.isnan())).all())
    except (RuntimeError, NotImplementedError):  # tensors that cannot be compared
        return True

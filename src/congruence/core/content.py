"""The content of a value in two hashes: one of its data, one of the plain values and names around the data.

Both hashes depend on content only, never on ids or addresses, so that two processes agree. Parts that cannot be read
are listed by name.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import pickle
import random
import re
import types
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from congruence.core.code import code_parts, hook_parts
from congruence.core.held_files import file_bytes, is_file, written

_PLAIN = (int, float, complex, bytes, type(None), type(Ellipsis), torch.dtype, torch.layout, torch.memory_format)
# Devices, random generators and loggers: not part of a model's content.
_APART: tuple[type, ...] = (
    *(torch.device, torch.Generator, random.Random, np.random.Generator, np.random.RandomState),
    *(logging.Logger, logging.LoggerAdapter, types.ModuleType, weakref.ReferenceType, Path),
)
_APART_MODULES = (
    *("_thread.", "threading.", "concurrent.", "multiprocessing.", "asyncio.", "queue.", "_queue.", "_contextvars."),
    *("_io.", "io.", "_weakref.", "weakref.", "typing.", "torch.cuda.", "torch.distributed.", "torch._dynamo."),
)
# Private attributes of their classes change with their versions.
_LIBRARIES = ("torch.", "torchvision.", "timm.", "transformers.", "sentence_transformers.", "peft.", "torchmetrics.")
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
_DESCRIBING = frozenset(
    (
        *("config", "generation_config", "pretrained_cfg", "default_cfg", "name_or_path", "device"),
        *("trainer", "_trainer", "_fabric", "_hparams", "_hparams_initial", "_hparams_name"),
    )
)
NAMED = "fingerprint"  # an attribute by which a module may name what it holds


class Content:
    """Hashes values part by part.

    Args:
        known: objects that are described elsewhere and skipped here.

    Attributes:
        unreadable: "session (InferenceSession)" for each part whose content cannot be read.

    Example:
        >>> content = Content()
        >>> content.add("scale", 2.0)
        >>> content.add("table", torch.ones(2))
        >>> len(content.data), len(content.structure), content.unreadable
        (16, 16, [])
    """

    def __init__(self, known: Iterable[Any] = ()) -> None:
        self.unreadable: list[str] = []
        self._hashes = {"data": hashlib.sha256(), "structure": hashlib.sha256()}
        self._empty = {name: made.digest() for name, made in self._hashes.items()}
        self._seen = {id(each): each for each in known}  # kept, so that no id is used twice

    @property
    def data(self) -> str:
        """The hash of tensors, arrays and files; "" if there were none."""
        return self._short("data")

    @property
    def structure(self) -> str:
        """The hash of plain values and names; "" if there were none."""
        return self._short("structure")

    def _short(self, which: str) -> str:
        made = self._hashes[which]
        return "" if made.digest() == self._empty[which] else made.hexdigest()[:16]

    def data_of(self, where: str, *parts: bytes) -> None:
        """Add data under its place, a dotted name."""
        for part in (where.encode(), *parts):
            self._hashes["data"].update(len(part).to_bytes(8, "little") + part)

    def name(self, where: str, text: str) -> None:
        """Add a plain value under its place."""
        self._hashes["structure"].update(f"{len(where)}:{where}={len(text)}:{text};".encode())

    def add(self, where: str, value: Any) -> None:
        """Add a value of any kind under its place."""
        if isinstance(value, (str, *_PLAIN, Enum, np.generic, range, slice)):
            self._plain(where, value)
        elif isinstance(value, _APART) or f"{type(value).__module__}.".startswith(_APART_MODULES):
            return
        elif id(value) in self._seen:
            self.name(where, "known")
        else:
            self._seen[id(value)] = value
            self._whole(where, value)

    def _plain(self, where: str, value: Any) -> None:
        if isinstance(value, bytes):
            self.data_of(where, value)
        elif isinstance(value, Enum):
            self.name(where, f"{type(value).__name__}.{value.name}")
        elif not (isinstance(value, str) and ("/" in value or "\\" in value)):  # a path differs between machines
            self.name(where, repr(value.item() if isinstance(value, np.generic) else value))

    def _whole(self, where: str, value: Any) -> None:
        """Add a value that has parts."""
        if isinstance(value, Tensor):
            self._tensor(where, value)
        elif isinstance(value, np.ndarray):
            self._array(where, value)
        elif isinstance(value, (bytearray, memoryview)):
            self.data_of(where, bytes(value))
        elif isinstance(value, Mapping):
            self.name(where, f"mapping of {len(value)}")
            plain = all(isinstance(key, (str, int, float, bytes)) for key in value)  # others may show their address
            for number, key in enumerate(sorted(value, key=repr) if plain else value):
                self.add(f"{where}[{key if plain else number}]", value[key])
        elif isinstance(value, (list, tuple, deque)):
            self.name(where, f"list of {len(value)}")
            for number, part in enumerate(value):
                self.add(f"{where}[{number}]", part)
        elif isinstance(value, (set, frozenset)):
            plain_parts = sorted(repr(part) for part in value if isinstance(part, (str, int, float, bytes)))
            self.name(where, f"set of {len(value)} {plain_parts}")
        elif isinstance(value, type):
            self.name(where, value.__name__)
        elif isinstance(value, functools.partial):
            self.add(where, [value.func, value.args, value.keywords])
        elif isinstance(value, nn.Module):
            self.add_module(f"{where}.", value, weights=True)
        elif inspect.isroutine(value) or isinstance(value, torch.jit.ScriptFunction):
            self._function(where, value)
        else:
            self._object(where, value)

    def _tensor(self, where: str, tensor: Tensor) -> None:
        self.name(where, f"{tensor.dtype} {list(tensor.shape)}")
        if tensor.is_meta:
            return
        parts = tensor_bytes(tensor)
        if parts is None:
            self.unreadable.append(f"{where} ({type(tensor).__name__})")
        else:
            self.data_of(where, *parts)

    def _array(self, where: str, array: Any) -> None:
        if array.dtype.hasobject:
            self.add(where, array.tolist())
        else:
            self.name(where, f"{array.dtype} {list(array.shape)}")
            self.data_of(where, np.ascontiguousarray(array).tobytes())

    def _function(self, where: str, function: Any) -> None:
        """Add a function by its name; a user-written one also by its code and the values it holds."""
        self.name(where, getattr(function, "__name__", type(function).__name__))
        if isinstance(function, torch.jit.ScriptFunction):
            self.name(where, str(function.code))
            return
        if isinstance(function, types.MethodType):
            self.add(f"{where}.self", function.__self__)
            function = function.__func__
        code = getattr(function, "__code__", None)
        if code is None or (function.__module__ or "").startswith("torch."):
            return
        for place, value in code_parts(code, function.__doc__):
            self.add(f"{where}{place}", value)
        self.add(f"{where}.defaults", [function.__defaults__, function.__kwdefaults__])
        for number, cell in enumerate(function.__closure__ or ()):
            try:
                self.add(f"{where}.{code.co_freevars[number]}", cell.cell_contents)
            except ValueError:  # an empty cell
                continue

    def add_module(self, where: str, module: nn.Module, *, weights: bool, scratch: Collection[str] = ()) -> None:
        """Add what a module holds, part by part.

        Args:
            where: a prefix of the parts' names.
            module: the module.
            weights: whether the tensors of its state belong to it; False where they are described elsewhere.
            scratch: attributes ("layer.calls") and states that its forward changes: they do not identify the module.
        """
        parts = dict(module.named_modules())
        for each in (*parts.values(), *module.parameters(), *module.buffers()):
            self._seen[id(each)] = each
        first = len(self.unreadable)
        state = module.state_dict()
        for key in sorted(state):
            if key not in scratch and (weights or not isinstance(state[key], Tensor)):
                self.add(f"{where}{key}", state[key])
        for name, buffer in module.named_buffers(remove_duplicate=False):
            if name not in state and not (weights and name in scratch):
                self._tensor(f"{where}{name}", buffer)
        for name, part in parts.items():
            self._part(f"{where}{name}", part, {key.rpartition(".")[2] for key in scratch if _owner(key) == name})
        named = tuple(f"{where}{name}." for name, part in parts.items() if isinstance(vars(part).get(NAMED), str))
        mine = self.unreadable[first:]
        root = isinstance(vars(module).get(NAMED), str)
        self.unreadable[first:] = [each for each in mine if not root and not each.startswith(named or ("\0",))]

    def _part(self, where: str, part: nn.Module, scratch: Collection[str]) -> None:
        """Add one part: its class, and what it keeps in attributes."""
        if isinstance(part, torch.jit.ScriptModule):
            self._script(where, part)
            return
        self.name(where, type(part).__name__)
        own = {name: value for name, value in vars(part).items() if name not in _OF_EVERY_MODULE | _DESCRIBING}
        if isinstance(part, torch.fx.GraphModule) or type(part).__module__ == "torch.export.unflatten":
            graph: Any = part.graph  # its code only: its other attributes are shapes and paths from the export
            self.name(where, graph.python_code("self").src)
            own = {name: value for name, value in own.items() if isinstance(value, Tensor)}
        if next(part.parameters(), None) is None and next(part.buffers(), None) is None:
            for name, value in own.items():  # its weights come from elsewhere, possibly from a file that it names
                if isinstance(value, (str, Path)) and is_file(value):
                    self.data_of(f"{where}.{name}", *file_bytes(value))
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            for number, hook in enumerate(vars(part)[kind].values()):
                for place, value in hook_parts(hook, _LIBRARIES):
                    self.add(f"{where}.{kind}{number}{place}", value)
        private = not type(part).__module__.startswith(_LIBRARIES)
        if isinstance(own.get(NAMED), str):
            self.data_of(f"{where}.{NAMED}", own.pop(NAMED).encode())
        for name, value in sorted(_of_class(type(part)).items()):
            self.add(f"{where}.class.{name}", value)
        for name in sorted(own):
            if name not in scratch and (private or not name.startswith("_")):
                self.add(f"{where}.{name}".lstrip("."), own[name])

    def _script(self, where: str, part: Any) -> None:
        """Add a scripted part: its code, with the constants in it, and its attributes."""
        for method in sorted(part._c._method_names()):
            code, constants = part._c._get_method(method).code_with_constants
            self.name(f"{where}.{method}", re.sub(r"___torch_mangle_\d+\.", "", code))
            self.add(f"{where}.{method}.constants", dict(constants))
        for name in sorted(script_attributes(part)):
            value = part._c.getattr(name)
            if name != "training" and not (isinstance(value, Tensor) and name in part._buffers):
                self.add(f"{where}.{name}", value)

    def _object(self, where: str, value: Any) -> None:
        """Add an object by the content that it exposes: bytes, a file, a state, or its attributes."""
        self.name(where, type(value).__name__)
        offered = written(value)
        if offered is not None:
            self.data_of(where, *offered)
            return
        if type(value).__module__ == "tokenizers" and hasattr(value, "to_str"):
            settings = json.loads(value.to_str())  # each call leaves its own cut and padding there
            self.add(where, {key: settings[key] for key in settings if key not in ("truncation", "padding")})
            return
        if isinstance(value, torch.export.ExportedProgram):
            self.name(where, value.graph_module.code)
            self.add(where, [value.state_dict, value.constants])
            return
        if callable(getattr(value, "state_dict", None)):
            self.add(f"{where}.state", value.state_dict())
            return
        own_state: Any = type(value).__getstate__
        if own_state is not object.__getstate__ and not isinstance(value, torch.ScriptObject):
            try:
                self.add(f"{where}.state", value.__getstate__())
            except Exception:  # it refuses to be saved; its attributes may still be readable
                self.name(f"{where}.state", "none")
            else:
                return
        attributes = _attributes(value)
        if attributes is not None:
            for name in sorted(attributes):
                self.add(f"{where}.{name}", attributes[name])
            return
        try:
            state = value.__getstate__() if isinstance(value, torch.ScriptObject) else pickle.dumps(value, protocol=4)
        except Exception:  # some exception of its own: the content is not available
            self.unreadable.append(f"{where} ({type(value).__name__})")
        else:
            self.add(f"{where}.state", state)


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return the attributes of an object that is written in Python; None if its content lies outside Python."""
    kinds = type(value).__mro__[:-1]
    slots = [name for kind in kinds for name in _slots(kind)]
    # Objects of a Python class have slots or a `__dict__` and no other memory; those of an extension's class are
    # larger.
    written = all("__slots__" in vars(kind) or any("__dict__" in vars(base) for base in kind.__mro__) for kind in kinds)
    if not kinds or not written or type(value).__basicsize__ > object.__basicsize__ + 8 * (len(slots) + 2):
        return None
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [name for name in ([slots] if isinstance(slots, str) else slots) if name not in ("__dict__", "__weakref__")]


def _of_class(kind: type) -> dict[str, Any]:
    """Return the class attributes, without functions, of a user-written class and its bases."""
    values: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base is not object and not f"{base.__module__}.".startswith(_LIBRARIES):
            values |= {
                name: value
                for name, value in vars(base).items()
                if not name.startswith(("__", "_abc_"))
                and not hasattr(value, "__get__")
                and not isinstance(value, type)
            }
    return values


def script_attributes(part: Any) -> list[str]:
    """Return the names of a scripted part's attributes and buffers; these are held in C++."""
    kind: Any = torch._C.ConcreteModuleType.from_jit_type(part._c._type())
    return list(kind.get_attributes())


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def tensor_bytes(tensor: Tensor) -> list[bytes] | None:
    """Return the bytes of a tensor of any kind; None if it exposes none."""
    tensor = tensor.detach()
    made_of: Any = tensor
    try:
        if is_traceable_wrapper_subclass(made_of):
            names, rest = made_of.__tensor_flatten__()
            inner = (getattr(tensor, name) for name in names)  # a DTensor names its mesh, too
            parts = [tensor_bytes(each) for each in inner if isinstance(each, Tensor)]
            return None if None in parts else [repr(rest).encode(), *(byte for part in parts for byte in part or [])]
        if tensor.is_quantized:
            per_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
            how = [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()] if per_channel else []
            values = [tensor.int_repr(), *how]
            fixed = "" if per_channel else f"{tensor.q_scale()} {tensor.q_zero_point()}"
            return [fixed.encode(), *(byte for value in values for byte in tensor_bytes(value) or [])]
        if tensor.layout is torch.sparse_coo:
            tensor = tensor.coalesce()
            return [*(tensor_bytes(tensor.indices()) or []), *(tensor_bytes(tensor.values()) or [])]
        dense = tensor.to_dense() if tensor.layout is not torch.strided else tensor
        return [dense.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]
    except (RuntimeError, NotImplementedError, TypeError):
        return None


def same_content(first: Any, second: Any) -> bool:
    """Whether two values have equal content, as far as it can be read.

    Example:
        >>> same_content({"steps": [1, torch.ones(2)]}, {"steps": [1, torch.ones(2)]})
        True
    """
    contents = []
    for value in (first, second):
        content = Content()
        content.add("", value)
        contents.append((content.data, content.structure))
    return contents[0] == contents[1]

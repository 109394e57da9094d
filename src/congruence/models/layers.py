"""The names of a model's layers: the path syntax, wrappers of a model, and layers that taps cannot read reliably."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from congruence.core import check
from congruence.models.onnx_model import OnnxModel

_SYNTAX = re.compile(r"(input:)?([^\[\]#:]*)(?:#(\d+))?((?:\[[^\[\]]+\])*)(?:#(\d+))?")
_TRANSPARENT = frozenset({"_orig_mod", "_checkpoint_wrapped_module"})


class LayerError(ValueError):
    """A layer path that cannot be read; the message is one sentence."""


@dataclass(frozen=True)
class LayerPath:
    """A parsed path: the input or output of `layer`, in its `call`-th run, and a part of it."""

    text: str
    side: Literal["input", "output"]
    layer: str
    call: int | None
    keys: tuple[str, ...]


def parse(text: str) -> LayerPath:
    """Parse "layer4.1.conv2", "input:fc", "relu#2", "encoder[last_hidden_state]", "input:block#2[0]", "" or "output".

    Example:
        >>> parse("input:block.attention#2[0]").layer
        'block.attention'
    """
    match = _SYNTAX.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[3] and match[5]):
        raise LayerError(
            f"{text!r} is not a layer path: write 'PATH', 'input:PATH', 'PATH#2' for a second call, "
            "'PATH[0]' or 'PATH[name]' for a part of the result, or 'output'."
        )
    number = match[3] or match[5]
    if number is not None and int(number) == 0:
        raise LayerError(f"{text!r} is not a layer path: calls are counted from 1, as in '{match[2]}#1'.")
    keys = tuple(re.findall(r"\[([^\[\]]+)\]", match[4]))
    return LayerPath(text, "input" if match[1] else "output", match[2], int(number) if number else None, keys)


def is_compiled(module: nn.Module) -> bool:
    """Whether `module` is what `torch.compile(module)` returns."""
    return type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module)


def has_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` runs a model or a part of it."""
    return any(is_compiled(part) or part._compiled_call_impl is not None for part in model.modules())


def is_unflattened(module: nn.Module) -> bool:
    """Whether a module is what `torch.export.unflatten` makes, or a part of that: graphs that run one by one."""
    return type(module).__module__ == "torch.export.unflatten"


def class_name(module: Any) -> str:
    """Return the name of a module's class; of a part of an unflattened program, that of the class it was.

    Example:
        >>> class_name(nn.Linear(2, 2))
        'Linear'
    """
    told = module.type_name() if is_unflattened(module) else None
    return told.rpartition(".")[2] if told else type(module).__name__


def _without_layers(module: nn.Module) -> str:
    """Say what a module is that runs no layer which a hook could reach; "" of another."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a ScriptModule"
    if isinstance(module, OnnxModel):
        return "an ONNX file"
    if isinstance(module, torch.fx.GraphModule) and not _runs_parts(module):
        return "an exported graph (torch.export.unflatten(program) gives one with layers)"
    return ""


def _runs_parts(module: Any) -> bool:
    """Whether a graph calls parts that have parameters; that of `torch.export` has its layers written out."""
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    held = {name for name, part in module.named_modules() if name and next(part.parameters(), None) is not None}
    return not held or not held.isdisjoint(called)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside `DistributedDataParallel`, `DataParallel` and `torch.compile`."""
    inner: Any = model
    while True:
        if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = inner.module
        elif is_compiled(inner):
            inner = inner._orig_mod
        else:
            return cast(nn.Module, inner)


def pick(value: Any, keys: Sequence[str], where: str) -> Tensor:
    """Follow `keys` into tuples, lists, mappings and objects with fields down to a tensor."""
    for key in keys:
        try:
            if isinstance(value, Mapping):
                value = value[key if key in value else int(key)]
            elif isinstance(value, (list, tuple)) and key.lstrip("-").isdigit():
                value = value[int(key)]
            else:
                value = getattr(value, key)
        except (KeyError, IndexError, ValueError, AttributeError):
            raise LayerError(f"{where} has no '[{key}]': it is {_contents(value)}.") from None
    if not isinstance(value, Tensor):
        raise LayerError(
            f"{where} is not a tensor but {_contents(value)}: select a part, as in 'PATH[0]' or 'PATH[name]'."
        )
    return value


def _contents(value: Any) -> str:
    def brief(item: Any) -> str:
        return check.shape(item) if isinstance(item, Tensor) else type(item).__name__

    name = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor {check.shape(value)}"
    if isinstance(value, Mapping):
        return f"a {name} with " + ", ".join(f"[{key}] {brief(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        fields = getattr(value, "_fields", range(len(value)))
        return f"a {name} with " + ", ".join(f"[{key}] {brief(item)}" for key, item in zip(fields, value, strict=True))
    return f"a {name}"


class Layers:
    """The table of a model's layers by name: through wrappers, with shared modules known under each of their names.

    Args:
        model: as the user gave it.
        name: "student", "teacher", ...; used in messages.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        if not isinstance(model, nn.Module):
            check.fail("Taps", "model", "a torch.nn.Module", type(model).__name__)
        self.name = name
        self.inner = unwrap(model)
        self.modules: dict[str, nn.Module] = {}
        self.canonical: dict[str, str] = {}  # the first name of the same module: what calls are counted under
        self.closed: dict[str, str] = {}  # layers that hooks do not reach, and why
        self.scratch: set[str] = set()  # attributes that dry runs changed ("layer.calls"): no part of what the model is
        self._first: dict[nn.Module, str] = {}
        for part in model.modules():
            if any(base.__name__ == "FullyShardedDataParallel" for base in type(part).__mro__):
                raise ValueError(
                    f"The {name} is sharded by FullyShardedDataParallel, whose layers cannot be read: give the plain "
                    "module, and shard it with torch.distributed.fsdp.fully_shard or FitOptions(shard=...)."
                )
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            raise ValueError(f"The {name} has lazy layers that have not seen data: run it once on an example first.")
        self.root_closed = self._why_closed(model)
        self._walk("", self.inner, self.root_closed)

    def _why_closed(self, model: Any) -> str:
        """Say why hooks do not reach anything in the model, "" if they do."""
        while model is not self.inner:
            if is_compiled(model) or model._compiled_call_impl is not None:
                return "the whole model is compiled"
            if isinstance(model, nn.DataParallel) and len(model.device_ids or ()) > 1:
                return "DataParallel runs copies of the model"
            model = model.module
        if model._compiled_call_impl is not None:
            return "the whole model is compiled"
        what = _without_layers(model)
        return f"the whole model is {what}" if what else ""

    def _walk(self, path: str, module: nn.Module, closed: str) -> None:
        inside = closed
        if module._compiled_call_impl is not None:
            closed = inside = closed or f"'{path}' is compiled"
        elif isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            closed = inside = closed or f"'{path}' is a ScriptModule"
        elif is_compiled(module):  # hooks on the wrapper itself run outside the graph
            inside = closed or f"'{path}' is compiled"
        elif what := _without_layers(module):
            inside = closed or f"'{path}' is {what}"
        if path not in self.modules:  # a wrapper takes the name; what it wraps is only walked through
            self.modules[path] = module
            self.canonical[path] = self._first.setdefault(module, path)
            if closed:
                self.closed[path] = closed
        for child_name, child in module._modules.items():
            if child is not None:
                full = path if child_name in _TRANSPARENT else f"{path}.{child_name}".lstrip(".")
                self._walk(full, child, inside)

    def resolve(self, path: LayerPath) -> str:
        """Return the canonical name of the layer that `path` points at, "" for the model itself.

        Raises:
            LayerError: if there is no such layer (with near names) or hooks do not reach it.
        """
        candidates = [path.layer, ".".join(part for part in path.layer.split(".") if part not in _TRANSPARENT)]
        candidates.append(candidates[1].removeprefix("module."))
        layer = next((candidate for candidate in candidates if candidate in self.modules), None)
        if layer is None and path.layer == "output":
            layer = ""
        if layer is None:
            raise LayerError(f"The {self.name} has no layer '{path.layer}'.{check.near(path.layer, self.modules)}")
        reason = self.closed.get(layer)
        if reason and (layer or path.side == "input"):
            raise LayerError(
                f"The {self.name}'s layer '{path.text}' cannot be read because {reason} and a tap inside could be "
                "silently skipped: give the plain module, or read 'output' only."
            )
        return self.canonical[layer]

    def check_calls(self, path: LayerPath, target: str, count: int) -> None:
        """Refuse a path to a layer that does not run, or whose call is not told apart from its others."""
        if count == 0:
            kind = type(self.modules[target]).__name__
            raise LayerError(f"The {self.name}'s layer '{path.text}' ({kind}) does not run in the model's forward.")
        if path.call is None and count > 1:
            raise LayerError(
                f"The {self.name}'s layer '{path.text}' runs {count} times in one forward: "
                f"say which call to read, as in '{path.layer}#1' to '{path.layer}#{count}'."
            )
        if path.call is not None and path.call > count:
            raise LayerError(
                f"The {self.name}'s layer '{path.text}' asks for call {path.call}, but '{path.layer}' "
                f"runs {count} time{'s' if count > 1 else ''} in one forward."
            )

    def reachable(self) -> dict[str, nn.Module]:
        """Return the layers that hooks reach, each once."""
        return {
            name: self.modules[name]
            for name, first in self.canonical.items()
            if name == first and name not in self.closed
        }

    def compiled(self) -> bool:
        """Whether any part is compiled."""
        return any(is_compiled(m) or m._compiled_call_impl is not None for m in self.modules.values())

"""Whether a term can have an extra backward, besides the step's, without side effects on the student's layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from congruence.core.graph import function_of, nodes

# Packages whose autograd functions give the same gradient on every call and keep no state.
_PURE = ("torch.", "congruence.")
_SPECIAL = {
    "CheckpointFunction": "activation checkpointing with use_reentrant=True",
    "BackwardHookFunction": "the backward hook of a module",
    "_DDPSink": "a DistributedDataParallel inside",
}


def why_no_own_backward(value: Tensor, parameters: Sequence[nn.Parameter]) -> str:
    """Describe what a second backward over a term's graph could change, "" if nothing.

    Micro-batches hide the models' graph behind one node; for these, `why_no_second_run` examines the modules.
    """
    if not value.requires_grad:
        return ""
    if any(p._backward_hooks for p in parameters):
        return "the hook of a parameter"
    return _special(value)


def why_no_second_run(students: nn.ModuleDict) -> str:
    """Describe what a second backward could change in students that their backward runs again, as micro-batches do."""
    return _SPECIAL["BackwardHookFunction"] if any(map(_has_backward_hook, students.modules())) else ""


def _has_backward_hook(module: nn.Module) -> bool:
    everywhere = torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks
    return bool(module._backward_hooks or module._backward_pre_hooks or everywhere)


def _special(value: Tensor) -> str:
    """Describe the part of a tensor's graph that cannot be run backward twice without side effects, "" if none."""
    for node in nodes([value]):
        function = function_of(node)
        if function is not None:
            if function.__name__ in _SPECIAL:
                return _SPECIAL[function.__name__]
            if not f"{function.__module__}.".startswith(_PURE):
                return f"the autograd function {function.__name__}, which may keep or change something"
        elif "CppNode" in node.name():
            return f"the autograd function {node.name()}, which may keep or change something"
    return ""

"""The wrapper of a teacher: frozen, always in evaluation mode, and read without gradient."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core.inputs import TEACHER
from congruence.models.evaluating import set_mode
from congruence.models.fingerprint import ModelFingerprint, model_fingerprint, state_fingerprint
from congruence.models.layers import is_unflattened
from congruence.models.parameters import shares_parameters
from congruence.models.prepared import Prepared, prepare
from congruence.models.sharded import is_sharded, whole_state
from congruence.models.taps import Taps

LOG = logging.getLogger("congruence")
__all__ = ["Teacher", "called", "shares_parameters"]


class Teacher:
    """A frozen network and its taps.

    This is a plain object, which a module does not register, so the teacher is never part of a `state_dict`, an
    optimizer or a `.train()` call. A `.train()` on the wrapped module itself is undone at the next read, before any
    batch-norm statistics can change.

    Args:
        module: the network; its parameters get `requires_grad=False` (pass a copy if a student shares them, see
            `shares_parameters`).
        name: the teacher's name in messages.

    Example:
        >>> teacher = Teacher(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))
        >>> teacher.taps.probe(torch.ones(4, 3), training=False)
        >>> teacher.taps.require(["input:1"])
        >>> _ = teacher.module.train()
        >>> output, values = teacher.read(torch.ones(4, 3))
        >>> output.requires_grad, teacher.module.training, list(values["input:1"].shape)
        (False, False, [4, 3])
    """

    def __init__(self, module: nn.Module, *, name: str = TEACHER) -> None:
        self.taps = Taps(module, name=name)
        self.module = module
        self.prepared: Prepared | None = None  # what `read` asks in its place
        self.seconds = 0.0  # that `read` took so far; on a GPU that is not the time of the work
        self.known: ModelFingerprint | None = None  # its identity, where it was sharded after that was read
        self.shared: dict[str, nn.Parameter] = {}  # that a student has, too: frozen ones
        for parameter in module.parameters():  # a ScriptModule has no `requires_grad_`
            if parameter.is_leaf:
                parameter.requires_grad_(False)
            else:  # of a copy of a ScriptModule
                parameter.detach_()
        set_mode(module, training=False)
        _refuse_graphs_that_train(module, name)

    def to(self, *args: Any, **kwargs: Any) -> Teacher:
        """Move or cast the network, as `nn.Module.to`; what was prepared is forgotten."""
        self.module.to(*args, **kwargs)
        self.prepared = None
        return self

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        set_mode(self.module, training=False)
        return self

    def eval(self) -> Teacher:
        """Stay in evaluation mode."""
        return self.train(False)

    def prepare(self) -> None:
        """Let `read` use a faster copy from now on, if there is one (see `congruence.models.prepared`)."""
        self.prepared = None if is_sharded(self.module) else prepare(self.taps)

    @property
    def arithmetic(self) -> str:
        """How the arithmetic of `read` differs from the plain network, in words; "" if it does not."""
        return self.prepared.arithmetic if self.prepared else ""

    def fingerprint(self) -> ModelFingerprint:
        """Return the teacher's identity, without attributes that its forward writes.

        All ranks must call this for a teacher that its user has sharded, which is identified by its weights alone.
        """
        if self.known is not None:
            return self.known
        if is_sharded(self.module):
            return state_fingerprint(whole_state(self.module.state_dict()))
        return model_fingerprint(self.module, self.taps.scratch)

    def read(self, inputs: Any, *, only: Collection[str] | None = None) -> tuple[Any, dict[str, Tensor]]:
        """Return the network's output and the tapped tensors (see `Taps.read`), without gradient.

        Raises:
            RuntimeError: if a parameter that it shares with a student has become trainable there.
        """
        began = time.perf_counter()
        try:
            return self._read(inputs, only)
        finally:
            self.seconds += time.perf_counter() - began

    def _read(self, inputs: Any, only: Collection[str] | None) -> tuple[Any, dict[str, Tensor]]:
        for name, parameter in self.shared.items():
            if parameter.requires_grad:
                raise RuntimeError(
                    f"The {self.taps.name} shares its parameter '{name}' with the student, where it requires a "
                    f"gradient by now: training would move the {self.taps.name}; freeze it, or give a copy."
                )
        if self.prepared and self.prepared.stale(self.module):
            LOG.warning("The %s's weights have changed: from now on it is read as it is.", self.taps.name)
            self.prepared = None
        if self.prepared and self.prepared.fits(inputs):
            with torch.no_grad():
                return self.prepared.read(inputs, only)
        if _trains(self.module):
            set_mode(self.module, training=False)
        # Not inference_mode: its tensors count no in-place changes, and cannot be saved for a student's backward.
        with torch.no_grad():
            return self.taps.read(inputs, only=only)


def called(teacher: str) -> str:
    """Return how a sentence calls a teacher.

    Example:
        >>> called("teacher"), called("dino")
        ('teacher', "teacher 'dino'")
    """
    return TEACHER if teacher == TEACHER else f"teacher '{teacher}'"


def _trains(module: nn.Module) -> bool:
    """Whether any part is in training mode; runs before every forward, hence not by the slower `modules()`."""
    stack: list[nn.Module | None] = [module]
    while stack:
        part = stack.pop()
        if part is not None:
            if getattr(part, "training", False):
                return True
            stack.extend(part._modules.values())
    return False


# Operators whose graph says whether they train, and the position of that argument.
_TRAINS_AT = {
    "dropout": 2,
    "dropout_": 2,
    "native_dropout": 2,
    "feature_dropout": 2,
    "alpha_dropout": 2,
    "feature_alpha_dropout": 2,
    "rrelu": 3,
    "batch_norm": 5,
    "_native_batch_norm_legit": 5,
    "_native_batch_norm_legit_functional": 5,
}


def _refuse_graphs_that_train(module: nn.Module, name: str) -> None:
    """Refuse an exported or traced part whose graph is that of training mode, which nothing can change any more.

    Raises:
        ValueError: naming the operator.
    """
    for part in module.modules():
        trains: list[str] = []
        if isinstance(part, torch.fx.GraphModule) or is_unflattened(part):
            graph: Any = part.graph
            for node in graph.nodes:
                operator = str(node.target).removeprefix("aten.").partition(".")[0]
                at = _TRAINS_AT.get(operator) if node.op == "call_function" else None
                if at is not None and len(node.args) > at and node.args[at] is True:
                    trains.append(operator)
                elif node.op == "call_function" and node.kwargs.get("training") is True:  # of torch.fx.symbolic_trace
                    trains.append(node.name)
        elif isinstance(part, torch.jit.ScriptModule) and part._c._has_method("forward"):
            script: Any = part.inlined_graph
            for operator, at in _TRAINS_AT.items():
                nodes = script.findAllNodes(f"aten::{operator}", recurse=True)
                trains += [operator for node in nodes if list(node.inputs())[at].toIValue() is True]
        if trains:
            raise ValueError(
                f"The {name} was exported or traced in training mode (its graph holds {trains[0]} with train=True): "
                f"do so after `.eval()`."
            )

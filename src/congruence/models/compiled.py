"""Runs a model compiled while its layers are read: torch.compile traces the forward including the taps' hooks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core.devices import on_tensors
from congruence.models.capture import Capture
from congruence.models.forward import call
from congruence.models.layers import Layers

LOG = logging.getLogger("congruence")
Backend = str | Callable[..., Any]  # as `torch.compile` takes it
BACKEND: Backend = "inductor"
_KEY = "congruence"  # of the hooks, always the same, as what is compiled looks them up by it


class Compiled:
    """The forwards of one model, compiled once for each set of layers that is read.

    Each is one graph from the inputs to the output and the layers' tensors; its hooks are on the model while it runs.
    Each input shape has its own graph, independent of earlier shapes, so a resumed run gets the same numbers. Random
    numbers are those of the plain forward. The output has no gradient unless it is among the layers, and a layer that
    is read but not used in a loss gives the parameters before it a gradient of 0 instead of None. A model that cannot
    be one graph runs uncompiled, after one warning with the reason.

    Example:
        >>> from congruence.models.taps import Taps
        >>> taps = Taps(nn.Linear(3, 2), name="student")
        >>> taps.probe(torch.ones(2, 3), training=True)
        >>> taps.require(["input:"])
        >>> taps.compiled = Compiled("eager")  # a backend that compiles nothing
        >>> output, values = taps.read(torch.ones(4, 3))
        >>> list(output.shape), list(values["input:"].shape)
        ([4, 2], [4, 3])
    """

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend = backend or BACKEND
        self.refused = False
        self._runs: dict[tuple[str, ...], _CompiledForward] = {}

    def run(self, model: nn.Module, inputs: Any, layers: Layers, capture: Capture) -> tuple[Any, Capture]:
        """Run the model on `inputs`; return its output and the capture that took the layers, this or a kept one."""
        from torch._dynamo.exc import TorchDynamoException

        error = None
        if not self.refused:
            # A graph holds the hooks that it was traced with, and these write into their capture. So each set of layers
            # has a compiled forward with a capture, which the caller gets in place of its own.
            run = self._runs.get(tuple(capture.paths))
            try:
                if run is None:
                    run = self._runs[tuple(capture.paths)] = _CompiledForward(model, layers, capture, self.backend)
                return run(inputs), run.capture
            except TorchDynamoException as refusal:
                error = refusal
        capture.begin()
        with capture.hooked(layers):
            output = call(model, inputs)  # what is wrong with the inputs is said here
        if error is not None:  # after the plain forward: where that fails too, the model can be compiled another time
            self.refused = True
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            LOG.warning("The %s runs uncompiled, because torch.compile cannot handle it: %s", capture.name, reason)
        return output, capture


class _CompiledForward:
    """One compiled forward: of a model, with the hooks of one capture."""

    def __init__(self, model: nn.Module, layers: Layers, capture: Capture, backend: Backend) -> None:
        self.capture = capture
        self._hooks = [(layers.modules[layer], side, hook) for (layer, side), hook in capture.hooks().items()]

        def forward(inputs: Any) -> Any:
            output = call(model, inputs)
            # A graph gives zeros as the gradient of what leads to its output alone, which a loss does not see: weight
            # decay would then move a head that no term trains.
            return output if capture.takes_output else on_tensors(Tensor.detach, output)

        # torch keeps graphs by code object, and stops compiling one that has a few (`recompile_limit`). With a code
        # object of its own, no two sets of layers share graphs, or that limit.
        code = forward.__code__.replace(co_name=f"forward_{id(self):x}")
        own = FunctionType(code, forward.__globals__, code.co_name, closure=forward.__closure__)
        # Inductor would draw random numbers of its own: with this, dropout is that of the plain forward.
        options: Any = {"fallback_random": True} if backend == "inductor" else None
        # One graph, or an error: after a break in the graph the rest would run as it is, unnoticed. No dynamic shapes:
        # which graph a shape gets would depend on what came before, and with it the last bits.
        self._forward = torch.compile(own, fullgraph=True, dynamic=False, backend=backend, options=options)

    def __call__(self, inputs: Any) -> Any:
        from torch._functorch import config

        self.capture.begin()
        # A compiled backward may write into what the forward saved for it. Here a graph is gone through twice: a term's
        # gradient norm takes a backward before the step's own.
        with self._hooked(), config.patch(donated_buffer=False):
            return self._forward(inputs)

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        """Hold the hooks on the model for one forward, under the key that the graph's guards look for.

        `register_forward_hook` would give each a new number in every forward, which the guards take for another model:
        it would be compiled again each time. Hence torch's own tables, written by hand.
        """
        tables: list[dict[Any, Any]] = []
        try:
            for module, side, hook in self._hooks:
                of_inputs = side == "input"
                hooks: dict[Any, Any] = module._forward_pre_hooks if of_inputs else module._forward_hooks
                # In a second table torch notes which hooks of an input take keyword arguments.
                flags: dict[Any, Any] = module._forward_pre_hooks_with_kwargs if of_inputs else {}
                tables += [hooks, flags]
                hooks[_KEY], flags[_KEY] = hook, True
            yield
        finally:
            for table in tables:
                table.pop(_KEY, None)

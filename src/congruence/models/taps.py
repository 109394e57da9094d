"""Read any layer of any model: hooks that live for one forward, checked by a dry run before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check, rng
from congruence.models.capture import Capture, Group
from congruence.models.classifier import head_and_logits
from congruence.models.compiled import Compiled
from congruence.models.forward import call, dry_forward
from congruence.models.layers import LayerError, LayerPath, Layers, parse

_DRAWS = 16  # dry runs at most, until each layer has run that may drop out at random
__all__ = ["LayerError", "Taps", "call"]


class Taps:
    """Tapped layers of one model.

    Paths are dotted module names. "input:PATH" is what enters a layer (its first argument), "PATH#2" its second call in
    one forward, "PATH[0]" or "PATH[name]" a part of a result that is not one tensor, "output" or "" the model's output.
    A module that is really called "output" keeps its name. Wrappers (`DistributedDataParallel`, `DataParallel`,
    `torch.compile`) are looked through, and the forward still goes through them.

    Values are what left (or entered) the layer: where a later operation works in place on a tapped tensor, the tap
    copies it. Nothing stays on the model between forwards: it can be saved, copied, or run by others as ever.

    Three kinds of forward: `probe` (dry) finds which layers run, how often and in what order; `require` (dry) takes the
    layers asked for once, for their shapes and to see which are written over later; `read` is a step's own. The
    hooks of the last two are `Capture`'s.

    Args:
        model: the user's module, never changed.
        name: "student", "teacher", ...; used in sentences.

    Raises:
        ValueError: for a model whose layers cannot be read (FSDP, lazy layers).

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> taps = Taps(model, name="student")
        >>> taps.probe(torch.ones(4, 3), training=True)
        >>> taps.default("features"), taps.default("logits")
        ('input:2', '2')
        >>> taps.require(["input:2", "1"])
        >>> output, values = taps.read(torch.ones(4, 3))
        >>> {path: list(value.shape) for path, value in values.items()}
        {'input:2': [4, 5], '1': [4, 5]}
    """

    def __init__(self, model: nn.Module, *, name: str) -> None:
        self.model = model
        self.name = name
        self.head: str | None = None
        self.shapes: dict[str, torch.Size] = {}
        self.compiled: Compiled | None = None  # what runs the model while it is set
        self.may_drop = False  # whether `read` leaves out layers that do not run in a forward in training mode
        self.stages: dict[str, torch.Size] = {}  # the last map of each size before it shrinks to 1×1, shallow to deep
        self._layers = Layers(model, name)
        self._probed: tuple[Any, bool] | None = None
        self._calls: dict[str, int] = {}
        self._finished: list[str] = []  # layers in the order in which the dry run left them
        self._before: dict[Group, int] = {}  # how many had been left when a layer was entered or left
        self._paths: dict[str, LayerPath] = {}
        self._targets: dict[str, str] = {}
        self._copied: set[str] = set()  # paths whose tensor is changed in place later in the forward
        self._linear: tuple[str, Tensor] | None = None  # the last Linear to run, and what left it
        self._logits: str | None = None

    def probe(self, example: Any, *, training: bool) -> None:
        """Run the model once on `example` in the mode of its use, and note which layers run, and how often.

        Raises:
            ValueError: where that forward fails, with its text and the example's shapes.
        """
        self._layers = Layers(self.model, self.name)
        self._calls, self._finished, self._before, self._linear = {}, [], {}, None
        last: dict[torch.Size, tuple[str, int, torch.Size]] = {}
        reachable = self._layers.reachable()
        with contextlib.ExitStack() as stack:
            for layer, module in reachable.items():
                stack.enter_context(_hook(module.register_forward_pre_hook(self._entering(layer))))
                stack.enter_context(_hook(module.register_forward_hook(self._leaving(layer, last))))
            output = dry_forward(self._layers, example, training=training)
        linear, left = self._linear or (None, None)
        path = None if linear is None else self._named(linear, self._calls[linear])
        self.head, self._logits = head_and_logits(path, left, output)
        named = {self._named(layer, count): shape for layer, count, shape in last.values()}
        self.stages = {path: shape for path, shape in named.items() if path and shape[2:].numel() > 1}
        self._probed = (example, training)

    @property
    def example(self) -> Any:
        """What `probe` ran the model on, None before."""
        return None if self._probed is None else self._probed[0]

    def _named(self, layer: str, call: int) -> str:
        """Return the path of one call of a layer."""
        return layer if self._calls[layer] == 1 else f"{layer}#{call}"

    def _entering(self, layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._before[(layer, "input")] = len(self._finished)

        return hook

    def _leaving(self, layer: str, last: dict[torch.Size, tuple[str, int, torch.Size]]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._calls[layer] = self._calls.get(layer, 0) + 1
            self._finished.append(layer)
            self._before[(layer, "output")] = len(self._finished)
            if isinstance(module, nn.Linear) and isinstance(output, Tensor):
                # Overwritten by each later one. A copy: it is compared with the model's output at the end.
                self._linear = layer, output.detach().clone()
            if isinstance(output, Tensor) and output.dim() == 4:
                # Of each size the last stays, the end of a stage.
                last[output.shape[2:]] = (layer, self._calls[layer], output.shape)

        return hook

    def default(self, role: str) -> str:
        """Return the layer that "features" (what enters the last Linear) or "logits" stands for: see `head_and_logits`.

        Raises:
            ValueError: where the model has no Linear layer that tells, asking for a layer by name.
        """
        if self._probed is None:
            raise RuntimeError(f"The {self.name}'s taps have no default layers before `probe`.")
        if role == "logits" and self._logits is not None:
            return self._logits
        if role == "features" and self.head is not None:
            return f"input:{self.head}"
        argument = f"{self.name}_layer=" if self.name in ("student", "teacher") else "student_layer= or teacher_layer="
        why = f"runs no Linear layer to find {role!r} by"
        if self._linear is not None:
            why = f"has no default layer for {role!r}"
            why += f", since its output is not that of its last Linear '{self._linear[0]}'" * (self.head is None)
        if self._layers.root_closed:
            raise ValueError(
                f"The {self.name} has no {role!r} to read, because {self._layers.root_closed}: give the plain module."
            )
        if role == "maps" and self.stages:
            maps = ", ".join(f"'{path}' {list(shape)}" for path, shape in self.stages.items())
            raise ValueError(f"The {self.name} {why}: name some with {argument}, of its last maps of each size {maps}.")
        raise ValueError(f"The {self.name} {why}: name one with {argument}.")

    def module(self, path: str) -> nn.Module:
        """Return the module that `path` points at."""
        return self._layers.modules[self._layers.resolve(parse(path))]

    def require(self, paths: Iterable[str]) -> None:
        """Add paths to read: each is found, must run, and is read once in a dry run for its shape and in-place changes.

        Raises:
            ValueError: in one sentence naming the model and the layer; nothing is added then.
        """
        if self._probed is None:
            raise RuntimeError(f"The {self.name}'s taps need `probe` before `require`.")
        paths = [paths] if isinstance(paths, str) else paths
        new = {text: parse(text) for text in paths if text not in self._paths}
        targets = {text: self._layers.resolve(path) for text, path in new.items()}
        # Numbers of calls tell layers apart only where it is known how many there are when none drops out.
        if any(path.call or not self._calls.get(targets[text]) for text, path in new.items()):
            self._redraw({targets[text]: path.call or 1 for text, path in new.items()})
        for text, path in new.items():
            self._check_calls(path, targets[text])
        if not new:
            return
        values = self._values_of(new, targets)
        self.shapes |= {text: value.shape for text, value in values.items()}
        self._paths |= new
        self._targets |= targets

    def _values_of(self, new: dict[str, LayerPath], targets: dict[str, str]) -> dict[str, Tensor]:
        """Read paths in a dry run, in several where layers drop out at random; note what is written over later."""
        example, training = self._probed or (None, False)
        values: dict[str, Tensor] = {}
        for draw in range(_DRAWS):
            left = {text: path for text, path in new.items() if text not in values}
            # Nothing is copied in this run, so that versions show what has to be from now on.
            capture = Capture(self.name, left, targets, copied=frozenset())
            with rng.untouched(), capture.hooked(self._layers):
                if draw:
                    rng.seed_everything(draw)
                output = dry_forward(self._layers, example, training=training)
            last = not training or draw == _DRAWS - 1
            missing = capture.finish(output, None if last else {})
            self._copied |= capture.moved()
            values |= capture.values
            if not missing:
                break
        return values

    def _redraw(self, fewest: dict[str, int]) -> None:
        """Run a model that trains a few times more, for layers that the dry run's own draw may have left out."""
        example, training = self._probed or (None, False)
        if not training:
            return
        calls: dict[str, int] = {}
        steady = True

        def counting(layer: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                calls[layer] = calls.get(layer, 0) + 1

            return hook

        reachable = self._layers.reachable()
        for draw in range(1, _DRAWS):
            calls.clear()
            with rng.untouched(), contextlib.ExitStack() as stack:
                for layer in fewest.keys() & reachable.keys():
                    stack.enter_context(_hook(reachable[layer].register_forward_hook(counting(layer))))
                rng.seed_everything(draw)
                dry_forward(self._layers, example, training=True)
            steady = steady and all(calls.get(layer, 0) == self._calls.get(layer, 0) for layer in fewest)
            for layer, count in calls.items():
                self._calls[layer] = max(count, self._calls.get(layer, 0))
            if draw >= _DRAWS // 4 and steady and all(self._calls.get(k, 0) >= n for k, n in fewest.items()):
                return

    def _check_calls(self, path: LayerPath, target: str) -> None:
        if target == "" and path.side == "output":
            count = 1  # what the forward returns, whether hooks reach the model itself or not
        else:
            count = self._calls.get(target, 0)
        if count == 0:
            kind = type(self._layers.modules[target]).__name__
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

    def read(self, inputs: Any, *, only: Collection[str] | None = None) -> tuple[Any, dict[str, Tensor]]:
        """Run the model on `inputs` (as `call` does) and return its output and the required layers' tensors by path.

        Args:
            inputs: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.
            only: the required paths to read this time; None reads all.

        Raises:
            ValueError: for a path in `only` that was not required.
            RuntimeError: where a tap did not run (but see `may_drop`), changed in place unseen, or carries no gradient.
        """
        paths = self._paths
        if only is not None:
            for text in only:
                if text not in paths:
                    near = check.near(text, paths)
                    raise ValueError(f"The {self.name}'s layer '{text}' was not asked for with `require`.{near}")
            paths = {text: paths[text] for text in paths if text in only}
        output, capture = self._run(inputs, Capture(self.name, paths, self._targets, self._copied))
        # A layer that drops out at random runs in one forward in training mode and not in the next.
        drops = self.may_drop and self.model.training
        capture.finish(output, self._calls if drops else None)
        if drops:
            self._calls |= {layer: max(n, self._calls.get(layer, 0)) for layer, n in capture.counts().items()}
        moved = capture.moved()
        if moved:
            # What was taken is written over and lost: this batch cannot be saved, the next ones can.
            self._copied |= moved
            raise RuntimeError(
                f"The {self.name}'s layer '{min(moved)}' was changed in place later in the forward, which the dry run "
                "did not show; it is copied from now on, so run this batch again (or probe in this mode)."
            )
        for text in capture.blind:
            self._check_gradient(text)
        values = capture.values
        capture.begin()  # a compiled forward's capture lives on, and would hold this batch's graph until the next
        return output, values

    def _run(self, inputs: Any, capture: Capture) -> tuple[Any, Capture]:
        """Run the model with the hooks, compiled where that is wanted and the mode is that of its use.

        The dry run saw that mode alone: in the other (a student's validation) the model runs as it is.
        """
        if self.compiled is not None and self._probed is not None and self.model.training == self._probed[1]:
            return self.compiled.run(self.model, inputs, self._layers, capture)
        with capture.hooked(self._layers):
            return call(self.model, inputs), capture

    def _check_gradient(self, text: str) -> None:
        """Refuse a tap taken under a no_grad that the model set itself, if something trainable lies before it."""
        # In the dry run's order, layers that had finished before this one was entered (or left) are those that may lie
        # on the way to it. Where none of them trains, a tensor without gradient is as it should be.
        group = (self._targets[text], self._paths[text].side)
        own = [group[0]] if group[1] == "output" else []
        earlier = self._finished[: self._before.get(group, 0)]
        if any(
            p.requires_grad for layer in earlier + own for p in self._layers.modules[layer].parameters(recurse=False)
        ):
            raise RuntimeError(
                f"The {self.name}'s layer '{text}' carries no gradient, as happens inside activation checkpointing "
                "with use_reentrant=True: set use_reentrant=False, or read a layer outside."
            )


@contextlib.contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()

"""Reads any layer of any model: hooks that exist for one forward, checked by a dry run before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check, rng
from congruence.core.devices import private
from congruence.models.capture import Capture, Group
from congruence.models.classifier import Defaults, LinearCall, default_layer, find_defaults, says_embedding
from congruence.models.compiled import Compiled
from congruence.models.forward import are_words, call, dry_forward, in_own_precision
from congruence.models.layers import LayerError, LayerPath, Layers, class_name, parse
from congruence.models.layouts import batch_sizes, canonical_shape
from congruence.models.observed import Observed
from congruence.models.sharded import ShardedForward
from congruence.models.tokens import Patches, patches_of, spread_blocks
from congruence.models.turned import Turned

_DRAWS = 16  # dry runs at most, until each layer has run that may drop out at random
__all__ = ["LayerError", "Taps", "call"]


class Taps:
    """Tapped layers of one model.

    Paths are dotted module names. "input:PATH" is the input of a layer (its first argument), "PATH#2" its second call
    in one forward, "PATH[0]" or "PATH[name]" a part of a result that is not a single tensor, "output" the model's
    output. A module that is really called "output" keeps its name. Wrappers (`DistributedDataParallel`, `DataParallel`,
    `torch.compile`) are left out of paths, but the forward still goes through them.
    Values are those at the time when they left (or entered) the layer: if a later operation changes a tapped tensor in
    place, the tap copies it. Nothing stays on the model between forwards: it can be saved, copied, or run elsewhere as
    before.
    Tensors are returned in the order that methods expect: [B, C], tokens [B, N, C], maps [B, C, H, W] and [B, C, T, H,
    W], whatever order the layer has (a Conv1d [B, C, T], a stage of Swin [B, H, W, C]). `layouts` holds the layouts
    derived from the layers, or named by the user, "" if unknown: such a tensor is returned unchanged, and `layout`
    raises for it.
    There are three kinds of forward: `probe` (dry) finds which layers run, how often and in what order; `require` (dry)
    reads the requested layers once, for their shapes and to see which are overwritten later; `read` is the forward of a
    step. The hooks of the last two are those of `Capture`.

    Args:
        model: the user's module, never changed.
        name: "student", "teacher", ...; used in messages.

    Raises:
        ValueError: for a model whose layers cannot be read (FullyShardedDataParallel, lazy layers).

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
        self.model, self.name = model, name
        self.head: str | None = None  # path of the Linear that gives the class logits
        self.defaults = Defaults()  # of this mode; `in_evaluation` those of the other
        self.in_evaluation: Defaults | None = None
        self.compiled: Compiled | None = None  # what runs the model while it is set
        self._shards = ShardedForward()
        self.may_drop = False  # whether `read` leaves out layers that do not run in a forward in training mode
        self.stages: dict[str, torch.Size] = {}  # of the default maps, shallow to deep
        self.tokens: str | None = None  # the last layer that gave tokens [B, N, C]
        self._sizes: list[tuple[int, int]] = []  # of the maps that the dry run saw
        self.turned = Turned(name)
        self.layouts, self.shapes = self.turned.layouts, self.turned.shapes
        self._layers = Layers(model, name)
        self._probed: tuple[Any, bool] | None = None
        self._calls: dict[str, int] = {}
        self._finished: list[str] = []  # layers in the order in which the dry run left them
        self._before: dict[Group, int] = {}  # how many had been left when a layer was entered or left
        self._paths: dict[str, LayerPath] = {}
        self._targets: dict[str, str] = {}
        self._copied: set[str] = set()  # paths whose tensor is changed in place later in the forward
        self._linears: list[tuple[str, int, Tensor, Tensor | None, Tensor]] = []  # of the dry run: layer, call, tensors
        self._last: nn.Module | None = None  # to run, of those with parameters of their own

    def probe(self, example: Any, *, training: bool) -> None:
        """Run the model once on `example` in the mode of its use, and note which layers run, and how often.

        Raises:
            ValueError: if that forward fails, with its text and the example's shapes.
        """
        self._layers = Layers(self.model, self.name)
        self._calls, self._finished, self._before, self._linears, self._last = {}, [], {}, [], None
        maps: list[tuple[str, int, torch.Size]] = []
        tokens: list[tuple[str, int, torch.Size]] = []
        reachable = self._layers.reachable()
        observed = self.turned.observed = Observed(self._layers)
        with contextlib.ExitStack() as stack:
            stack.enter_context(observed.watching())
            for layer, module in reachable.items():
                stack.callback(module.register_forward_pre_hook(self._entering(layer)).remove)
                stack.callback(module.register_forward_hook(self._leaving(layer, maps, tokens)).remove)
            output = dry_forward(self._layers, example, training=training)
        linears = [LinearCall(self._named(layer, n), left, had, own) for layer, n, left, had, own in self._linears]
        self.defaults, self.in_evaluation = find_defaults(linears, self._last, output, words=are_words(example)), None
        # No layer was seen: the output may be that of a head, unless it says what it is.
        if self._layers.root_closed and not says_embedding(self.defaults.features):
            self.defaults = replace(self.defaults, features=None)
        samples = batch_sizes(example)
        self.stages = self._last_of_each_size(maps, observed, samples)
        tokens = [(layer, n, observed.turned(layer, n, shape, "BNC")) for layer, n, shape in tokens]
        last = [(self._named(layer, n), shape) for layer, n, shape in tokens if shape[0] in samples and shape[1] > 1]
        self.tokens = last[-1][0] if last else None
        if last and not self.stages:
            self.stages = self._patches_of_blocks(last)
        self.head, self._linears = self.defaults.head, []
        self._probed = (example, training)
        # What another distiller reads of this model is seen anew: this example may have other shapes.
        for text, value in self._values_of(self._paths, self._targets).items() if self._paths else ():
            self.shapes[text] = canonical_shape(value.shape, self.layouts[text]) if self.layouts[text] else value.shape

    @property
    def closed(self) -> str:
        """Why hooks reach no layer of the model, in a clause; "" if they do."""
        return self._layers.root_closed

    @property
    def example(self) -> Any:
        """What `probe` ran the model on, None before."""
        return None if self._probed is None else self._probed[0]

    def _last_of_each_size(
        self, maps: list[tuple[str, int, torch.Size]], observed: Observed, samples: frozenset[int]
    ) -> dict[str, torch.Size]:
        """Return the last map of each size, in the order in which the sizes first came: the end of a stage each.

        A table of positions, or windows, whose rows are no samples, are passed over where there are others. The patches
        of a transformer, its only map, are no stage.
        """
        maps = [(layer, count, shape) for layer, count, shape in maps if shape[0] in samples] or maps
        maps = [(layer, n, observed.turned(layer, n, shape, "BCHW")) for layer, n, shape in maps]
        self._sizes = [(shape[2], shape[3]) for _, _, shape in maps if len(shape) == 4]
        if len(maps) == 1 and any(left.dim() == 3 for _, _, left, *_ in self._linears):
            return {}
        last: dict[torch.Size, tuple[str, torch.Size]] = {}
        for layer, count, shape in maps:
            last[shape[2:]] = self._named(layer, count), shape
        return {path: shape for path, shape in last.values() if path and shape[2:].numel() > 1}

    def _patches_of_blocks(self, tokens: list[tuple[str, torch.Size]]) -> dict[str, torch.Size]:
        """Return where a transformer has its patches at its end, and after blocks that are evenly spread before it."""
        sizes = {
            path: torch.Size([shape[0], shape[2], lie.height, lie.width])
            for path, shape in tokens
            if (lie := patches_of(shape[1], self._sizes)) is not None
        }
        end = tokens[-1][0]
        if end not in sizes:
            return {}
        modules = {path: self._layers.modules.get(path) for path, size in sizes.items() if size[2:] == sizes[end][2:]}
        whole = [(path, type(module)) for path, module in modules.items() if module is not None and module._modules]
        return {path: sizes[path] for path in (*spread_blocks(whole), end)}

    def _named(self, layer: str, call: int) -> str:
        """Return the path of one call of a layer."""
        return layer if self._calls[layer] == 1 else f"{layer}#{call}"

    def _entering(self, layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._before[(layer, "input")] = len(self._finished)

        return hook

    def patches(self, path: str) -> Patches | None:
        """Return how the tokens [B, N, C] of a required layer lie in their image; None if nothing tells."""
        shape = self.shapes[path]
        return patches_of(shape[1], self._sizes) if len(shape) == 3 else None

    def _leaving(
        self, layer: str, maps: list[tuple[str, int, torch.Size]], tokens: list[tuple[str, int, torch.Size]]
    ) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._calls[layer] = self._calls.get(layer, 0) + 1
            self._finished.append(layer)
            self._before[(layer, "output")] = len(self._finished)
            if not module._modules and module._parameters:
                self._last = module
            # A quantised or adapted one has another class, and the word in its name. Copies: they are compared with the
            # model's output at the end.
            if "Linear" in class_name(module) and isinstance(output, Tensor) and not output.is_nested:
                entered = args[0] if args and isinstance(args[0], Tensor) else None
                self._linears.append((layer, self._calls[layer], output.detach().clone(), entered, output))
            if isinstance(output, Tensor) and not output.is_nested and output.dim() in (4, 5):
                maps.append((layer, self._calls[layer], output.shape))
            if isinstance(output, Tensor) and not output.is_nested and output.dim() == 3:
                tokens.append((layer, self._calls[layer], output.shape))

        return hook

    def default(self, role: str) -> str:
        """Return the layer that "features" (the embedding), "logits" or "tokens" stands for: see `find_defaults`.

        "tokens" are those of the last layer that gave some, else the positions of the last map.

        Raises:
            ValueError: if nothing tells, or training and evaluation differ, asking for a layer by name.
        """
        if self._probed is None:
            raise RuntimeError(f"The {self.name}'s taps have no default layers before `probe`.")
        if role == "tokens" and not self._layers.root_closed and (self.tokens or self.stages):
            return self.tokens or list(self.stages)[-1]
        return default_layer(
            role, self.name, self.defaults, self.in_evaluation, stages=self.stages, closed=self._layers.root_closed
        )

    def dry_output(self) -> Any:
        """Return what the model says of the example, in the mode that was probed; all is as before afterwards."""
        if self._probed is None:
            raise RuntimeError(f"The {self.name}'s taps need `probe` before `dry_output`.")
        return dry_forward(self._layers, self._probed[0], training=self._probed[1])

    def sides(self) -> set[tuple[str, str]]:
        """Return which sides ("input" or "output") of which modules the required paths read."""
        return {(self._targets[text], path.side) for text, path in self._paths.items()}

    @property
    def scratch(self) -> frozenset[str]:
        """What dry runs changed in the model's attributes, see `Layers.scratch`."""
        return frozenset(self._layers.scratch)

    def module(self, path: str) -> nn.Module:
        """Return the module that `path` points at."""
        return self._layers.modules[self._layers.resolve(parse(path))]

    def layout(self, path: str, way: str = "read another layer") -> str:
        """Return the layout of a required layer.

        Args:
            path: of the layer.
            way: what its user can do where nothing tells.

        Raises:
            ValueError: if nothing tells.
        """
        return self.turned.layout(path, way)

    def require(self, paths: Iterable[str], layout: str | None = None) -> None:
        """Add paths to read: each is found, must run, and is read once in a dry run for its shape and in-place changes.

        Args:
            paths: to read.
            layout: of what these layers give, where it is named; by default the layers say it.

        Raises:
            ValueError: in one sentence naming the model and the layer; nothing is added then.
        """
        if self._probed is None:
            raise RuntimeError(f"The {self.name}'s taps need `probe` before `require`.")
        paths = [paths] if isinstance(paths, str) else list(paths)
        new = {text: parse(text) for text in paths if text not in self._paths}
        targets = {text: self._layers.resolve(path) for text, path in new.items()}
        # Numbers of calls tell layers apart only where it is known how many there are when none drops out.
        if any(path.call or not self._calls.get(targets[text]) for text, path in new.items()):
            self._redraw({targets[text]: path.call or 1 for text, path in new.items()})
        for text, path in new.items():
            output = targets[text] == "" and path.side == "output"  # whether hooks reach the model itself or not
            self._layers.check_calls(path, targets[text], 1 if output else self._calls.get(targets[text], 0))
        self.turned.name_again([text for text in paths if text not in new], layout)
        if not new:
            return
        values = self._values_of(new, targets)
        shapes = {text: value.shape for text, value in values.items()}
        self.turned.add(shapes, {text: (new[text], targets[text]) for text in shapes}, layout)
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
                    stack.callback(reachable[layer].register_forward_hook(counting(layer)).remove)
                rng.seed_everything(draw)
                dry_forward(self._layers, example, training=True)
            steady = steady and all(calls.get(layer, 0) == self._calls.get(layer, 0) for layer in fewest)
            for layer, count in calls.items():
                self._calls[layer] = max(count, self._calls.get(layer, 0))
            if draw >= _DRAWS // 4 and steady and all(self._calls.get(k, 0) >= n for k, n in fewest.items()):
                return

    def read(self, inputs: Any, *, only: Collection[str] | None = None) -> tuple[Any, dict[str, Tensor]]:
        """Run the model on `inputs` (as `call` does), and return its output and the required layers' tensors by path.

        Args:
            inputs: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.
            only: the required paths to read this time; None reads all.

        Raises:
            ValueError: for a path in `only` that was not required.
            RuntimeError: if a tap did not run (but see `may_drop`), was changed in place unexpectedly, or has no
                gradient.
        """
        paths = self._paths
        if only is not None:
            for text in only:
                if text not in paths:
                    near = check.near(text, paths)
                    raise ValueError(f"The {self.name}'s layer '{text}' was not asked for with `require`.{near}")
            paths = {text: paths[text] for text in paths if text in only}
        # A copy: several models see one batch, and one that writes into its inputs would change those of the next.
        self._shards.before(self._layers.inner)
        mine = private(in_own_precision(self._layers.inner, inputs))
        output, capture = self._run(mine, Capture(self.name, paths, self._targets, self._copied))
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
        capture.values = self._shards.after(self._layers, capture.values, paths, self._targets)
        values = {text: self.turned.turn(text, value) for text, value in capture.values.items()}
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

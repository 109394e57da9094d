"""The hooks and tensors of one forward that is tapped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from congruence.models.forward import version
from congruence.models.layers import LayerError, LayerPath, Layers, pick

Group = tuple[str, str]  # (canonical layer, "input" or "output"): one hook serves all taps on it


class Capture:
    """Tensors taken from one forward.

    The hooks are on the model only during that forward: copies, pickles and other callers' forwards of the model never
    see them, and a forward that fails leaves none behind.

    Args:
        name: of the model, for sentences.
        paths: what to take, by the text of the path.
        targets: the canonical layer of each path.
        copied: paths whose tensor is copied when taken, because something changes it in place later.

    Attributes:
        values: the tensors by path, after `finish`.
        blind: paths taken while the model itself had gradients switched off.
    """

    def __init__(
        self, name: str, paths: Mapping[str, LayerPath], targets: Mapping[str, str], copied: Collection[str]
    ) -> None:
        self.name = name
        self.paths = paths
        self._copied = copied
        self._groups: dict[Group, list[LayerPath]] = {}
        self._outputs: list[LayerPath] = []  # of the model itself: no hook is needed
        self.begin()
        for text, path in paths.items():
            target = targets[text]
            if target == "" and path.side == "output":
                self._outputs.append(path)
            else:
                self._groups.setdefault((target, path.side), []).append(path)

    def begin(self) -> None:
        """Forget what was taken, before a forward."""
        self.values: dict[str, Tensor] = {}
        self.blind: list[str] = []
        self._versions: dict[str, int] = {}
        self._counts: dict[Group, int] = {}
        self._grad = torch.is_grad_enabled()  # as the caller has it; the model may switch it off inside

    @property
    def takes_output(self) -> bool:
        """Whether the model's own output is among what is taken."""
        return bool(self._outputs)

    def hooks(self) -> dict[Group, Callable[..., None]]:
        """Return the hooks by layer and side; those of an input take keyword arguments, too."""
        made = {"input": self._on_input, "output": self._on_output}
        return {group: made[group[1]](group) for group in self._groups}

    @contextlib.contextmanager
    def hooked(self, layers: Layers) -> Iterator[None]:
        """Hold the hooks for the duration of one forward."""
        handles = []
        try:
            for (layer, side), hook in self.hooks().items():
                module = layers.modules[layer]
                if side == "input":
                    handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    handles.append(module.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _on_input(self, group: Group) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if args:
                self._take(group, args[0])
            else:  # called with keywords alone: a single one is the input, of several a path picks ("input:PATH[name]")
                self._take(group, next(iter(kwargs.values())) if len(kwargs) == 1 else kwargs)

        return hook

    def _on_output(self, group: Group) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._take(group, output)

        return hook

    def _take(self, group: Group, value: Any) -> None:
        # Calls are counted by module and side, not by path: "relu#2" is the second call of a module that may have other
        # names, and a path without a number must meet a single call, which `finish` checks.
        self._counts[group] = count = self._counts.get(group, 0) + 1
        for path in self._groups[group]:
            if path.call is None or path.call == count:
                self._keep(path, value)

    def _keep(self, path: LayerPath, value: Any) -> None:
        tensor = value
        if path.keys or not isinstance(value, Tensor):
            tensor = pick(value, path.keys, f"The {self.name}'s layer '{path.text}'")
        if tensor.is_nested:
            raise LayerError(
                f"The {self.name}'s layer '{path.text}' gives a nested tensor, as layers inside nn.TransformerEncoder "
                "do for padded batches in evaluation mode: make it with enable_nested_tensor=False (or set its "
                "use_nested_tensor = False), or read what leaves the encoder."
            )
        # A later ReLU(inplace=True) writes into the very tensor that was taken. To copy all would take the memory of a
        # second set of maps, so those alone are copied of which the dry run showed it.
        if path.text in self._copied:
            tensor = tensor.clone()
        self.values[path.text] = tensor
        # Torch counts writes in place in a tensor's version: `moved` compares after the forward, and so finds what the
        # dry run did not show. A compiled graph counts none: there, what the dry run showed must do.
        if not torch.compiler.is_compiling():
            self._versions[path.text] = version(tensor)
        # The caller wants gradients, and the model switched them off here. That may be meant (frozen layers), or it is
        # re-entrant checkpointing, which runs the layers again in the backward, where no hook takes anything. `Taps`
        # finds out which.
        if self._grad and not tensor.requires_grad and tensor.is_floating_point() and not torch.is_grad_enabled():
            self.blind.append(path.text)

    def finish(self, output: Any, most: Mapping[str, int] | None = None) -> list[str]:
        """Take the model's own output and check that every tap ran as often as it did in the dry run.

        A forward may take another way than the dry run's: a tensor of another call must not pass for the one asked for.

        Args:
            output: of the model.
            most: where layers may drop out at random, how often each has run at most, by canonical name: of fewer calls
                none can be told by its number.

        Returns:
            The paths that were not taken; without `most` they raise.
        """
        for path in self._outputs:
            self._keep(path, output)
        missing: list[str] = []
        for group, paths in self._groups.items():
            count = self._counts.get(group, 0)
            for path in paths:
                fewest = path.call or 1
                if most is not None and path.call is not None:
                    fewest = max(fewest, most.get(group[0], 0))
                if count < fewest and most is not None:
                    missing.append(path.text)
                elif count < fewest or (path.call is None and count > 1):
                    raise RuntimeError(
                        f"The {self.name}'s layer '{path.text}' ran {count} times in this forward, "
                        "unlike in the dry run."
                    )
        for text in missing:
            self.values.pop(text, None)
            self._versions.pop(text, None)
        # In the order asked for, not that of the calls.
        self.values = {text: self.values[text] for text in self.paths if text in self.values}
        return missing

    def counts(self) -> dict[str, int]:
        """Return how often each tapped layer ran, by canonical name."""
        return {layer: count for (layer, _), count in self._counts.items()}

    def moved(self) -> set[str]:
        """Return the paths whose tensor was changed in place after it was taken."""
        return {text for text, before in self._versions.items() if version(self.values[text]) != before}

"""`Prefixes`: a method at prefixes of the student's embedding, as Matryoshka embeddings are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.methods.method import Clock, Method, Probe, Signals

_ROLES = ("features",)


class Prefixes(Method):
    """A method's loss, averaged over prefixes of the student's embedding: L = (1/|D|) Σ_{d in D} ℓ_d(s[:, :d], t).

    Each ℓ_d is a copy of the method with parts (a linear map to the teacher's width, a queue) of its own. The teacher's
    embedding is whole. All views are cut; the parts of a loss with several parts are averaged one by one.

    Shape:
        features of the student [B, D_s], of the teacher [B, D_t]; max(dims) <= D_s.

    Args:
        methods: equal new methods that read only the features, one for each prefix.
        dims: widths of the prefixes.

    Raises:
        ValueError: for a method that reads something else, and when it is built, for a prefix wider than the embedding.

    Example:
        >>> from congruence.methods import row
        >>> Prefixes([row("pkt").make() for _ in range(2)], (32, 64)).needs.roles
        ('features',)

    Reference:
        Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022, eq. 1 with equal weights c_m.

    Deviations:
        The mean over the prefixes, not their sum: a weight means the same with and without `dims`.
    """

    def __init__(self, methods: Sequence[Method], dims: Sequence[int]) -> None:
        super().__init__()
        check_dims("Prefixes", dims)
        if len(methods) != len(dims):
            check.fail("Prefixes", "methods", f"one for each of {len(dims)} prefixes", len(methods))
        needs = methods[0].needs
        if needs.roles != _ROLES or needs.students != "each":
            raise ValueError(
                f"`Term`: `dims` must be given for a method that reads only the embedding ('features'), got "
                f"{type(methods[0]).__name__}, which reads {' and '.join(map(repr, needs.roles))}."
            )
        self.dims, self.needs, self.own_parts = tuple(dims), needs, methods[0].own_parts
        self.inner = nn.ModuleList(methods)

    @property
    def _methods(self) -> list[Method]:
        return [each for each in self.inner if isinstance(each, Method)]

    def build(self, probe: Probe) -> None:
        """Build each copy for a student of the prefix's width."""
        shapes = probe.shapes["student", "features"]
        narrow = min(shape[1] for shape in shapes)
        if max(self.dims) > narrow:
            check.fail("Term", "dims", f"numbers up to the width {narrow} of the student's embedding", max(self.dims))
        for dim, method in zip(self.dims, self._methods, strict=True):
            cut = tuple(torch.Size([shape[0], dim]) for shape in shapes)
            method.build(replace(probe, shapes={**probe.shapes, ("student", "features"): cut}))

    def embed(self, signals: Signals) -> Signals:
        """Cut the student's rows, and apply the parts of each copy to its prefix: as many layers as there are copies.

        Tensors of the teacher that no copy changes stay as they are.
        """
        embedded = []
        for dim, method in zip(self.dims, self._methods, strict=True):
            cut = {
                key: tuple(rows[:, :dim] for rows in layers)
                for key, layers in signals.tensors.items()
                if key[0] == "student" and key[2] == "features"
            }
            embedded.append(method.embed(signals.replace(cut)).tensors)
        joined = {}
        for key, layers in signals.tensors.items():
            of_each = [tensors[key] for tensors in embedded]
            same = all(new is old for made in of_each for new, old in zip(made, layers, strict=True))
            joined[key] = layers if same else tuple(rows for made in of_each for rows in made)
        return signals.replace(joined)

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the mean over the prefixes of each part of the loss."""
        values = [method.loss(part) for method, part in zip(self._methods, self._parts(signals), strict=True)]
        return {name: torch.stack([value[name] for value in values]).mean() for name in values[0]}

    def _parts(self, signals: Signals) -> list[Signals]:
        """Return the signals of each copy."""
        parts = []
        of_all = signals.all_ranks and self._parts(signals.all_ranks)
        for at in range(len(self.dims)):
            tensors = {key: self._own(layers, at) for key, layers in signals.tensors.items()}
            changed = replace(signals, tensors=tensors, runner=self._runner(signals, at))
            parts.append(replace(changed, all_ranks=of_all[at]) if of_all else changed)
        return parts

    def _own(self, layers: tuple[Tensor, ...], at: int) -> tuple[Tensor, ...]:
        count, rest = divmod(len(layers), len(self.dims))
        return layers if rest or not count else layers[at * count : (at + 1) * count]

    def _runner(self, signals: Signals, at: int) -> Callable[[Mapping[str, Any]], Signals] | None:
        if signals.runner is None:
            return None
        return lambda views: self._parts(signals.rerun(views))[at]

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Return those of the copies."""
        return [parameter for method in self._methods for parameter in method.without_decay()]

    def update(self, signals: Signals) -> None:
        """Let each copy update."""
        for method, part in zip(self._methods, self._parts(signals), strict=True):
            method.update(part)

    def begin_epoch(self, clock: Clock) -> None:
        """Let each copy begin an epoch."""
        for method in self._methods:
            method.begin_epoch(clock)

    def end_epoch(self) -> None:
        """Let each copy end an epoch."""
        for method in self._methods:
            method.end_epoch()


def check_dims(function: str, dims: Any) -> None:
    """Raise a ValueError for anything but different whole numbers from 1 on, at least one.

    Example:
        >>> check_dims("Term", (32, 32))
        Traceback (most recent call last):
        ValueError: `Term`: `dims` must be different whole numbers >= 1, at least one, got (32, 32).
    """
    listed = isinstance(dims, list | tuple) and len(dims) > 0 and all(check.COUNT.accepts(dim) for dim in dims)
    if not listed or len(set(dims)) < len(dims):
        check.fail(function, "dims", "different whole numbers >= 1, at least one", repr(dims))

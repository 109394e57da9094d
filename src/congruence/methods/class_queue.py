"""A queue of samples by class whose inputs are kept, so that a loss over them can be computed with real gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ClassQueue(nn.Module):
    """Keeps the inputs of samples, by view, until there are `size` of a class.

    Its state is buffers that grow and shrink: `labels` [n], and one tensor [n, ...] for each tensor of each view.

    Args:
        views: the names of the views.
        size: the number of samples of a class that makes it ready.
    """

    labels: Tensor

    def __init__(self, views: Sequence[str], size: int) -> None:
        super().__init__()
        self.views, self.size = tuple(views), size
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def ready(self) -> Tensor:
        """Return which queued samples [n] belong to a class that has enough of them."""
        return torch.bincount(self.labels)[self.labels] >= self.size

    def taken(self, chosen: Tensor, like: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of the chosen samples by view, in the structure (tensor, tuple or mapping) of `like`."""
        leaves = iter(
            [getattr(self, f"{view}_{k}")[chosen] for view in self.views for k, _ in self._leaves(like[view])]
        )
        return {view: _filled(like[view], leaves) for view in self.views}

    def replace(self, dropped: Tensor, inputs: Mapping[str, Any], labels: Tensor, added: Tensor) -> None:
        """Drop some queued samples and add some of a batch.

        Raises:
            ValueError: if the batch's inputs differ in shape from those in the queue.
        """
        stay = ~dropped
        for view in self.views:
            for k, rows in self._leaves(inputs[view]):
                name, new = f"{view}_{k}", rows[added]
                old = getattr(self, name, None)
                if old is None or not len(old):
                    self.register_buffer(name, new)
                    continue
                if old.shape[1:] != new.shape[1:]:
                    raise ValueError(
                        f"`ClassQueue`: inputs must have the shape {list(old.shape[1:])} of those kept in view "
                        f"'{view}', got {list(new.shape[1:])}: pad all batches to one shape."
                    )
                self.register_buffer(name, torch.cat([old[stay], new.to(old.dtype)]))
        self.labels = torch.cat([self.labels[stay], labels[added].long()])

    @staticmethod
    def _leaves(inputs: Any) -> list[tuple[int, Tensor]]:
        return list(enumerate(_tensors(inputs)))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Resize the buffers to the sizes in the state."""
        device = self.labels.device
        for name in [name for name in self._buffers if name != "labels"]:
            delattr(self, name)
        for key, value in state_dict.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                self.register_buffer(name, torch.empty_like(value, device=device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            yield from _tensors(inputs[key])
    elif isinstance(inputs, (tuple, list)):
        for part in inputs:
            yield from _tensors(part)


def _filled(like: Any, leaves: Iterator[Tensor]) -> Any:
    """Return the structure of `like` with its tensors replaced, in the order of `_tensors`."""
    if isinstance(like, Tensor):
        return next(leaves)
    if isinstance(like, Mapping):
        filled = {key: _filled(like[key], leaves) for key in sorted(like)}
        return {key: filled[key] for key in like}
    if isinstance(like, (tuple, list)):
        parts = [_filled(part, leaves) for part in like]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    return like

"""A queue of samples by class whose inputs are kept, so that a loss over them can be computed with real gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Pipeline(nn.Module):
    """Keep the inputs of samples, by view, until `size` of a class are there.

    Its state is buffers that grow and shrink: `labels` [n], and one tensor [n, ...] for each tensor of each view.

    Args:
        views: the names of the views kept.
        size: so many samples of a class make it ready.
    """

    labels: Tensor

    def __init__(self, views: Sequence[str], size: int) -> None:
        super().__init__()
        self.views, self.size = tuple(views), size
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def ready(self) -> Tensor:
        """Return which kept samples [n] belong to a class of which enough are there."""
        return torch.bincount(self.labels)[self.labels] >= self.size

    def taken(self, chosen: Tensor, like: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of the chosen samples by view, in the form (tensor, tuple or mapping) of `like`."""
        kept = iter([getattr(self, f"{view}_{k}")[chosen] for view in self.views for k, _ in self._leaves(like[view])])
        return {view: _filled(like[view], kept) for view in self.views}

    def replace(self, dropped: Tensor, inputs: Mapping[str, Any], labels: Tensor, added: Tensor) -> None:
        """Drop some kept samples and add some of a batch.

        Raises:
            ValueError: where the batch's inputs have another shape than those kept.
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
                        f"`Pipeline`: inputs must have the shape {list(old.shape[1:])} of those kept in view '{view}', "
                        f"got {list(new.shape[1:])}: pad all batches to one shape."
                    )
                self.register_buffer(name, torch.cat([old[stay], new.to(old.dtype)]))
        self.labels = torch.cat([self.labels[stay], labels[added].long()])

    @staticmethod
    def _leaves(inputs: Any) -> list[tuple[int, Tensor]]:
        return list(enumerate(_tensors(inputs)))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take the sizes that the state has."""
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
        for item in inputs:
            yield from _tensors(item)


def _filled(like: Any, kept: Iterator[Tensor]) -> Any:
    if isinstance(like, Tensor):
        return next(kept)
    if isinstance(like, Mapping):
        filled = {key: _filled(like[key], kept) for key in sorted(like)}
        return {key: filled[key] for key in like}
    if isinstance(like, (tuple, list)):
        items = [_filled(item, kept) for item in like]
        return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)
    return like

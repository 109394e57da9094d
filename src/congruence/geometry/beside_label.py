"""Class logits split at one class: its own logit, and those of all other classes."""

from __future__ import annotations

import torch
from torch import Tensor


def other_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """Return each row's logits without that of one class, in their order.

    If all others are masked (-inf), they are not a distribution, and zeros are returned.

    Shape:
        `logits` [B, C], `classes` [B] in [0, C); returns [B, C − 1].

    Example:
        >>> other_logits(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([0, 1])).tolist()
        [[2.0, 3.0], [4.0, 6.0]]
    """
    others = _others(logits, classes)
    return torch.where(others.isneginf().all(1, keepdim=True), torch.zeros_like(others), others)


def among_all(others: Tensor, classes: Tensor) -> Tensor:
    """Return values of the other classes among all classes, with 0 at the one class: the inverse of `other_logits`.

    Shape:
        `others` [B, C − 1], `classes` [B] in [0, C); returns [B, C].

    Example:
        >>> among_all(torch.tensor([[2.0, 3.0]]), torch.tensor([1])).tolist()
        [[2.0, 0.0, 3.0]]
    """
    count = others.shape[1]
    return others.new_zeros(len(others), count + 1).scatter(1, _places(count, classes), others)


def _others(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, _places(logits.shape[1] - 1, classes))


def _places(count: int, classes: Tensor) -> Tensor:
    """Return where the other classes stand among all [B, count]."""
    places = torch.arange(count, device=classes.device)
    return places + (places >= classes[:, None])


def one_against_others(logits: Tensor, classes: Tensor) -> Tensor:
    """Return two logits for each row, of one class and of all others together: their softmax is [p_c, 1 − p_c].

    Shape:
        `logits` [B, C], `classes` [B] in [0, C); returns [B, 2].

    Example:
        >>> one_against_others(torch.zeros(1, 4), torch.tensor([2])).softmax(1)
        tensor([[0.2500, 0.7500]])
    """
    others = _others(logits, classes)
    masked = others.isneginf().all(1, keepdim=True)  # their sum is 0, and the gradient of its logarithm is none
    total = torch.where(masked, torch.zeros_like(others), others).logsumexp(1, keepdim=True)
    return torch.cat([logits.gather(1, classes[:, None]), total.masked_fill(masked, -torch.inf)], 1)


def expectation(shares: Tensor, logarithms: Tensor) -> Tensor:
    """Return Σ_c p_c log q_c of each row; terms with p_c = 0 are 0, even if the logarithm is -inf.

    Shape:
        both [B, C]; returns [B].

    Example:
        >>> expectation(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[-2.0, -4.0, -torch.inf]]))
        tensor([-3.])
    """
    counted = (shares > 0) | logarithms.isnan()  # 0 times NaN shows
    return (shares * torch.where(counted, logarithms, torch.zeros_like(logarithms))).sum(1)

"""Tokens of padded batches: checked, without what padding holds, and the divergence of what they attend to."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.core import check


def check_tokens(function: str, mask: Tensor | None, /, **tokens: Tensor) -> None:
    """Check that arguments are tokens [B, N, D] with B and N in common, and that `mask` is None or bool [B, N].

    Example:
        >>> check_tokens("gram_loss", None, student_tokens=torch.ones(2, 3, 4), teacher_tokens=torch.ones(2, 5, 4))
        Traceback (most recent call last):
        ValueError: `gram_loss`: `student_tokens` and `teacher_tokens` must have the same number of rows and of \
tokens, got `student_tokens` [2, 3, 4], `teacher_tokens` [2, 5, 4].
    """
    check.floating(function, 3, **tokens)
    if len({tensor.shape[:2] for tensor in tokens.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in tokens)
        shapes = ", ".join(f"`{name}` {check.shape(tensor)}" for name, tensor in tokens.items())
        raise ValueError(f"`{function}`: {names} must have the same number of rows and of tokens, got {shapes}.")
    for tensor in tokens.values():
        check_mask(function, mask, tensor)


def check_mask(function: str, mask: Tensor | None, tokens: Tensor) -> None:
    """Check that `mask` is None or a boolean tensor [B, N] for tokens [B, N, ...].

    Example:
        >>> check_mask("gram_loss", torch.ones(2, 3), torch.ones(2, 3, 4))
        Traceback (most recent call last):
        ValueError: `gram_loss`: `mask` must be None or a boolean tensor of shape [2, 3], got torch.float32 of shape \
[2, 3].
    """
    if mask is None:
        return
    wanted = f"None or a boolean tensor of shape {list(tokens.shape[:2])}"
    if not isinstance(mask, Tensor):
        check.fail(function, "mask", wanted, type(mask).__name__)
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        check.fail(function, "mask", wanted, f"{mask.dtype} of shape {check.shape(mask)}")
    check.dense(function, tokens=tokens, mask=mask)


def without_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Set the tokens that `mask` [B, N] leaves out to 0: NaN there is gone, and their gradient is 0.

    Example:
        >>> without_padding(torch.tensor([[[1.0], [torch.nan]]]), torch.tensor([[True, False]])).tolist()
        [[[1.0], [0.0]]]
    """
    return tokens if mask is None else tokens.masked_fill(~mask.unsqueeze(2), 0)


def row_divergence(student_scores: Tensor, teacher_scores: Tensor, keys: Tensor | None = None) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)) of each row, over the entries that `keys` marks; 0 where there are none.

    Shape:
        both scores [..., N]; `keys` bool, of a shape that broadcasts to theirs; returns [...].

    Example:
        >>> scores = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 3.0]])
        >>> row_divergence(scores, scores.sort(0).values, torch.tensor([True, True, False])).tolist()
        [0.0, 0.0]
    """
    student_logs, teacher_logs = (_log_shares(scores, keys) for scores in (student_scores, teacher_scores))
    apart = teacher_logs - student_logs
    if keys is not None:
        apart = apart.masked_fill(~keys, 0)
    return (teacher_logs.exp() * apart).sum(-1)


def _log_shares(scores: Tensor, keys: Tensor | None) -> Tensor:
    # Not -inf: a row without any entry would be NaN, in its gradient too.
    if keys is not None:
        scores = scores.masked_fill(~keys, torch.finfo(scores.dtype).min)
    return scores.log_softmax(-1)

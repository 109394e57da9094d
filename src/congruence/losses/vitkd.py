"""ViTKD: tokens of a vision transformer, copied in the first layers and generated in the last."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.tokens import check_mask, without_padding

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}
GENERATION_CHECKS: Mapping[str, check.Constraint] = {
    "mask_ratio": check.Real(low=0, high=1, closed="high"),
    "reduction": REDUCTION,
}


@float32_island
def token_mimic_loss(
    student_tokens: Tensor, teacher_tokens: Tensor, *, reduction: Reduction = "mean", mask: Tensor | None = None
) -> Tensor:
    """Sum of squared differences of paired tokens: ℓ_b = Σ_n ‖s_bn − t_bn‖²; "mean" is over the batch.

    The method adds this loss for the first two layers, each with its own linear map. It grows with the number of tokens
    and their width, hence its usual weight of 3e-5.

    Shape:
        `student_tokens` and `teacher_tokens` [B, N, D]; `mask` [B, N]; returns [], or [B] for `reduction="none"`.

    Args:
        student_tokens: tokens of a layer, without class token, mapped to the teacher's width.
        teacher_tokens: the teacher's tokens at the same positions.
        reduction: "none", "mean" or "sum".
        mask: bool, True for real tokens; None: all are. Values at the others have no effect.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes or a mask that do not fit, or an unknown reduction.

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
        >>> token_mimic_loss(tokens, torch.zeros(2, 2, 2)).item()
        13.0

    Reference:
        Yang et al., ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation, 2022, and the authors' code.

    Deviations:
        None.
    """
    name = "token_mimic_loss"
    check.floating(name, 3, student_tokens=student_tokens, teacher_tokens=teacher_tokens)
    check.same_shape(name, student_tokens=student_tokens, teacher_tokens=teacher_tokens)
    check_mask(name, mask, student_tokens)
    student, teacher = (without_padding(tokens, mask) for tokens in (student_tokens, teacher_tokens))
    return reduce(name, (student - teacher).square().sum((1, 2)), reduction)


@float32_island
def masked_generation_loss(
    generated: Tensor, teacher_tokens: Tensor, mask: Tensor, *, mask_ratio: float = 0.5, reduction: Reduction = "mean"
) -> Tensor:
    """Sum of squared differences of the generated tokens: ℓ_b = Σ_n m_bn ‖g_bn − t_bn‖² / r.

    "mean" is over the batch. The loss grows with the number of tokens and their width, hence the usual weight of 3e-6.

    Shape:
        `generated` and `teacher_tokens` [B, N, D], `mask` [B, N]; returns [], or [B] for `reduction="none"`.

    Args:
        generated: a small network's output for the student's last tokens, some of them replaced by a learned mask
            token.
        teacher_tokens: tokens of the teacher's last layer, without class token.
        mask: m, True or 1 for the replaced tokens; the others have no effect. (Unlike other masks here, it does not
            mark padding: the tokens fill a grid.)
        mask_ratio: r in (0, 1], the share of tokens that are replaced.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes or a mask that do not fit, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> generated, mask = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[False, True]])
        >>> masked_generation_loss(generated, torch.zeros(1, 2, 2), mask).item()
        2.0

    Reference:
        Yang et al., ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation, 2022, and the authors' code.

    Deviations:
        None. As in the code, the sum is divided by the requested ratio, which differs from the share actually masked if
        N·(1 − r) is not an integer.
    """
    name = "masked_generation_loss"
    check.floating(name, 3, generated=generated, teacher_tokens=teacher_tokens)
    check.same_shape(name, generated=generated, teacher_tokens=teacher_tokens)
    wanted = f"a tensor of True and False, or of 1 and 0, of shape {list(generated.shape[:2])}"
    if not isinstance(mask, Tensor):
        check.fail(name, "mask", wanted, type(mask).__name__)
    if mask.shape != generated.shape[:2] or mask.is_complex():
        check.fail(name, "mask", wanted, f"{mask.dtype} of shape {check.shape(mask)}")
    check.dense(name, generated=generated, mask=mask)
    check.hyperparameters(name, GENERATION_CHECKS, mask_ratio=mask_ratio, reduction=reduction)
    weights = mask.detach().to(generated.dtype)
    apart = without_padding(generated - teacher_tokens, weights != 0)
    return reduce(name, (apart.square().sum(2) * weights).sum(1) / mask_ratio, reduction)


class TokenMimicLoss(nn.Module):
    """`token_mimic_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("TokenMimicLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_tokens: Tensor, teacher_tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of `student_tokens` and `teacher_tokens` [B, N, D]."""
        return token_mimic_loss(student_tokens, teacher_tokens, reduction=self.reduction, mask=mask)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"


class MaskedGenerationLoss(nn.Module):
    """`masked_generation_loss` with its hyper-parameters stored."""

    def __init__(self, *, mask_ratio: float = 0.5, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("MaskedGenerationLoss", GENERATION_CHECKS, mask_ratio=mask_ratio, reduction=reduction)
        self.mask_ratio = mask_ratio
        self.reduction: Reduction = reduction

    def forward(self, generated: Tensor, teacher_tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of `generated` and `teacher_tokens` [B, N, D] at the tokens of `mask` [B, N]."""
        return masked_generation_loss(
            generated, teacher_tokens, mask, mask_ratio=self.mask_ratio, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"mask_ratio={self.mask_ratio}, reduction={self.reduction!r}"

"""Two spaces of the same samples in the plane: principal components, t-SNE, and the rotation that aligns them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from congruence.core.numerics import as_float64

EIGENVALUES = 50
SAMPLES = 2000  # of which there are t-SNE, neighbours, and thumbnails or texts
_PERPLEXITY = 30.0
_WIDEST = 50  # columns that t-SNE reads, of wider rows their principal components


def unit_rows(features: Tensor) -> Tensor:
    """Return rows in float64, each of length 1; a row of zeros stays so.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    rows = as_float64(features)
    lengths = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


def principal(features: Tensor, columns: int = 2) -> tuple[Tensor, list[float]]:
    """Return the first principal components, and the share of the variance along each of the first 50 axes.

    Of rows wider than 2,000 the axes are those of the first 2,000 samples.

    Shape:
        `features` [N, D]; returns float64 [N, columns], zeros where there are fewer axes, and at most 50 shares.

    Example:
        >>> points, shares = principal(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
        >>> points[:, 0].abs().tolist(), [round(share, 6) for share in shares]
        ([2.0, 0.0, 2.0], [1.0, 0.0])
    """
    rows = as_float64(features)
    fitted = rows if rows.shape[1] <= SAMPLES else rows[:SAMPLES]
    rows, fitted = rows - fitted.mean(0), fitted - fitted.mean(0)
    tall = fitted.shape[0] >= fitted.shape[1]
    values, vectors = torch.linalg.eigh(fitted.T @ fitted if tall else fitted @ fitted.T)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    axes = vectors[:, :columns]
    if not tall:  # of the samples: the axes of the columns are what they weigh together
        sizes = values[:columns].sqrt()
        axes = fitted.T @ axes / torch.where(sizes > 0, sizes, 1.0)
    points = rows.new_zeros(len(rows), columns)
    points[:, : axes.shape[1]] = rows @ axes
    total = float(values.sum())
    shares = values[:EIGENVALUES] / total if total > 0 else torch.zeros_like(values[:EIGENVALUES])
    return points, shares.tolist()


def neighbour_map(features: Tensor) -> Tensor | None:
    """Return t-SNE of the rows, always the same; None of fewer than five, or of rows that are all equal.

    Shape:
        `features` [N, D], N at most a few thousand; returns float64 [N, 2].
    """
    from sklearn.manifold import TSNE

    count = len(features)
    rows = (principal(features, _WIDEST)[0] if features.shape[1] > _WIDEST else features).float()  # as t-SNE has them
    if count < 5 or float((rows - rows[:1]).abs().max()) == 0:
        return None
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    found = TSNE(init="pca", perplexity=perplexity, max_iter=500, random_state=0).fit_transform(rows.numpy())
    return torch.from_numpy(found).double()


class Layouts:
    """The maps of spaces, "pca" of all samples and "tsne" of the first 2,000: each found once, whoever asks again.

    Rows are brought to length 1 first, as the cosine has them.
    """

    def __init__(self) -> None:
        self._found: dict[bytes, dict[str, Tensor | None]] = {}

    def of(self, features: Tensor) -> dict[str, Tensor | None]:
        """Return the maps of features [N, D]."""
        content = features.contiguous().numpy()
        key = hashlib.sha256(repr(content.shape).encode() + content.tobytes()).digest()
        if key not in self._found:
            rows = unit_rows(features)
            self._found[key] = {"pca": principal(rows)[0], "tsne": neighbour_map(rows[:SAMPLES])}
        return self._found[key]


def aligned(points: Tensor, onto: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return both sets of points centred and of size 1, the first rotated onto the other, and what is left between.

    Orthogonal Procrustes: X → X R with R = U Vᵀ of the singular values U S Vᵀ = Xᵀ Y, ‖X‖_F = ‖Y‖_F = 1. What is left
    is 1 − (Σ S)², 0 where one is the other turned, mirrored, moved and scaled.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 2.0], [2.0, 0.0]])
        >>> found, onto, left = aligned(3 * square.flip(1) + 7, square)
        >>> bool(torch.allclose(found, onto)), round(left, 6)
        (True, 0.0)
    """
    one, other = _of_size_one(points), _of_size_one(onto)
    left, values, right = torch.linalg.svd(one.T @ other)
    return one @ left @ right, other, max(0.0, 1.0 - float(values.sum()) ** 2)


def _of_size_one(points: Tensor) -> Tensor:
    centred = as_float64(points) - as_float64(points).mean(0)
    size = float(centred.norm())
    return centred / size if size > 0 else centred


def written(points: Tensor, reach: float) -> list[int]:
    """Return coordinates as whole thousandths of `reach`, x and y in turn: short in a file.

    Example:
        >>> written(torch.tensor([[0.5, -1.0]]), 2.0)
        [250, -500]
    """
    numbers: list[int] = (points / reach * 1000 if reach > 0 else points * 0).round().int().flatten().tolist()
    return numbers

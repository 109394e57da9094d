"""The intra-class paper: λ against the similarities and losses within and between classes, with theorem 2's bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from congruence.core.rng import keyed_generator
from congruence.metrics import IntraInterRatio, intra_inter_bounds, intra_inter_ratio
from congruence.report.figures.given import Given, LackingError, Pair
from congruence.report.figures.panels import COLOURS, MARKERS, above, logarithmic, name, panels, sweeps
from congruence.report.figures.spots import Groups, numbered, swept

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KEY = "intra_class"
_KNOWN = {"no_contrast": 0.0, "embeddings": 0.03}  # rows of the shipped plans
_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_CLASSES, _EACH, _WIDTH, _STEPS = 4, 5, 16, 600  # of the free optimum
_FOUND = 80  # λ of a drawn bound


@dataclass(frozen=True)
class Contrast:
    """A network's ratios, the λ by which it was trained (0: none), and how many negatives an anchor has on average."""

    name: str
    weight: float
    ratio: IntraInterRatio
    inter_negatives: int
    intra_negatives: int


def contrasts(given: Given) -> list[Contrast]:
    """Return what each run's network has that was trained with `intra_class`: its student, or its student's teacher.

    λ is what the run's configuration says, or the name of a plan's row ("lambda_0_03"). A run without the term has
    λ = 0, and its teacher is measured.
    """
    found = []
    for pair in given.pairs_of():
        side, weight = _trained(given, pair.name)
        if weight is not None:
            found.append(_contrast(pair, side, weight))
    return sorted(found, key=lambda each: each.weight)


def _contrast(pair: Pair, side: str, weight: float) -> Contrast:
    rows = pair.student if side == "student" else pair.teacher
    labels = pair.labels()
    counts = labels[labels >= 0].bincount().double()
    own = float((counts * counts).sum() / counts.sum())  # the size of an anchor's class, on average
    intra, inter = max(1, round(own - 1)), max(1, round(float(counts.sum()) - own))
    return Contrast(pair.name, weight, intra_inter_ratio(rows.features, labels), inter, intra)


def _trained(given: Given, run: str) -> tuple[str, float | None]:
    """Return which side of a run was trained with the term, and λ; None where that is not a number."""
    for word in run.split(", "):
        value = _weight_in(word)
        if value is not None:
            return "teacher", value
    config = None if run not in given.runs else given.config(run)
    if config is None:
        return "teacher", None
    for stage in reversed(config.stages):
        weights = [term.weight for term in config.stages[stage].terms if term.key == _KEY]
        if weights:
            weight = weights[0] if isinstance(weights[0], int | float) else None
            return "student" if stage == config.last else "teacher", weight
    return "teacher", 0.0


def _weight_in(word: str) -> float | None:
    """Return the λ that a row's name says, None where it says none."""
    return _KNOWN.get(word, numbered("lambda", word))


def free_optimum(weight: float, *, seed: int = 0) -> tuple[IntraInterRatio, float]:
    """Minimise L_inter + λ L_intra over free unit rows: 5 of each of 4 classes in 16 dimensions, each its own positive.

    Args:
        weight: λ.
        seed: of the start.

    Returns:
        The ratios at the end, and the objective.

    Example:
        >>> ratio, _ = free_optimum(0.1)
        >>> ratio.intra_loss > ratio.inter_loss / 4
        True
    """
    labels = torch.arange(_CLASSES).repeat_interleave(_EACH)
    same = labels[:, None] == labels
    rest = ~torch.eye(len(labels), dtype=torch.bool)
    rows = torch.randn(len(labels), _WIDTH, generator=keyed_generator(seed), dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.02)
    for _ in range(_STEPS):
        loss = _objective(rows, same & rest, ~same, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return intra_inter_ratio(rows.detach(), labels), float(_objective(rows.detach(), same & rest, ~same, weight))


def _objective(rows: Tensor, intra: Tensor, inter: Tensor, weight: float) -> Tensor:
    unit = torch.nn.functional.normalize(rows, dim=1)
    relative = (unit @ unit.T - 1).exp()  # e^{φ·φ'} / e^{φ·φ⁺} with φ⁺ = φ
    within, between = ((relative * mask).sum(1).log1p().mean() for mask in (intra, inter))
    return between + weight * within


def soft_labels(given: Given) -> tuple[Groups, Groups]:
    """Return the teachers' mean entropy of the soft labels in nats, and their students' accuracy in %, by λ."""
    rows = [{**row, "method": _KEY, "variant": row["name"].rpartition(", ")[2]} for row in given.teachers]
    entropy = swept(rows, "lambda", "soft_label_entropy", also=_KNOWN)
    ours = [row for row in given.rows if row["method"] == _KEY or _weight_in(row["method"]) is not None]
    return entropy, swept(ours, "lambda", "accuracy_best", scale=100, also=_KNOWN)


def ratios(given: Given) -> Figure:
    """Draw d_intra/d_inter and L_intra/L_inter by λ, with the bounds of theorem 2.

    Measured on the test images, where each is an anchor and its own positive. The bounds hold at the optimum of the
    paper's eq. 8; a network trained by eq. 5 (cross-entropy + λ L_intra on gated samples) is no such optimum, and may
    lie outside. The paper states the theorem and has no such figure.
    """
    found = contrasts(given)
    if not any(each.weight > 0 for each in found):
        raise LackingError("No run among the folders has a network that was trained with `intra_class` at a known λ.")
    figure, axes = panels("Intra-class contrast: λ and the classes' tightness, measured on networks", 2, width=4.2)
    _ratio_panels(axes[0], [(each.weight, each.ratio) for each in found if each.weight > 0])
    negatives = [(each.inter_negatives, each.intra_negatives) for each in found if each.weight > 0]
    _bounds(axes[0][1], *negatives[0], [each.weight for each in found if each.weight > 0])
    for each in found:
        if each.weight == 0:
            for panel, value in zip(axes[0], (each.ratio.similarities, each.ratio.loss_ratio), strict=True):
                panel.axhline(value, color=COLOURS[2], linestyle="--", linewidth=1, label=name(f"λ = 0: {each.name}"))
    axes[0][0].legend()
    axes[0][1].legend()
    return figure


def theorem(given: Given) -> Figure:
    """Draw the same at the optimum of eq. 8 itself, found by gradient descent on 20 free unit vectors.

    The bounds with the paper's least losses (every negative opposite to its anchor) can fail here, since five samples
    of a class cannot all be opposite to one another: `intra_inter_bounds` says how.
    """
    found = [(weight, free_optimum(weight, seed=given.seed)[0]) for weight in _GRID]
    figure, axes = panels("Intra-class contrast, theorem 2: the optimum of eq. 8 over free unit vectors", 2, width=4.2)
    _ratio_panels(axes[0], found)
    _bounds(axes[0][1], _EACH * (_CLASSES - 1), _EACH - 1, list(_GRID))
    axes[0][1].legend()
    return figure


def _ratio_panels(axes: Sequence[Axes], found: Sequence[tuple[float, IntraInterRatio]]) -> None:
    weights = [weight for weight, _ in found]
    for panel, values, label in (
        (axes[0], [ratio.similarities for _, ratio in found], "d_intra / d_inter (large: tight classes)"),
        (axes[1], [ratio.loss_ratio for _, ratio in found], "L_intra / L_inter"),
    ):
        panel.plot(weights, values, marker=MARKERS[0], linestyle="-", color=COLOURS[0], label="measured", zorder=3)
        panel.set(xlabel="λ", ylabel=label)
        logarithmic(panel, "x")


def _bounds(panel: Axes, inter: int, intra: int, weights: Sequence[float]) -> None:
    """Draw theorem 2's bounds as the edges of a band, over the weights and a little beyond."""
    low, high = min(weights) / 1.5, max(weights) * 1.5
    grid = [low * (high / low) ** (k / (_FOUND - 1)) for k in range(_FOUND)]
    found = [intra_inter_bounds(weight=weight, inter_negatives=inter, intra_negatives=intra) for weight in grid]
    label = f"theorem 2 (n = {inter}, m = {intra})"
    lower, upper = [each.lower for each in found], [each.upper for each in found]
    panel.fill_between(grid, lower, upper, color=COLOURS[1], alpha=0.15, linewidth=0, label=label)
    for edge in (lower, upper):
        panel.plot(grid, edge, color=COLOURS[1], linewidth=1, linestyle="--")
    logarithmic(panel, "y")


def entropies(given: Given) -> Figure:
    """Draw the entropy of the teachers' soft labels, and the accuracy of their students, by λ; not in the paper."""
    entropy, accuracy = soft_labels(given)
    if not entropy and not accuracy:
        raise LackingError("No plan among the folders has two of the rows 'no_contrast' and 'lambda_…'.")
    both = [(entropy, "soft labels' entropy (nats), teacher"), (accuracy, "accuracy (%), student")]
    there = [(groups, label) for groups, label in both if groups]
    figure, axes = panels(above("Intra-class contrast: what λ does to the soft labels", accuracy), len(there))
    for panel, (groups, label) in zip(axes[0], there, strict=True):
        sweeps(panel, groups, "λ (equally spaced; 0: no contrast)", label)
    return figure

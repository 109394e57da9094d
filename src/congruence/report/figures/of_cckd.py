"""CCKD, figures 3 and 4 and tables 5 to 7: the course of training, heat maps of cosines, kernels and samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from congruence.report.figures.given import Given, LackingError, Pair
from congruence.report.figures.panels import above, curves, dots, name, panels, sweeps
from congruence.report.figures.spots import Groups, Spot, several, spots, swept
from congruence.report.flat import unit_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = dict[str, list[tuple[int, float]]]
EACH = 12  # samples of a class in a heat map
_KERNELS = {
    "kd": "KD, no congruence",
    "mmd": "MMD",
    "bilinear": "bilinear",
    "rbf": "Gaussian RBF",
    "taylor1": "Taylor, order 1",
    "taylor2": "Taylor, order 2",
    "taylor3": "Taylor, order 3",
}
_TERMS = {"kd": "KL loss", "cckd": "congruence loss"}


def courses(given: Given) -> tuple[dict[str, Lines], Lines]:
    """Return each loss, unweighted, by run and epoch, and validation accuracy in %.

    A run that does not train with a term, and whose diagnostics have its loss on held-out images, has that one, marked.
    """
    losses: dict[str, Lines] = {}
    for key in _TERMS:
        found = given.curves(key)
        held_out = {run: points for run, points in given.curves(f"loss/{key}", "diagnostics").items()}
        more = {f"{run} (held-out)": points for run, points in held_out.items() if run not in found}
        losses[key] = found | more
    accuracy = given.curves("accuracy", "validation")
    return losses, {run: [(epoch, 100 * value) for epoch, value in points] for run, points in accuracy.items()}


def cosines(features: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return the cosine similarities of some samples with others.

    Shape:
        `features` [N, D]; returns float64 [len(rows), len(columns)].

    Example:
        >>> cosines(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), [0], [0, 1]).tolist()
        [[1.0, 0.0]]
    """
    unit = unit_rows(features)
    return unit[list(rows)] @ unit[list(columns)].T


def shown_classes(pair: Pair) -> dict[int, list[int]]:
    """Return four classes, those with the most samples (at most 12, the first ones) and of these the first classes."""
    labels = pair.labels()
    samples = {int(k): (labels == k).nonzero()[:EACH, 0].tolist() for k in labels.unique() if k >= 0}
    most = sorted(samples, key=lambda k: -len(samples[k]))[:4]
    return {k: samples[k] for k in sorted(most) if len(samples[k]) > 1}


def course(given: Given) -> Figure:
    """Draw figure 3: training losses and validation accuracy by epoch, a line a run.

    The losses are means of an epoch's training batches, unweighted. The paper shows the congruence loss of its KD
    student as well: a term `cckd` of weight 0 watches it.
    """
    losses, accuracy = courses(given)
    if not any(losses.values()):
        raise LackingError("No run among the folders has logged the terms 'kd' or 'cckd'.")
    there = [key for key in _TERMS if losses[key]]
    figure, axes = panels("CCKD, figure 3: training losses and validation accuracy", 1 + len(there))
    for panel, key in zip(axes[0], there, strict=False):
        curves(panel, losses[key], f"{_TERMS[key]}, unweighted", given.runs)
    curves(axes[0][-1], accuracy, "validation accuracy (%)", given.runs)
    return figure


def heat(given: Given) -> Figure:
    """Draw figure 4: cosine similarities of samples of one class (first row, and the last two), and of two classes.

    A column a student, the teacher's first, all in one scale. The paper has identities of MSMT17, and students by KD
    and by CCKD; ours are classes of the run's test images, and the column of the teacher is added.
    """
    pairs = given.pairs
    first = shown_classes(pairs[0])
    if len(first) < 2:
        raise LackingError(f"The run '{pairs[0].name}' has no two classes with two samples each.")
    one, other, *more = first
    cells = [(one, one), (one, other), *((each, each) for each in more)]
    sides = [(f"teacher of {pairs[0].name}", pairs[0].teacher), *((pair.name, pair.student) for pair in pairs)]
    figure, axes = panels(
        "CCKD, figure 4: cosine similarities of samples", len(sides), len(cells), width=2.3, height=2.0
    )
    blocks = [[cosines(rows.features, first[a], first[b]) for _, rows in sides] for a, b in cells]
    least = min(float(block.min()) for row in blocks for block in row)
    names = pairs[0].classes
    for line, (a, b), row in zip(axes, cells, blocks, strict=True):
        for panel, block in zip(line, row, strict=True):
            picture = panel.imshow(block.numpy(), cmap="viridis", vmin=least, vmax=1)
            panel.set(xticks=[], yticks=[])
            panel.grid(visible=False)
            panel.spines[:].set_visible(False)
        line[0].set_ylabel(_class(names, a) if a == b else f"{_class(names, a)}\n× {_class(names, b)}")
    for panel, (side, _) in zip(axes[0], sides, strict=True):
        panel.set_title(name(side), fontsize=8)
    figure.colorbar(picture, ax=axes, label="cosine similarity", shrink=0.6)
    return figure


def _class(names: Sequence[str], number: int) -> str:
    return name(f"class {names[number] if number < len(names) else number}")


def kernels(given: Given) -> Figure:
    """Draw tables 5 and 6: accuracy by kernel and order; the paper's are CIFAR-100's and MSMT17's."""
    found = several(spots(given.rows, _KERNELS, "accuracy_best", scale=100))
    if not found:
        raise LackingError(f"No plan among the folders has two of the rows {', '.join(map(repr, _KERNELS))}.")
    figure, axes = panels(above("CCKD, tables 5 and 6: kernels", found), len(found), width=5, height=2.8)
    for panel, (group, each) in zip(axes[0], found.items(), strict=True):
        dots(panel, each, "accuracy (%)", title=group)
    return figure


def sampled(given: Given) -> tuple[Groups, dict[str, Spot]]:
    """Return accuracy in % by k for each method and sampler, and that of random batches by method."""
    groups: Groups = {}
    for sampler in ("cur", "sur"):
        for group, found in swept(given.rows, sampler, "accuracy_best", scale=100).items():
            groups[f"{group}, {sampler.upper()}"] = found
    random = spots(given.rows, {"random": "random batches"}, "accuracy_best", scale=100)
    return groups, {group: each[0] for group, each in random.items()}


def samplers(given: Given) -> Figure:
    """Draw table 7: accuracy by k, a batch's samples of each class (CUR) or cluster (SUR), and of random batches."""
    groups, random = sampled(given)
    if not groups:
        raise LackingError("No plan among the folders has two of the rows 'cur…' or 'sur…'.")
    figure, axes = panels(above("CCKD, table 7: samplers", groups), 1, width=5.5, height=3.2)
    panel = axes[0][0]
    sweeps(panel, groups, "k, samples of each class or cluster in a batch", "accuracy (%)")
    for number, (group, spot) in enumerate(random.items()):
        style = ("--", ":", "-.")[number % 3]
        panel.axhline(spot.mean, color="black", linestyle=style, linewidth=1, label=name(f"{group}, random batches"))
    panel.legend()
    return figure

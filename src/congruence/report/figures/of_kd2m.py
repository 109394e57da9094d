"""KD²M, figures 2 and 3: the weight of the distance between distributions, and both sides' features in one plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from congruence.evaluation.from_embeddings import of_one_width
from congruence.report.figures.given import Given, LackingError, Pair
from congruence.report.figures.panels import COLOURS, above, curves, logarithmic, name, panels, sweeps
from congruence.report.figures.spots import Groups, swept
from congruence.report.flat import SAMPLES, neighbour_map, principal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTANCES = (
    "wasserstein",
    "class_wasserstein",
    "joint_wasserstein",
    "gaussian_wasserstein",
    "class_gaussian_wasserstein",
    "gaussian_kl",
    "mmd",
)
Lines = dict[str, list[tuple[int, float]]]


def courses(given: Given) -> tuple[Lines, Lines, Lines]:
    """Return cross-entropy, distillation loss (without λ) and validation accuracy in %, by run and epoch.

    A run is called by its name and its λ; runs without a distance are there too, as baselines.
    """
    distances = {(run, key): points for key in DISTANCES for run, points in given.curves(key).items()}
    weights = {(run, key): _weight(given, run, key) for run, key in distances}
    names = {run: run for run in given.runs} | {
        run: f"{run}, λ = {weight:g}" for (run, _), weight in weights.items() if weight is not None
    }
    keys = [run for run, _ in distances]
    losses = {
        names[run] if keys.count(run) == 1 else f"{run}, {key}": points for (run, key), points in distances.items()
    }
    classes, accuracy = given.curves("ce"), given.curves("accuracy", "validation")
    percent = {run: [(epoch, 100 * value) for epoch, value in points] for run, points in accuracy.items()}
    return _called(classes, names), losses, _called(percent, names)


def _called(lines: Lines, names: Mapping[str, str]) -> Lines:
    return {names[run]: points for run, points in lines.items()}


def _weight(given: Given, run: str, key: str) -> float | None:
    config = given.config(run)
    terms = () if config is None else config.stages[config.last].terms
    return next((term.weight for term in terms if term.key == key and isinstance(term.weight, int | float)), None)


def weights(given: Given) -> tuple[Groups, Groups]:
    """Return accuracy in % and the squared W2 that is left between the features, by method and λ."""
    rows = [row for row in given.rows if row["method"] in DISTANCES]
    accuracy = swept(rows, "lambda", "accuracy_best", scale=100)
    left = swept(rows, "lambda", "sliced_wasserstein") or swept(rows, "lambda", "wasserstein")
    return accuracy, left


def together(pair: Pair, layout: str) -> tuple[Tensor, Tensor]:
    """Return the features of student and teacher as points of one plane.

    The plane is that of both sets together: their principal components, or their t-SNE. Where widths differ, the
    student's are first mapped to the teacher's by least squares, each half of the samples as the other half asks.

    Args:
        pair: of which the first 2,000 samples are taken.
        layout: "pca" or "tsne".

    Returns:
        The student's points and the teacher's, float64 [N, 2] each.

    Raises:
        LackingError: of fewer than five samples, or of features that are all equal.
    """
    student, teacher = of_one_width(pair.student.features[:SAMPLES], pair.teacher.features[:SAMPLES])
    both = torch.cat([student.double(), teacher.double()])
    points = principal(both)[0] if layout == "pca" else neighbour_map(both)
    if points is None:
        raise LackingError(f"The run '{pair.name}' has too few samples, or features that are all equal.")
    return points[: len(student)], points[len(student) :]


def course(given: Given) -> Figure:
    """Draw figure 2: classification loss, distillation loss and accuracy by epoch, a line a run.

    The losses are means of the training batches of an epoch; accuracy is of the validation images, the paper's of
    SVHN's.
    """
    classes, losses, accuracy = courses(given)
    if not losses:
        raise LackingError("No run among the folders has logged a distance between distributions.")
    figure, axes = panels("KD²M, figure 2: losses and accuracy by λ", 3)
    order = list(dict.fromkeys([*accuracy, *classes, *losses]))
    curves(axes[0][0], classes, "classification loss (nats)", order)
    curves(axes[0][1], losses, "distillation loss, without λ", order)
    curves(axes[0][2], accuracy, "validation accuracy (%)", order)
    if all(value > 0 for points in losses.values() for _, value in points):
        logarithmic(axes[0][1], "y")
    return figure


def at_the_end(given: Given) -> Figure:
    """Draw accuracy and the distance that is left at the end of training by λ: figure 2 in a plan's numbers."""
    accuracy, left = weights(given)
    if not accuracy:
        raise LackingError("No plan among the folders has rows called 'lambda_…' of these methods.")
    figure, axes = panels(above("KD²M, figure 2: λ at the end of training", accuracy), 1 + bool(left), width=4.4)
    across = "λ (equally spaced)"
    sweeps(axes[0][0], accuracy, across, "accuracy (%)")
    if left:
        sweeps(axes[0][1], left, across, "squared W2 of the features")
        logarithmic(axes[0][1], "y")
    return figure


def features(given: Given) -> Figure:
    """Draw figure 3: teacher's and student's features in one plot, a column a run.

    Above the principal components of both sets together, below their t-SNE; the paper names no projection. Its left
    plot is the student without distillation, such as a run of digits/ce.
    """
    pairs = given.pairs
    figure, axes = panels("KD²M, figure 3: features of teacher and student", len(pairs), 2, width=3.4, height=3.2)
    for column, pair in enumerate(pairs):
        for row, (layout, words) in enumerate((("pca", "principal component"), ("tsne", "t-SNE"))):
            student, teacher = together(pair, layout)
            panel = axes[row][column]
            panel.scatter(*teacher.T.tolist(), s=7, marker="o", color=COLOURS[1], label="teacher", linewidths=0)
            panel.scatter(*student.T.tolist(), s=9, marker="x", color=COLOURS[0], label="student", linewidths=0.7)
            panel.set(xlabel=f"{words} 1", ylabel=f"{words} 2")
            panel.set_aspect("equal", adjustable="datalim")
        axes[0][column].set_title(name(pair.name))
    axes[0][0].legend(markerscale=2)
    return figure

"""KDA, figures 2 to 7 and table 1: landmarks, the kernel that is not transferred yet, and which layer's it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from congruence.report.figures.given import Given, LackingError
from congruence.report.figures.panels import above, curves, dots, name, panels, published
from congruence.report.figures.spots import Groups, several, spots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACCURACY = "accuracy (%)"
_LANDMARKS = {
    "ce": "baseline (no KDA)",
    "random": "random samples, one a class",
    "random100": "100 random samples",
    "clusters": "clusters",
    "centres": "class centres",
}
_WEIGHTS = {"centres": "without W", "w_teacher": "C W_T^(+1/2)", "w_own": "each side's own W"}
_CENTRES = {"centres": "one centre a class", "two_centres": "two centres a class"}
_LAYERS = {
    "stage1": "stage 1, pooled",
    "stage2": "stage 2, pooled",
    "before_fc": "before the last FC",
    "centres": "before the last FC",
    "after_fc": "after it",
    "logits": "after it",
    "combo": "both",
    "after_fc_onehot": "after it, one-hot landmarks",
    "onehot": "after it, one-hot landmarks",
}
_PUBLISHED_LAYERS = {"baseline": 77.2, "before the last FC": 79.6, "after it": 79.4, "both": 79.7}  # sec. 4
_METHODS = {"ce": "baseline", "at": "AT", "rkd": "RKD", "kd": "KD", "kda": "KDA"}
_PUBLISHED_ERRORS = {"KD": 0.23, "KDA": 0.20}  # sec. 4, of fig. 3 (b)
_WHERE = "CIFAR-100, ResNet-34 → ResNet-18"


def errors(given: Given) -> tuple[Groups, Groups]:
    """Return ‖K_S − K_T‖_F/‖K_T‖_F by method, before the last Linear and behind it; of other rows where there are none.

    Rows of "ce", "at", "rkd", "kd" and "kda" are taken where there are two of these, else all that have the numbers.
    """
    found = []
    for number in ("kernel_transfer_error", "logit_kernel_transfer_error"):
        known = several(spots(given.rows, _METHODS, number))
        every = {row["method"]: row["method"] for row in given.rows}
        found.append(known or several(spots(given.rows, every, number), least=1))
    return found[0], found[1]


def estimates(given: Given) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return by run the kernel transfer error and its estimate by landmarks, by epoch, of the validation images."""
    truth = given.curves("kernel_transfer_error", "diagnostics")
    estimate = given.curves("landmark_transfer_error", "diagnostics")
    return {run: {"truth": truth[run], "estimate": estimate[run]} for run in truth if run in estimate}


def eigenvalues(given: Given) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return by run the smallest eigenvalues of W_S and W_T, of the class centres, by epoch."""
    ours = given.curves("smallest_landmark_eigenvalue", "diagnostics")
    theirs = given.curves("teacher_smallest_landmark_eigenvalue", "diagnostics")
    return {run: {"W_S": ours[run], "W_T": theirs[run]} for run in ours if run in theirs}


def _settings(given: Given, names: Mapping[str, str], title: str, values: Mapping[str, float] | None = None) -> Figure:
    found = several(spots(given.rows, names, "accuracy_best", scale=100))
    if not found:
        raise LackingError(f"No plan among the folders has two of the rows {', '.join(map(repr, names))}.")
    figure, axes = panels(above(title, found), len(found) + bool(values), width=4.2, height=2.6)
    for panel, (group, each) in zip(axes[0], found.items(), strict=False):
        dots(panel, each, _ACCURACY, title=group)
    if values:
        published(axes[0][-1], values, _ACCURACY, f"published:\n{_WHERE}")
    return figure


def landmarks(given: Given) -> Figure:
    """Draw figure 2: accuracy at the end by the landmarks; the paper's text does not say what its axes are."""
    return _settings(given, _LANDMARKS, "KDA, figure 2: landmarks")


def weighting(given: Given) -> Figure:
    """Draw figure 6: accuracy at the end with and without the matrix W; as to the axes, see figure 2."""
    return _settings(given, _WEIGHTS, "KDA, figure 6: the matrix W")


def centres(given: Given) -> Figure:
    """Draw figure 7: accuracy at the end by the centres a class; as to the axes, see figure 2."""
    return _settings(given, _CENTRES, "KDA, figure 7: centres a class")


def layers(given: Given) -> Figure:
    """Draw tables 1 and 2: accuracy by the layer; ours are the stages of the digits' and CIFAR-10's small students."""
    return _settings(given, _LAYERS, "KDA, tables 1 and 2: which layer's kernel", _PUBLISHED_LAYERS)


def transfer(given: Given) -> Figure:
    """Draw figure 3: what of the teacher's kernel was not transferred, by method.

    (a) is of the embeddings before the last Linear and (b) of the logits, both as they are, of the test images. The
    paper does not say which images its kernels are of; two of its values are in its text, the published ones.
    """
    before, behind = errors(given)
    if not before and not behind:
        raise LackingError("No row among the folders has `kernel_transfer_error` or `logit_kernel_transfer_error`.")
    columns = list(dict.fromkeys([*before, *behind]))
    figure, axes = panels(
        above("KDA, figure 3: ‖K_S − K_T‖ / ‖K_T‖", {**before, **behind}), 3, len(columns), width=3.6, height=2.5
    )
    for row, group in zip(axes, columns, strict=True):
        for panel, found, where in ((row[0], before, "(a) before the last FC"), (row[1], behind, "(b) after it")):
            dots(panel, found.get(group, ()), "kernel transfer error", title=where)
            panel.set_xlim(left=0)
        row[0].set_ylabel(name(group))
        published(row[2], _PUBLISHED_ERRORS, "kernel transfer error", f"published (b):\n{_WHERE}")
        row[2].set_xlim(left=0, right=0.3)
    return figure


def estimated(given: Given) -> Figure:
    """Draw figure 4: the kernel transfer error and its estimate by class centres, by epoch.

    The paper multiplies both by 100; ours are as they are, on validation images, whose own class centres are the
    landmarks.
    """
    found = estimates(given)
    if not found:
        raise LackingError("No run among the folders has logged both numbers.")
    figure, axes = panels("KDA, figure 4: the error and its estimate", 2)
    curves(axes[0][0], {run: each["truth"] for run, each in found.items()}, "‖K_S − K_T‖ / ‖K_T‖ (ground truth)")
    curves(axes[0][1], {run: each["estimate"] for run, each in found.items()}, "‖C_S − C_T‖ / ‖K_T‖ (estimate)")
    return figure


def smallest(given: Given) -> Figure:
    """Draw figure 5: the smallest eigenvalues of W_S and W_T, by epoch, and the 1 that corollary 2 assumes."""
    found = eigenvalues(given)
    if not found:
        raise LackingError("No run among the folders has logged both numbers.")
    figure, axes = panels("KDA, figure 5: smallest eigenvalue of W", 2)
    for panel, side, label in zip(axes[0], ("W_S", "W_T"), ("student", "teacher"), strict=True):
        curves(panel, {run: each[side] for run, each in found.items()}, f"smallest eigenvalue of {side} ({label})")
        panel.axhline(1, color="black", linewidth=0.8, linestyle=":")
        panel.annotate("assumed: > 1", (0.02, 1), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    return figure

"""Perception coherence, figures 4, 5, 7 and 8 and the toy with more clusters: points that learn an arrangement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from congruence.data.datasets.toys import Toy, toy
from congruence.evaluation.toys import Transfer, transfer
from congruence.report.figures.given import Given
from congruence.report.figures.panels import COLOURS, GREY, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STATES = 5  # of the student, of which the first is the start
_BATCHES = (3, 7, 15)
_BETWEEN = 3.0  # the teacher's points stand so far above the student's
_INNER, _REACH, _DRAWN = 0.01, 0.9, 1.2


def boxed(points: Tensor) -> Tensor:
    """Return points moved and scaled, in both directions alike, so that 98 % of each coordinate lie in [−0.9, 0.9].

    A point beyond [−1.2, 1.2] is NaN and not drawn: few fly far out on their way, and would make the rest a speck.

    Shape:
        `points` [N, 2]; returns [N, 2].

    Example:
        >>> boxed(torch.tensor([[0.0, 0.0], [4.0, 2.0]])).mul(100).round().tolist()
        [[-92.0, -46.0], [92.0, 46.0]]
    """
    low, high = points.quantile(_INNER, dim=0), points.quantile(1 - _INNER, dim=0)
    moved = (points - (low + high) / 2) / (float((high - low).max()) / (2 * _REACH) or 1.0)
    outside = (moved.abs() > _DRAWN).any(1, keepdim=True)
    return torch.where(outside, float("nan"), moved)


def states(run: Transfer) -> list[tuple[int, Tensor]]:
    """Return (epoch, the student's points) at the start, at the end and three times between, earlier ones closer."""
    last = len(run.frames) - 1
    return [run.frames[number] for number in sorted({round(k * last / (_STATES - 1)) for k in range(_STATES)})]


def _moved(name: str, given: Given, batch: int = 64) -> Transfer:
    points = toy(name, seed=given.seed)
    return transfer(points, batch=batch, epochs=given.epochs, frames=_STATES, seed=given.seed)


def _colours(points: Toy) -> list[Any]:
    from matplotlib import colormaps

    count = int(points.labels.max()) + 1
    wheel = COLOURS if count <= len(COLOURS) else [colormaps["viridis"](k / (count - 1)) for k in range(count)]
    return [wheel[k] for k in points.labels.tolist()]


def _title(run: Transfer, epoch: int) -> str:
    coherence = {run.frames[0][0]: run.before, run.frames[-1][0]: run.after}
    return f"epoch {epoch}" + (f"\nGPCL {coherence[epoch]:.3f}" if epoch in coherence else "\n")


def _bare(panel: Axes) -> None:
    panel.set(xticks=[], yticks=[], aspect="equal")
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _hide(left: Sequence[Axes]) -> None:
    """Leave panels empty, of which there are more than states where there are few epochs."""
    for panel in left:
        panel.set_axis_off()


def _pairs(row: Sequence[Axes], run: Transfer) -> None:
    """Draw in each panel the teacher's points above, a state of the student's below, and a grey line for each pair."""
    from matplotlib.collections import LineCollection

    colours, up = _colours(run.toy), torch.tensor([0.0, _BETWEEN])
    teacher = boxed(run.toy.points) + up
    for panel, (epoch, points) in zip(row, states(run), strict=False):
        student = boxed(points)
        lines = torch.stack([teacher, student], dim=1).tolist()
        panel.add_collection(LineCollection(lines, colors=GREY, linewidths=0.25, alpha=0.15, zorder=1, rasterized=True))
        for side in (teacher, student):
            across, high = side.T.tolist()
            panel.scatter(across, high, c=colours, s=3, linewidths=0, zorder=2)
        panel.set_title(_title(run, epoch), fontsize=8)
        panel.set(xlim=(-1.25, 1.25), ylim=(-1.25, _BETWEEN + 1.25))
        _bare(panel)
    _hide(row[len(states(run)) :])
    row[0].set_yticks([0, _BETWEEN], ["student", "teacher"], rotation=90, va="center")
    row[0].tick_params(length=0)


def _evolution(row: Sequence[Axes], run: Transfer, label: str = "") -> None:
    """Draw in each panel a state of the student's points, each scaled to fill it."""
    colours = _colours(run.toy)
    for panel, (epoch, points) in zip(row, states(run), strict=False):
        across, up = boxed(points).T.tolist()
        panel.scatter(across, up, c=colours, s=3, linewidths=0)
        panel.set_title(_title(run, epoch), fontsize=8)
        panel.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
        _bare(panel)
    _hide(row[len(states(run)) :])
    row[0].set_ylabel(label)


def _reference(figure: Figure, panel: Axes, points: Toy, place: tuple[int, int, int]) -> None:
    """Draw the teacher's points in the place of a panel, in space where they have three coordinates."""
    colours, axes = _colours(points), panel
    if points.points.shape[1] == 3:
        panel.remove()
        axes = figure.add_subplot(*place, projection="3d", elev=10, azim=15)  # no cluster hides another
        axes.scatter(*points.points.T.tolist(), c=colours, s=3, linewidths=0, depthshade=False)
        axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1), zticks=(-1, 0, 1))
        axes.tick_params(labelsize=6, pad=-2)
    else:
        across, up = boxed(points.points).T.tolist()
        axes.scatter(across, up, c=colours, s=3, linewidths=0)
        axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
        _bare(axes)
    axes.set_title("teacher", fontsize=8)


def flat(given: Given) -> Figure:
    """Draw figure 4: two moons and five clusters, the teacher's above, the student's on their way below, pairs in grey.

    The student's points are drawn in the teacher's size, though they are ten times as far apart at the start. The few
    that are far from all others are outside the picture.
    """
    names = ("two-moons", "clusters")
    figure, axes = panels("Perception coherence, figure 4: from 2D to 2D", _STATES, len(names), width=1.9, height=3.6)
    for row, name in zip(axes, names, strict=True):
        _pairs(row, _moved(name, given))
    return figure


def more(given: Given) -> Figure:
    """Draw the toy with more clusters of app. E.1 as figure 4: ten of them, since the paper does not say how many."""
    figure, axes = panels("Perception coherence, appendix E.1: more clusters", _STATES, width=1.9, height=3.6)
    _pairs(axes[0], _moved("ten-clusters", given))
    return figure


def spatial(given: Given) -> Figure:
    """Draw figure 5: five clusters in space, and the student's points in the plane on their way."""
    run = _moved("clusters3d", given)
    figure, axes = panels("Perception coherence, figure 5: from 3D to 2D", _STATES + 1, width=2.0, height=2.4)
    _reference(figure, axes[0][0], run.toy, (1, _STATES + 1, 1))
    _evolution(axes[0][1:], run)
    return figure


def _by_batch(given: Given, name: str, title: str) -> Figure:
    figure, axes = panels(title, _STATES + 1, len(_BATCHES), width=2.0, height=2.4)
    for number, (row, batch) in enumerate(zip(axes, _BATCHES, strict=True)):
        run = _moved(name, given, batch)
        _reference(figure, row[0], run.toy, (len(_BATCHES), _STATES + 1, number * (_STATES + 1) + 1))
        _evolution(row[1:], run, f"B = {batch}")
    return figure


def spatial_by_batch(given: Given) -> Figure:
    """Draw figure 7: figure 5 with batches of 3, 7 and 15."""
    return _by_batch(given, "clusters3d", "Perception coherence, figure 7: batches of B, from 3D to 2D")


def flat_by_batch(given: Given) -> Figure:
    """Draw figure 8: the two moons with batches of 3, 7 and 15."""
    return _by_batch(given, "two-moons", "Perception coherence, figure 8: batches of B, two moons")

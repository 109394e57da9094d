"""Pictures of a transfer between points, as a PNG and as an animation (the extra `congruence[plots]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from congruence.core.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from congruence.evaluation.toys import Transfer

_SHOWN = 5  # states of the student in the PNG


def require_plots() -> None:
    """Find out before any work whether pictures can be drawn.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except (ImportError, RuntimeError):
        raise ValueError("Pictures need matplotlib, it is not there: pip install 'congruence[plots]'.") from None


def write_png(run: Transfer, path: Path) -> Path:
    """Draw the teacher's points and the student's from the random start to the end, in one row."""
    chosen = sorted({round(k * (len(run.frames) - 1) / (_SHOWN - 1)) for k in range(_SHOWN)})
    figure = _figure(run, [run.frames[number] for number in chosen])
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=100)
    return path


def write_gif(run: Transfer, path: Path, *, seconds: float = 4.0) -> Path:
    """Draw the teacher's points, and beside them the student's on their way; the end stays for a second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure = _figure(run, run.frames[:1])
    canvas = FigureCanvasAgg(figure)
    axes = figure.axes[1]
    images = []
    for epoch, points in run.frames:
        axes.collections[0].set_offsets(points.numpy())
        axes.set_title(_title(run, epoch))
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64))
    each = round(1000 * seconds / len(images))
    durations = [each] * (len(images) - 1) + [each + 1000]
    with atomic(path) as file:
        images[0].save(file, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return path


def _title(run: Transfer, epoch: int) -> str:
    coherence = {run.frames[0][0]: run.before, run.frames[-1][0]: run.after}
    return f"epoch {epoch}" + (f", GPCL {coherence[epoch]:.3f}" if epoch in coherence else "")


def _figure(run: Transfer, states: Sequence[tuple[int, Tensor]]) -> Figure:
    """Lay the teacher's points and some states of the student's side by side, all states in one scale."""
    from matplotlib.figure import Figure

    flat = run.toy.points.shape[1] == 2
    figure = Figure(figsize=(3.2 * (1 + len(states)), 3.4), layout="constrained")
    teacher: Any = figure.add_subplot(1, 1 + len(states), 1, projection=None if flat else "3d")
    teacher.scatter(*run.toy.points.T.numpy(), c=run.toy.labels.numpy(), cmap="tab10", vmax=9, s=4)
    teacher.set_title(f"teacher: {run.toy.name}")
    # Few points fly far out on their way.
    reach = 1.1 * max(float(points.abs().quantile(0.995)) for _, points in run.frames)
    for column, (epoch, points) in enumerate(states, 2):
        axes = figure.add_subplot(1, 1 + len(states), column)
        across, up = points.T.numpy()
        axes.scatter(across, up, c=run.toy.labels.numpy(), cmap="tab10", vmax=9, s=4)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=_title(run, epoch))
    if flat:
        teacher.set_aspect("equal")
    return figure

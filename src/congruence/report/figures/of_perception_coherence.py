"""Perception coherence: what batches estimate and teach (figure 6, tables 4 to 6), from runs and plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from congruence.core.rng import keyed_generator
from congruence.metrics import estimate_perception_coherence, global_perception_coherence
from congruence.report.figures.given import Given, LackingError, Pair
from congruence.report.figures.panels import COLOURS, above, name, panels, sweeps
from congruence.report.figures.spots import Groups, swept
from congruence.report.flat import SAMPLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES = (4, 8, 16, 32, 64, 128, 256)
_BATCHES = 100  # of each size
# Table 4: CIFAR-10, ResNet-18 and a student of three convolutions; the last is of the whole test set.
_PUBLISHED = (0.8943, 0.8377, 0.8131, 0.8021, 0.7969, 0.7944, 0.7931)
_PUBLISHED_WHOLE = 0.7919
_PUBLISHED_DEPTH = (0.7015, 0.7491, 0.7700, 0.7919)  # table 5, CIFAR-10
_WHERE = "published: CIFAR-10, ResNet-18 teacher"
_WHOLE = {"whole": 4.0}
_DEPTHS = ("conv1", "conv1–2", "conv1–3", "whole")


@dataclass(frozen=True)
class Estimates:
    """The estimated coherence of a student by batch size, the spread over batches, and the coherence of all samples."""

    name: str
    sizes: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    whole: float


def estimates(pair: Pair, *, seed: int = 0) -> Estimates:
    """Estimate a student's global perception coherence from 100 batches of each size up to 256, as def. 4.1 does.

    Args:
        pair: of which the first 2,000 samples are taken.
        seed: of the draws.
    """
    student, teacher = pair.student.features[:SAMPLES], pair.teacher.features[:SAMPLES]
    sizes = tuple(size for size in SIZES if size <= len(student))
    found = [
        estimate_perception_coherence(
            student, teacher, batch_size=size, repeats=_BATCHES, generator=keyed_generator(seed, size)
        )
        for size in sizes
    ]
    means, spreads = zip(*found, strict=True) if found else ((), ())
    return Estimates(pair.name, sizes, means, spreads, global_perception_coherence(student, teacher))


def batches(given: Given) -> Figure:
    """Draw figure 6 with table 4: the coherence that batches of B samples estimate, and that of all samples.

    Error bars are standard deviations over 100 single batches. The paper does not say what its spreads are of, and they
    are not drawn. At most 2,000 test samples are taken, where the paper has 10,000.
    """
    found = [estimates(pair, seed=given.seed) for pair in given.pairs]
    figure, axes = panels("Perception coherence, figure 6: coherence estimated from batches", 1, width=5.5, height=3.4)
    panel = axes[0][0]
    for number, each in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        panel.errorbar(
            each.sizes,
            each.means,
            yerr=each.spreads,
            color=colour,
            marker="o",
            markersize=4,
            capsize=3,
            label=name(each.name),
        )
        panel.axhline(each.whole, color=colour, linewidth=1, linestyle="--")
    _published(panel)
    panel.set_xscale("log", base=2)
    panel.set_xticks(SIZES, [str(size) for size in SIZES])
    panel.set(xlabel="B, samples of a batch (dashed: all samples)", ylabel="estimated GPCL")
    panel.legend()
    return figure


def _published(panel: Axes) -> None:
    panel.plot(SIZES, _PUBLISHED, "D", markerfacecolor="none", color="black", linestyle="none", label=_WHERE)
    panel.axhline(_PUBLISHED_WHOLE, color="black", linewidth=1, linestyle=":")


def by_setting(given: Given, prefix: str, also: dict[str, float] | None = None) -> list[tuple[Groups, str]]:
    """Return GPCL and retrieval mAP in % by a setting, each with its words; what no row has is left out."""
    numbers = (("gpcl", "GPCL", 1.0), ("retrieval_map", "retrieval mAP (%)", 100.0))
    found = [(swept(given.rows, prefix, key, scale=scale, also=also), label) for key, label, scale in numbers]
    return [(groups, label) for groups, label in found if groups]


def _swept(
    given: Given, prefix: str, title: str, across: str, *, also: dict[str, float] | None = None, even: bool = True
) -> Figure:
    there = by_setting(given, prefix, also)
    if not there:
        raise LackingError(f"No plan among the folders has two of the rows '{prefix}…'.")
    figure, axes = panels(above(title, there[0][0]), len(there), width=4.2)
    for panel, (groups, label) in zip(axes[0], there, strict=True):
        sweeps(panel, groups, across, label, even=even)
    return figure


def trained(given: Given) -> Figure:
    """Draw GPCL and retrieval of students trained with batches of B samples.

    Not in the paper, whose figure 6 estimates the coherence of one student; section 5.4 asks this of toys.
    """
    title = "Perception coherence, section 5.4: students trained with batches of B"
    return _swept(given, "batch", title, "B, samples of a training batch")


def depth(given: Given) -> Figure:
    """Draw table 5: GPCL and retrieval by the layers that a student keeps, and the paper's GPCL."""
    figure = _swept(given, "conv", "Perception coherence, table 5: layers kept", "layers kept", also=_WHOLE, even=False)
    for panel in figure.axes:
        panel.set_xticks(range(1, 5), _DEPTHS)
    first = figure.axes[0]
    if first.get_ylabel() == "GPCL":
        first.plot(
            range(1, 5), _PUBLISHED_DEPTH, "D", markerfacecolor="none", color="black", linestyle="none", label=_WHERE
        )
        first.legend()
    return figure


def temperature(given: Given) -> Figure:
    """Draw table 6: GPCL and retrieval by the student's temperature, the teacher's at 0.1."""
    title = "Perception coherence, table 6: the student's temperature"
    return _swept(given, "tau", title, "temperature of the student's soft ranks (equally spaced)")

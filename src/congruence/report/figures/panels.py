"""How figures look, and how they are saved: panels of points, sweeps and curves, as PNG and SVG of the same bits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congruence.core.brevity import cut
from congruence.core.files import atomic, writable
from congruence.core.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from congruence.report.figures.spots import Groups, Spot

# Okabe and Ito's colours but yellow, which colour-blind readers tell apart; markers and dashes say the same again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (3, 1.5)),
    (0, (8, 2)),
    (0, (1, 3)),
)
GREY = "#808080"
CURVES = 7  # of one panel
_MARKED = 30  # points of a curve, from which on they have no marks
_LONGEST = 36  # characters of a name
_DECADES = 300.0  # from here on only powers of ten are written beside a logarithmic axis
_LOOK: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "axes.grid": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "congruence",  # else the marks of each file have names of their own
    "svg.fonttype": "path",
    "text.parse_math": False,  # names hold anything
    "axes.unicode_minus": True,
}


@contextmanager
def look() -> Iterator[None]:
    """Draw with the figures' fonts and colours, whatever the reader's matplotlibrc says."""
    import matplotlib as mpl

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # of a name in another script: a box is drawn
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_LOOK)
            yield


def panels(title: str, columns: int, rows: int = 1, *, width: float = 3.6, height: float = 3.0) -> tuple[Figure, Any]:
    """Return a figure with a title, and its axes, an array [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, width * columns), height * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def name(text: str) -> str:
    """Return a name as a figure shows it: printable, and not long.

    Example:
        >>> name("cat\\n$x$")
        'cat\\\\n$x$'
    """
    return cut(printable(text), _LONGEST)


def dots(axes: Axes, found: Sequence[Spot], label: str, *, title: str = "") -> None:
    """Draw a row a setting: the seeds as small points, their mean and standard deviation."""
    for row, (spot, colour) in enumerate(zip(found, _cycled(COLOURS, len(found)), strict=True)):
        axes.errorbar(spot.mean, row, xerr=spot.sd or None, fmt="o", color=colour, capsize=3, markersize=6, zorder=3)
        if len(spot.values) > 1:
            axes.plot(spot.values, [row + 0.22] * len(spot.values), "o", color=GREY, markersize=3, zorder=4)
    axes.set_yticks(range(len(found)), [name(spot.label) for spot in found])
    axes.set(ylim=(len(found) - 0.5, -0.5), xlabel=label, title=name(title))
    axes.margins(x=0.12)


def published(axes: Axes, values: Mapping[str, float], label: str, title: str) -> None:
    """Draw a paper's values as hollow diamonds, in a panel of their own: data and networks are others."""
    axes.plot(list(values.values()), range(len(values)), "D", markerfacecolor="none", color="black", linestyle="none")
    axes.set_yticks(range(len(values)), list(values))
    axes.set(ylim=(len(values) - 0.5, -0.5), xlabel=label, title=title)
    axes.margins(x=0.12)


def sweeps(axes: Axes, groups: Mapping[str, Sequence[Spot]], across: str, up: str, *, even: bool = True) -> None:
    """Draw mean and standard deviation against a setting, a line a group, the seeds as small points.

    Args:
        axes: where.
        groups: the spots, whose `at` is the setting.
        across: what the setting is.
        up: what the values are.
        even: settings stand at equal distances, each with its value below; else where their numbers are.
    """
    marks = sorted({spot.at for each in groups.values() for spot in each})
    place = {at: float(rank) if even else at for rank, at in enumerate(marks)}
    for number, (group, found) in enumerate(groups.items()):
        x = [place[spot.at] for spot in found]
        axes.errorbar(
            x,
            [spot.mean for spot in found],
            yerr=[spot.sd for spot in found],
            capsize=3,
            markersize=5,
            label=name(group),
            **_line(number),
        )
        for at, spot in zip(x, found, strict=True):
            if len(spot.values) > 1:
                axes.plot([at] * len(spot.values), spot.values, "o", color=GREY, markersize=2.5, zorder=4)
    if even:
        axes.set_xticks(range(len(marks)), [f"{at:g}" for at in marks])
    axes.set(xlabel=across, ylabel=up)
    if len(groups) > 1:
        axes.legend()


def curves(axes: Axes, lines: Mapping[str, Sequence[tuple[float, float]]], up: str, order: Iterable[str] = ()) -> None:
    """Draw by epoch a line a name, at most seven.

    Args:
        axes: where.
        lines: the points (epoch, value) of each name.
        up: what the values are.
        order: names, among them others perhaps, by whose place a line has its colour, so that it is the same in each
            panel; else their own order.
    """
    from matplotlib.ticker import MaxNLocator

    places = {label: place for place, label in enumerate(dict.fromkeys([*order, *lines]))}
    for label, points in lines.items():
        if places[label] < CURVES:
            style = _line(places[label]) | ({"marker": None} if len(points) > _MARKED else {"markersize": 3.5})
            axes.plot(*zip(*points, strict=True), label=name(label), **style)
    axes.set(xlabel="epochs", ylabel=up)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_lines():
        left = sum(places[label] >= CURVES for label in lines)
        axes.legend(title=f"and {left} more, not drawn" if left else None, title_fontsize=8)


def logarithmic(axes: Axes, *which: str) -> None:
    """Make axes ("x", "y") logarithmic, with plain numbers beside them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for each in which:
        axis = axes.xaxis if each == "x" else axes.yaxis
        axes.set(**{f"{each}scale": "log"})
        low, high = axis.get_view_interval()
        few = high / low < _DECADES
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _line(number: int) -> dict[str, Any]:
    place = number % len(COLOURS)
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}


def _cycled(values: Sequence[str], count: int) -> list[str]:
    return [values[place % len(values)] for place in range(count)]


def above(title: str, groups: Groups) -> str:
    """Return a title, and under it of which plan the points are, and what they are.

    Example:
        >>> above("KDA, figure 2", {})
        'KDA, figure 2\\nmean ± standard deviation'
    """
    seeds = {len(spot.values) for each in groups.values() for spot in each}
    each = f" of {min(seeds)}" + (f" to {max(seeds)}" if len(seeds) > 1 else "") + " seeds" if seeds - {1} else ""
    plans = sorted({spot.plan for each in groups.values() for spot in each})
    of = f"{name(plans[0])}: " if len(plans) == 1 and plans[0] else ""
    return f"{title}\n{of}mean ± standard deviation{each}"


def save(figure: Figure, folder: Path, stem: str, told: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bits on one machine.

    Args:
        figure: drawn within `look`.
        folder: made where it is not there.
        stem: of the files' names.
        told: what the files' metadata say of where the figure is from; no date is added.

    Returns:
        Both paths.
    """
    writable(folder)
    facts = {"Title": stem, "Description": printable(told)}
    figure.draw_without_rendering()  # lays it out once for both files
    figure.set_layout_engine("none")
    paths = []
    for kind, more in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": "congruence"})):
        path = folder / f"{stem}.{kind}"
        with atomic(path) as file:
            figure.savefig(file, format=kind, dpi=150, metadata={**facts, **more})
        paths.append(path)
    return paths

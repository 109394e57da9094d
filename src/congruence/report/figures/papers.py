"""The table of the papers' figures: what each shows, what it needs, and how it is drawn and written."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from congruence.core import check
from congruence.core.check import sentence
from congruence.evaluation.pictures import require_plots
from congruence.report import provenance
from congruence.report.figures import of_cckd, of_intra_class, of_kd2m, of_kda, of_perception_coherence, of_toys
from congruence.report.figures.given import Given, LackingError
from congruence.report.figures.panels import look, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHECKS: Mapping[str, check.Constraint] = {
    "seed": check.Real(low=0, closed="low", integer=True),
    "epochs": check.COUNT,
}


class PaperFigure(NamedTuple):
    """One figure of a paper.

    `key` names it on the command line and in its files, `shows` is a phrase and `needs` a sentence, with the command
    that gives it. One that is `free` is drawn without a folder, and only where it is asked for by its key.
    """

    key: str
    shows: str
    needs: str
    draw: Callable[[Given], Figure]
    free: bool = False


class Outcome(NamedTuple):
    """A figure that was asked for: its files, or why there are none and what it needs."""

    key: str
    files: tuple[Path, ...] = ()
    why: str = ""


def _plan(name: str, *more: str) -> str:
    """Say which plan's folder a figure needs."""
    rows = f", or of one with such rows ({', '.join(more)})" if more else ""
    return (
        f"It needs the numbers of the plan {name}{rows}: results/{name} of the repository has them, and "
        f"congruence bench {name} --out runs/{name} measures them."
    )


_TOY = "It needs no folder, and minutes at the paper's 800 epochs (--epochs)."
_SETTING = "--set 'diagnostics.measures=[{}]'"

PAPERS: Mapping[str, tuple[PaperFigure, ...]] = MappingProxyType(
    {
        "cckd": (
            PaperFigure(
                "3",
                "training losses and validation accuracy by epoch",
                "It needs runs with the terms kd and cckd: congruence distill digits/kd, and digits/cckd. In a run "
                "without cckd, --set diagnostics.losses=true and a term {key='cckd', weight=0.0} log its loss.",
                of_cckd.course,
            ),
            PaperFigure(
                "4",
                "heat maps of cosine similarities within a class and between two",
                "It needs the folders of runs that have a teacher and labelled test images: congruence distill "
                "digits/kd, and digits/cckd.",
                of_cckd.heat,
            ),
            PaperFigure("tables-5-6", "accuracy by kernel and order", _plan("cckd-kernel"), of_cckd.kernels),
            PaperFigure("table-7", "accuracy by sampler and k", _plan("cckd-sampler"), of_cckd.samplers),
        ),
        "intra-class": (
            PaperFigure(
                "lambda",
                "λ against d_intra/d_inter and L_intra/L_inter, with theorem 2's bounds",
                "It needs runs whose teacher or student was trained with intra_class, at several λ: congruence distill "
                "digits/intra_class --set stages.teacher.terms.1.weight=0.01 (then 0.03, 0.3); digits/kd has λ = 0.",
                of_intra_class.ratios,
            ),
            PaperFigure(
                "soft-labels",
                "λ against the entropy of the soft labels, and the student's accuracy",
                _plan("intra-class-margin", "no_contrast", "lambda_0_03"),
                of_intra_class.entropies,
            ),
            PaperFigure(
                "theorem-2",
                "the same ratios at the optimum of eq. 8 over free vectors",
                "It needs no folder.",
                of_intra_class.theorem,
                free=True,
            ),
        ),
        "kda": (
            PaperFigure("2", "accuracy by landmarks", _plan("kda-landmarks"), of_kda.landmarks),
            PaperFigure(
                "3",
                "the kernel transfer error by method, before and after the last FC",
                "It needs runs, or a plan whose rows keep kernel_transfer_error: congruence distill digits/ce, "
                "digits/rkd, digits/kd, and digits/kda, each in a folder of that name.",
                of_kda.transfer,
            ),
            PaperFigure(
                "4",
                "the kernel transfer error and its estimate by landmarks, by epoch",
                "It needs runs that log both: congruence distill digits/kda_diagnostics, or any run with "
                + _SETTING.format('"kernel_transfer_error", "landmark_transfer_error"')
                + ".",
                of_kda.estimated,
            ),
            PaperFigure(
                "5",
                "the smallest eigenvalues of W_S and W_T, by epoch",
                "It needs runs that log them: congruence distill digits/kda_diagnostics, or any run with "
                + _SETTING.format('"smallest_landmark_eigenvalue"')
                + ".",
                of_kda.smallest,
            ),
            PaperFigure("6", "accuracy with and without the matrix W", _plan("kda-landmarks"), of_kda.weighting),
            PaperFigure("7", "accuracy by the centres a class", _plan("kda-landmarks"), of_kda.centres),
            PaperFigure("tables-1-2", "accuracy by layer", _plan("kda-layers"), of_kda.layers),
        ),
        "kd2m": (
            PaperFigure(
                "2",
                "classification loss, distillation loss and accuracy by epoch, for several λ",
                "It needs runs with such a term: congruence distill digits/wasserstein --set "
                "stages.student.terms.1.weight=0.01 (then others), and digits/ce.",
                of_kd2m.course,
            ),
            PaperFigure(
                "2-end",
                "accuracy and the distance left at the end of training, by λ",
                _plan("kd2m-weight", "lambda_0_01"),
                of_kd2m.at_the_end,
            ),
            PaperFigure(
                "3",
                "features of teacher and student in one plot",
                "It needs the folders of runs that have a teacher: congruence distill digits/ce, and "
                "digits/class_wasserstein.",
                of_kd2m.features,
            ),
        ),
        "perception-coherence": (
            PaperFigure("4", "from 2D to 2D, with grey lines between pairs", _TOY, of_toys.flat, free=True),
            PaperFigure("5", "from 3D to 2D", _TOY, of_toys.spatial, free=True),
            PaperFigure(
                "6",
                "the coherence estimated from batches, against their size",
                "It needs the folders of runs that have a teacher: congruence distill digits/perception_coherence.",
                of_perception_coherence.batches,
            ),
            PaperFigure(
                "6-trained",
                "the coherence of students trained with batches, against their size",
                _plan("perception-batch", "batch16"),
                of_perception_coherence.trained,
            ),
            PaperFigure("7", "from 3D to 2D with batches of 3, 7 and 15", _TOY, of_toys.spatial_by_batch, free=True),
            PaperFigure("8", "two moons with batches of 3, 7 and 15", _TOY, of_toys.flat_by_batch, free=True),
            PaperFigure("more-clusters", "the toy with more clusters, of appendix E.1", _TOY, of_toys.more, free=True),
            PaperFigure(
                "table-5",
                "coherence and retrieval by the layers kept",
                _plan("perception-depth", "conv1"),
                of_perception_coherence.depth,
            ),
            PaperFigure(
                "table-6",
                "coherence and retrieval by the student's temperature",
                _plan("perception-temperature", "tau_0_3"),
                of_perception_coherence.temperature,
            ),
        ),
    }
)


def listed(paper: str) -> tuple[PaperFigure, ...]:
    """Return the figures of a paper.

    Raises:
        ValueError: for a paper that is not there.

    Example:
        >>> [figure.key for figure in listed("kd2m")]
        ['2', '2-end', '3']
    """
    check.hyperparameters("figures", {"paper": check.Choice(tuple(PAPERS))}, paper=paper)
    return PAPERS[paper]


def write_figures(
    paper: str,
    folders: Sequence[str | Path] = (),
    out: str | Path = "runs/figures",
    *,
    only: Sequence[str] = (),
    trust: bool = False,
    seed: int = 0,
    epochs: int = 800,
) -> Iterator[Outcome]:
    """Write a paper's figures that folders of runs and plans give, each as PNG and SVG, and say what the others need.

    Args:
        paper: "cckd", "intra-class", "kda", "kd2m" or "perception-coherence".
        folders: of runs, and of plans (with results.jsonl).
        out: the folder for the files, PAPER-KEY.png and PAPER-KEY.svg.
        only: keys of figures; none are all that need folders. Those that need none are drawn where they are named.
        trust: whether factories that runs name may be imported.
        seed: of what is drawn at random: batches, toys, a start.
        epochs: of the toys.

    Yields:
        What became of each figure, in the paper's order.

    Raises:
        ValueError: for an unknown paper, key or folder, or without the extra `congruence[plots]`.

    Example:
        >>> [(each.key, each.why) for each in write_figures("kd2m", only=["2-end"])]  # nothing is given
        [('2-end', "No plan among the folders has rows called 'lambda_…' of these methods. It needs ...")]
    """
    figures = listed(paper)
    check.hyperparameters("figures", _CHECKS, seed=seed, epochs=epochs)
    keys = [figure.key for figure in figures]
    for key in only:
        check.hyperparameters("figures", {"only": check.Choice(tuple(keys))}, only=key)
    require_plots()
    given = Given(folders, trust=trust, seed=seed, epochs=epochs)
    return _written(
        paper, [figure for figure in figures if not only or figure.key in only], given, Path(out), named=bool(only)
    )


def _written(paper: str, figures: Sequence[PaperFigure], given: Given, out: Path, *, named: bool) -> Iterator[Outcome]:
    command = shlex.join(["congruence", "figures", paper, *map(str, given.folders)])
    made = ", ".join(f"{package} {version}" for package, version in provenance.versions().items())
    for figure in figures:
        if figure.free and not named:
            yield Outcome(figure.key, why=f"{figure.needs} It is drawn by --only {figure.key}.")
            continue
        try:
            with look():
                drawn = figure.draw(given)
                told = f"{command}, figure {figure.key}, seed {given.seed}; {made}"
                files = save(drawn, out, f"{paper}-{figure.key}", told)
        except LackingError as error:
            yield Outcome(figure.key, why=f"{error} {figure.needs}")
        except ValueError as error:  # a damaged file, say
            yield Outcome(figure.key, why=sentence(error))
        else:
            yield Outcome(figure.key, tuple(files))

"""The figures of the five founding papers, drawn from runs, from plans, or from points alone: PNG and SVG."""

from congruence.report.figures.papers import PAPERS, Outcome, PaperFigure, listed, write_figures

__all__ = ["PAPERS", "Outcome", "PaperFigure", "listed", "write_figures"]

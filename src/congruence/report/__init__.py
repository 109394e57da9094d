"""Floor 12: one self-contained HTML page of runs, of a plan or of a comparison (the extra `congruence[report]`)."""

from congruence.report.as_html import Page, installed, render
from congruence.report.comparison_page import write_comparison
from congruence.report.plan_page import write_plan
from congruence.report.run_page import write_runs
from congruence.report.write import report_of

__all__ = ["Page", "installed", "render", "report_of", "write_comparison", "write_plan", "write_runs"]

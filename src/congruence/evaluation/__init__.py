"""Floor 7: evaluation: test numbers, and how faithful a student is to its teacher."""

from congruence.evaluation.compare import compare
from congruence.evaluation.comparison import Comparison, Comparisons
from congruence.evaluation.cost import Cost, cost, costs
from congruence.evaluation.diagnostics import DIAGNOSTICS, diagnose
from congruence.evaluation.embed import Embedded, embed
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.measure import Measurement, measure
from congruence.evaluation.number import Number
from congruence.evaluation.watch import Diagnostics, diagnostic_loader, term_losses

__all__ = [
    "DIAGNOSTICS",
    "Comparison",
    "Comparisons",
    "Cost",
    "Diagnostics",
    "Embedded",
    "Embeddings",
    "Measurement",
    "Number",
    "compare",
    "cost",
    "costs",
    "diagnose",
    "diagnostic_loader",
    "embed",
    "measure",
    "term_losses",
]

"""Floor 6: what a student is worth: test numbers, and how faithful it is to its teacher."""

from congruence.evaluation.compare import Comparison, compare
from congruence.evaluation.embed import Embedded, embed
from congruence.evaluation.measure import Measurement, measure

__all__ = ["Comparison", "Embedded", "Measurement", "compare", "embed", "measure"]

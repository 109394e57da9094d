"""Floor 4: the interface that every method implements, the term of an objective, and the catalogue."""

from congruence.methods.catalogue import keys, row
from congruence.methods.landmarks import LandmarkBank
from congruence.methods.loss_method import LossMethod
from congruence.methods.method import Clock, Method, Needs, Probe, Signals
from congruence.methods.reviewkd import ReviewKD
from congruence.methods.rows import Row
from congruence.methods.term import Term

__all__ = [
    "Clock",
    "LandmarkBank",
    "LossMethod",
    "Method",
    "Needs",
    "Probe",
    "ReviewKD",
    "Row",
    "Signals",
    "Term",
    "keys",
    "row",
]

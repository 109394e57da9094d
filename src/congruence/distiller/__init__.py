"""Floor 5: the distiller, which joins teacher, students and terms in one module for any training loop."""

from congruence.distiller.balance import Balance
from congruence.distiller.captured import Captured, Output
from congruence.distiller.distiller import Distiller
from congruence.distiller.recall import StoredTeacher

__all__ = ["Balance", "Captured", "Distiller", "Output", "StoredTeacher"]

"""Floor 5: the distiller: teacher, students and terms as one module, usable in any loop."""

from congruence.distiller.balance import Balance
from congruence.distiller.captured import Captured, Output
from congruence.distiller.distiller import Distiller
from congruence.distiller.recall import StoredTeacher

__all__ = ["Balance", "Captured", "Distiller", "Output", "StoredTeacher"]

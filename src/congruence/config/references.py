"""The one type for a student of another stage."""

from __future__ import annotations

from typing import NamedTuple, Self


class StudentRef(NamedTuple):
    """A stage's student: written "STAGE", or "STAGE/NAME" where the stage has several.

    Example:
        >>> StudentRef.parse("mutual/anna"), str(StudentRef("teacher"))
        (StudentRef(stage='mutual', student='anna'), 'teacher')
    """

    stage: str
    student: str = "student"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it as a configuration writes it."""
        stage, _, student = text.partition("/")
        return cls(stage, student) if student else cls(stage)

    def __str__(self) -> str:
        return self.stage if self.student == "student" else f"{self.stage}/{self.student}"

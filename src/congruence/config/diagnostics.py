"""The table of diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from congruence.config.base import Count, Table, Whole
from congruence.config.problems import Problems, expected
from congruence.evaluation.diagnostics import ALL, DIAGNOSTICS, checked_names, without_teacher


class DiagnosticsConfig(Table):
    """What is measured of every student at the ends of epochs: `congruence.evaluation.Diagnostics`.

    A stage without a teacher is measured by what needs none.

    Args:
        measures: names of measures, or "all"; empty where only `losses` are wanted.
        losses: measure the terms' losses on these images, too.
        samples: how many images are measured on, the same ones each time.
        images: the part of the data that they come from.
        seed: decides which images are taken.
        every: epochs from one measurement to the next, counted from the first.
        student_layer: the layer whose features are measured; by default what enters the last Linear.
        teacher_layer: the same of the teacher.
        stages: the stages whose students are measured; by default all.
    """

    measures: str | list[str] = ALL
    losses: bool = False
    samples: Count = 1000
    images: Literal["validation", "train"] = "validation"
    seed: Whole = 0
    every: Count = 1
    student_layer: str | None = None
    teacher_layer: str | None = None
    stages: Annotated[list[str], Field(min_length=1)] | None = None

    @field_validator("measures")
    @classmethod
    def _in_table(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        wrong = [name for name in names if name not in DIAGNOSTICS and names != [ALL]]
        if wrong:
            raise Problems([("", expected((ALL, *DIAGNOSTICS), name)) for name in wrong])
        return value

    @model_validator(mode="after")
    def _of_something(self) -> DiagnosticsConfig:
        if not self.measures and not self.losses:
            raise Problems([("measures", "expected at least one, got none.")])
        return self

    def names(self) -> tuple[str, ...]:
        """Return the measures by name, none where only losses are asked for."""
        return checked_names(self.measures) if self.measures else ()

    def wrong(self, stages: Mapping[str, bool]) -> list[tuple[str, str]]:
        """Return (key, sentence) for what does not fit the stages, of which each has a teacher or has none."""
        names = self.stages or list(stages)
        unknown = [name for name in names if name not in stages]
        problems = [("stages", expected(stages, name, what="a stage of the file: ")) for name in unknown]
        if not unknown and not any(stages[name] for name in names):
            measures = self.names()
            lost = [name for name in measures if name not in without_teacher(measures)]
            problems += [
                ("measures", f"expected what needs no teacher, since there is none, got {name!r}.") for name in lost
            ]
        return problems

    def upto(self, stages: Mapping[str, bool]) -> DiagnosticsConfig | None:
        """Return what is left of it for fewer stages, of which each has a teacher or has none."""
        left = None if self.stages is None else [name for name in self.stages if name in stages]
        names = stages if left is None else left
        measures: str | list[str] = self.measures
        if not any(stages[name] for name in names):
            measures = list(without_teacher(self.names()))
        some = names and (measures or self.losses)
        return self.model_copy(update={"stages": left, "measures": measures}) if some else None

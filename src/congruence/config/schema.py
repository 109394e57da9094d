"""`RunConfig`, the typed configuration of a run: data, diagnostics and stages (`StageConfig`), and how these link."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from congruence.config.base import Count, Table, absolute, table_or
from congruence.config.diagnostics import DiagnosticsConfig
from congruence.config.problems import Problems, expected
from congruence.config.protocol import ProtocolConfig
from congruence.config.references import StudentRef
from congruence.config.tables import CacheConfig, DataConfig, HeadConfig, ModelConfig, TermConfig
from congruence.config.training import TrainConfig
from congruence.core.brevity import brief
from congruence.core.inputs import TEACHER
from congruence.training.saving.run_directory import RunDirectory

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def _one_or_several(value: Any) -> str:
    tables = isinstance(value, dict) and len(value) > 0 and all(isinstance(v, dict | Table) for v in value.values())
    return "@several" if tables and not set(value) <= set(ModelConfig.model_fields) else "@one"


def _stage_model_or_several(value: Any) -> str:
    if not isinstance(value, dict):
        return "@model" if isinstance(value, Table) else "@stage"
    named = len(value) > 0 and not set(value) & set(ModelConfig.model_fields)
    return "@several" if named and all(isinstance(v, dict | Table | str) for v in value.values()) else "@model"


def _head_or_several(value: Any) -> str:
    several = isinstance(value, dict) and len(value) > 0 and all(isinstance(v, dict | Table) for v in value.values())
    return "@several" if several else "@one"


OneTeacher = Annotated[
    Annotated[str, Tag("@stage")] | Annotated[ModelConfig, Tag("@model")], table_or("@stage", "@model")
]


class StageConfig(Table):
    """One `fit`: who learns, from whom: an earlier stage ("STAGE/NAME" where that has several students) or a model.

    Several teachers are a table of these by name. Each has its own folder in that of
    `teacher_cache`.

    Args:
        student: the model that learns, or several by name.
        teacher: the model that teaches: a table, or an earlier stage ("STAGE/NAME" of several students); or several by
            name; none where no term needs one.
        teacher_head: an embedding or a classifier of a given teacher, fitted first; of several teachers a table for
            each that is to have one.
        teacher_cache: the teacher's answers in files; false for none, where another file or an override said one.
        labels_per_class: keep so many labels of each class of the training images and forget the others.
        terms: the terms of the objective, at least one.
        train: how the stage is trained.
    """

    student: Annotated[
        Annotated[ModelConfig, Tag("@one")] | Annotated[dict[str, ModelConfig], Tag("@several")],
        Discriminator(_one_or_several),
    ]
    teacher: (
        Annotated[
            Annotated[str, Tag("@stage")]
            | Annotated[ModelConfig, Tag("@model")]
            | Annotated[dict[str, OneTeacher], Tag("@several")],
            Discriminator(_stage_model_or_several),
        ]
        | None
    ) = None
    teacher_head: (
        Annotated[
            Annotated[HeadConfig, Tag("@one")] | Annotated[dict[str, HeadConfig], Tag("@several")],
            Discriminator(_head_or_several),
        ]
        | None
    ) = None
    teacher_cache: CacheConfig | None = None
    labels_per_class: Count | None = None
    terms: Annotated[list[TermConfig], Field(min_length=1)]
    train: TrainConfig

    @field_validator("teacher_cache", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value is False else value

    @model_validator(mode="after")
    def _taught(self) -> Self:
        sampler, problems = self.train.sampler, []
        if self.teacher is None and self.teacher_head is not None:
            problems.append(("teacher_head", "expected none without a teacher, got one."))
        if self.teacher is None and self.teacher_cache is not None:
            problems.append(("teacher_cache", "expected none without a teacher, got one."))
        if self.teacher is None and sampler is not None and sampler.name == "superclass_uniform":
            problems.append(
                ("train.sampler.name", "expected 'class_uniform' without a teacher, got 'superclass_uniform'.")
            )
        if isinstance(self.teacher, dict) and sampler is not None and sampler.name == "superclass_uniform":
            problems.append(
                ("train.sampler.name", "expected 'class_uniform' with several teachers, whose features differ.")
            )
        several = isinstance(self.teacher, dict)
        for name, teacher in self.teachers().items():
            if isinstance(teacher, ModelConfig) and teacher.start_stage is not None:
                key = f"teacher.{name}.start_stage" if several else "teacher.start_stage"
                problems.append((key, "expected none of a teacher, which does not learn, got one."))
            if isinstance(teacher, ModelConfig) and teacher.reused_classifier is not None:
                key = f"teacher.{name}.reused_classifier" if several else "teacher.reused_classifier"
                problems.append((key, "expected none of a teacher, whose classifier a student can reuse, got one."))
        for name, student in self.students().items():
            if student.reused_classifier is not None and len(self.teachers()) != 1:
                key = f"student.{name}" if isinstance(self.student, dict) else "student"
                text = (
                    f"expected none without one teacher, whose classifier it is, got {len(self.teachers())} teachers."
                )
                problems.append((f"{key}.reused_classifier", text))
        if self.teacher is not None:
            problems += [
                (f"teacher_head.{name}", expected(self.teachers(), name, what="a teacher: "))
                for name in self.heads()
                if name not in self.teachers()
            ]
        if problems:
            raise Problems(problems)
        return self

    def teacher_ref(self) -> StudentRef | None:
        """Return the earlier stage's student that alone teaches, None where it is a model or there is none."""
        return StudentRef.parse(self.teacher) if isinstance(self.teacher, str) else None

    def teachers(self) -> dict[str, str | ModelConfig]:
        """Return the teachers by name; a single one is called "teacher"."""
        if isinstance(self.teacher, dict):
            return dict(self.teacher)
        return {} if self.teacher is None else {TEACHER: self.teacher}

    def heads(self) -> dict[str, HeadConfig]:
        """Return the fitted heads by the names of their teachers."""
        if isinstance(self.teacher_head, dict):
            return dict(self.teacher_head)
        return {} if self.teacher_head is None else {TEACHER: self.teacher_head}

    def students(self) -> dict[str, ModelConfig]:
        """Return the students by name; a single one is called "student"."""
        return self.student if isinstance(self.student, dict) else {"student": self.student}

    def needs(self) -> set[str]:
        """Return the earlier stages that teach this one, or whose students its own begin as."""
        begin = [model.start_stage for model in self.students().values() if model.start_stage is not None]
        taught = [teacher for teacher in self.teachers().values() if isinstance(teacher, str)]
        return {StudentRef.parse(text).stage for text in (*begin, *taught)}

    def classifies(self) -> bool:
        """Whether a term teaches the classes or a student reuses a classifier: accuracy means nothing otherwise."""
        reused = any(model.reused_classifier is not None for model in self.students().values())
        return reused or any(term.term().needs.teaches_classes for term in self.terms)


def wrong_links(stages: Any) -> list[tuple[str, str]]:
    """Return (key, sentence) for each stage with a bad name, or a teacher that is no earlier stage."""
    problems: list[tuple[str, str]] = []
    earlier: list[str] = []
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        if not _NAME.fullmatch(name) or name in RunDirectory.FOLDERS:
            problems.append((f"stages.{name}", f"expected a name of letters, digits, '-' and '_', got {brief(name)}."))
        teacher, student = (stage.get(key) if isinstance(stage, Mapping) else None for key in ("teacher", "student"))
        for key, each in _taught_by(teacher).items():
            if each not in earlier:
                if earlier:
                    text = expected(earlier, each, what="a model's table or an earlier stage: ")
                else:
                    text = f"expected a model's table, since no stage comes before, got {brief(each)}."
                problems.append((f"stages.{name}.{key}", text))
        for key, begin in _begins(student).items():
            if begin not in earlier:
                nothing = f"expected none, since no stage comes before, got {brief(begin)}."
                text = expected(earlier, begin, what="an earlier stage: ") if earlier else nothing
                problems.append((f"stages.{name}.{key}", text))
        several = isinstance(student, Mapping) and _one_or_several(student) == "@several"
        earlier += [str(StudentRef(name, each)) for each in student or ()] if several else [name]
    return problems


def _taught_by(teacher: Any) -> dict[str, str]:
    """Return the stages that teach, by the key that says so."""
    if isinstance(teacher, str):
        return {"teacher": teacher}
    several = isinstance(teacher, Mapping) and _stage_model_or_several(dict(teacher)) == "@several"
    return {f"teacher.{name}": each for name, each in teacher.items() if isinstance(each, str)} if several else {}


def _begins(student: Any) -> dict[str, str]:
    """Return the stages that a stage's students begin as, by the key that says so."""
    if not isinstance(student, Mapping):
        return {}
    several = _one_or_several(student) == "@several"
    models = {f"student.{name}": model for name, model in student.items()} if several else {"student": student}
    begins = {f"{key}.start_stage": model.get("start_stage") for key, model in models.items()}
    return {key: begin for key, begin in begins.items() if isinstance(begin, str)}


class RunConfig(Table):
    """A whole run.

    Args:
        name: the run's name, and that of its folder in runs/; by default FOLDER/FILE, as the file is called.
        extends: a file whose values hold where this one says nothing: a path from this file's folder, or the name of a
            shipped recipe.
        data: the images or texts.
        protocol: what else is measured on the test part.
        diagnostics: what is measured of the students at the end of each epoch.
        stages: what is trained, one stage after the other, by name; a later one may learn from an earlier one's
            student.
    """

    name: str = ""
    extends: str | None = None
    data: DataConfig
    protocol: ProtocolConfig | None = None
    diagnostics: DiagnosticsConfig | None = None
    stages: Annotated[dict[str, StageConfig], Field(min_length=1)]

    @model_validator(mode="after")
    def _linked(self) -> Self:
        problems = wrong_links(self.model_dump()["stages"])
        if self.diagnostics is not None:
            wrong = self.diagnostics.wrong({name: stage.teacher is not None for name, stage in self.stages.items()})
            problems += [(f"diagnostics.{key}", text) for key, text in wrong]
        if problems:
            raise Problems(problems)
        return self

    @property
    def last(self) -> str:
        """The name of the last stage, whose students are the run's result."""
        return next(reversed(self.stages))

    def teachers_of(self, stage: StageConfig) -> dict[str, ModelConfig]:
        """Return the models that teach a stage by name, its own or earlier stages' students."""
        return {name: self._model_of(teacher) for name, teacher in stage.teachers().items()}

    def teacher_of(self, stage: StageConfig) -> ModelConfig | None:
        """Return the model that alone teaches a stage, None where there is none, or several."""
        return self.teachers_of(stage).get(TEACHER)

    def _model_of(self, teacher: str | ModelConfig) -> ModelConfig:
        if isinstance(teacher, ModelConfig):
            return teacher
        stage, student = StudentRef.parse(teacher)
        return self.stages[stage].students()[student]

    def upto(self, stage: str) -> RunConfig:
        """Return the configuration of a stage and of those it learns from or begins as, by themselves."""
        if stage not in self.stages:
            raise ValueError(f"`run`: `only` must be a stage: {expected(self.stages, stage)}")
        needed = {stage}
        for name in reversed(self.stages):
            if name in needed:
                needed |= self.stages[name].needs()
        before = {name: self.stages[name] for name in self.stages if name in needed - {stage}}
        return self._with({**before, stage: self.stages[stage]})

    def with_teacher(self, weights: str | Path, *, cache: Path | None = None) -> RunConfig:
        """Return the last stage alone, with its teacher's weights from a file instead of from the stage before.

        With `cache`, a teacher's cache that has no folder of its own gets one in there, the same for all
        configurations that show the same images.
        """
        stage = self.stages[self.last]
        teacher = self.teacher_of(stage)
        if teacher is None:
            raise ValueError(f"The stage '{self.last}' has no teacher whose weights could be given.")
        if any(model.start_stage is not None for model in stage.students().values()):
            raise ValueError(
                f"The stage '{self.last}' cannot run alone with a teacher from a file: its student begins as another "
                "stage's (`start_stage`)."
            )
        teacher = teacher.model_copy(update={"weights": absolute(str(weights)), "start": None, "start_stage": None})
        changed: dict[str, Any] = {"teacher": teacher}
        if cache and stage.teacher_cache and stage.teacher_cache.folder is None:
            shown: list[Any] = [self.data, stage.teacher_cache, stage.train.augmentation(), stage.train.seed]
            shared = shown[:-1] if stage.teacher_cache.seed is not None else shown
            views = sorted({view for term in stage.terms for view in term.term().needs.views} - {"main"})
            shared += [views] if views else []
            takers = [model.inputs for model in (teacher, *stage.students().values())]
            shared += [takers] if any(takers) else []
            folder = cache / f"cache-{hashlib.sha256(repr(shared).encode()).hexdigest()[:12]}"
            changed["teacher_cache"] = stage.teacher_cache.model_copy(update={"folder": absolute(str(folder))})
        return self._with({self.last: stage.model_copy(update=changed)})

    def with_training(self, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
        """Return the configuration with other values in the `train` tables of some stages."""
        stages = dict(self.stages)
        for name, values in changes.items():
            train = stages[name].train.model_copy(update=dict(values))
            stages[name] = stages[name].model_copy(update={"train": train})
        return self._with(stages)

    def _with(self, stages: dict[str, StageConfig]) -> RunConfig:
        asked = self.diagnostics
        if asked is not None:
            asked = asked.upto({name: stage.teacher is not None for name, stage in stages.items()})
        return self.model_copy(update={"stages": stages, "diagnostics": asked})

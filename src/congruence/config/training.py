"""The table `train` of a stage and those in it: optimizer, schedule, augmentation, sampler; `FitOptions` key by key."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from congruence import data
from congruence.config.base import Count, Table, Whole
from congruence.config.problems import Problems
from congruence.training.options import FitOptions, OptimizerOptions, Precision, ScheduleOptions, Shard, TeacherSpeed


class OptimizerConfig(Table):
    """`congruence.OptimizerOptions`.

    Args:
        momentum: the momentum of SGD.
        nesterov: whether SGD takes Nesterov's momentum.
        betas: the two decay rates of AdamW's running means.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)

    @field_validator("*")
    @classmethod
    def _checked(cls, value: Any, info: ValidationInfo) -> Any:
        OptimizerOptions(**{str(info.field_name): value})
        return value


class ScheduleConfig(Table):
    """`congruence.ScheduleOptions`.

    Args:
        milestones: the positions, in epochs, at which "step" multiplies the rate by `factor`.
        factor: what "step" multiplies the rate by.
        warmup_epochs: epochs over which the rate grows linearly from 0.
    """

    name: Literal["constant", "step", "cosine"] = "cosine"
    milestones: Annotated[tuple[float, ...], Field(strict=False)] = ()
    factor: float = 0.1
    warmup_epochs: float = 0.0

    @field_validator("*")
    @classmethod
    def _checked(cls, value: Any, info: ValidationInfo) -> Any:
        ScheduleOptions(**{str(info.field_name): value})
        return value


class AugmentConfig(Table):
    """`congruence.data.Augment`."""

    pad: int = 4
    flip: bool = True
    mode: Literal["zero", "reflect"] = "zero"

    @field_validator("*")
    @classmethod
    def _checked(cls, value: Any, info: ValidationInfo) -> Any:
        data.Augment(**{str(info.field_name): value})
        return value


class PhotoAugmentConfig(Table):
    """`congruence.data.PhotoAugment`.

    Args:
        rotation: images are turned by an angle drawn from [-rotation, rotation] degrees; corners are filled with black.
    """

    crop: Literal["random", "resized"] = "random"
    flip: bool = True
    rotation: float = 0.0
    sides: Annotated[tuple[int, int], Field(strict=False)] | None = None
    area: Annotated[tuple[float, float], Field(strict=False)] = (0.08, 1.0)

    @field_validator("crop", "flip", "rotation", "sides", "area")
    @classmethod
    def _checked(cls, value: Any, info: ValidationInfo) -> Any:
        data.PhotoAugment(**{str(info.field_name): value})
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        data.PhotoAugment(**self.model_dump())
        return self


def _augment_kind(value: Any) -> str:
    """Tell the two tables apart by what only one of them has; a table of `flip` alone is of small images."""
    if isinstance(value, PhotoAugmentConfig):
        return "@photo"
    only = set(PhotoAugmentConfig.model_fields) - set(AugmentConfig.model_fields)
    if isinstance(value, dict) and only & set(value):
        return "@photo"
    return "@table" if isinstance(value, dict | Table) else "@flag"


class SamplerConfig(Table):
    """What a batch holds: exactly `k` samples of each class, or of each cluster of the teacher's features.

    `congruence.data.ClassUniformSampler` and `SuperclassUniformSampler`.

    Args:
        name: "class_uniform": by class; "superclass_uniform": by cluster of the teacher's features.
        k: samples of each class or cluster; `batch_size` is a multiple of it.
        clusters: how many clusters; by default the paper's 1000.
    """

    name: Literal["class_uniform", "superclass_uniform"]
    k: Count = 4
    clusters: Count | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.clusters is not None and self.name == "class_uniform":
            raise Problems([("clusters", f"expected none with 'class_uniform', got {self.clusters}.")])
        return self


_ENGINE = (
    *("epochs", "max_steps", "seed", "precision", "gradient_clip", "accumulate", "micro_batch"),
    *("teacher_speed", "channels_last", "compile", "log_every", "checkpoint_seconds", "tensorboard", "gradient_norms"),
    "one_standard_error",
    *("sync_batch_norm", "rank_timeout"),
    "shard",
)


class TrainConfig(Table):
    """How a stage is trained: `congruence.FitOptions`, and its batches.

    Args:
        batch_size: samples of a batch over all ranks.
        drop_last: leave out a last batch that is smaller.
        augment: true for the dataset's own augmentation, false for none, or a table.
        sampler: what a batch holds; by default samples drawn at random.
        workers: processes that read image files.
        optimizer: the optimizer and its learning rate.
        schedule: the course of the learning rate.
    """

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: Count = 64
    drop_last: bool = False
    augment: Annotated[
        Annotated[bool, Tag("@flag")]
        | Annotated[AugmentConfig, Tag("@table")]
        | Annotated[PhotoAugmentConfig, Tag("@photo")],
        Discriminator(_augment_kind),
    ] = False
    sampler: SamplerConfig | None = None
    workers: Whole = 0
    seed: int = 0
    device: str = "auto"
    precision: Precision = "float32"
    gradient_clip: float | None = None
    accumulate: int = 1
    micro_batch: int | None = None
    teacher_speed: TeacherSpeed = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False
    monitor: str | None = None
    one_standard_error: bool = False
    log_every: int = 50
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    gradient_norms: bool = True
    sync_batch_norm: bool = False
    rank_timeout: float | None = None
    shard: Shard | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    @field_validator("channels_last", mode="before")
    @classmethod
    def _flag_or_auto(cls, value: Any) -> Any:
        FitOptions(epochs=1, channels_last=value)  # before the types: of a union each would say its own sentence
        return value

    @field_validator(*_ENGINE)
    @classmethod
    def _checked(cls, value: Any, info: ValidationInfo) -> Any:
        FitOptions(**{"epochs": 1, str(info.field_name): value})
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        self.options()
        if self.sampler is not None and self.batch_size % self.sampler.k:
            text = f"expected a multiple of the sampler's k ({self.sampler.k}), got {self.batch_size}."
            raise Problems([("batch_size", text)])
        return self

    def options(self, **more: Any) -> FitOptions:
        """Return what `fit` gets; `more` are arguments that this table does not say (out, resume, callbacks, ...)."""
        apart = {"batch_size", "drop_last", "augment", "sampler", "workers", "optimizer", "schedule"}
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in apart}
        return FitOptions(
            **values,
            optimizer=OptimizerOptions(**self.optimizer.model_dump()),
            schedule=ScheduleOptions(**self.schedule.model_dump()),
            **more,
        )

    def augmentation(self) -> data.Augment | data.PhotoAugment | bool:
        """Return what `congruence.data.loader` gets."""
        if isinstance(self.augment, bool):
            return self.augment
        kind = data.Augment if isinstance(self.augment, AugmentConfig) else data.PhotoAugment
        return kind(**self.augment.model_dump())

"""The tables [data], of models, of terms, of a teacher's head and of its cache: one class each."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from congruence import methods, models
from congruence.config.base import Count, Table, Whole, absolute
from congruence.config.problems import Problems, expected, one_by_one
from congruence.core.brevity import brief
from congruence.data.sources.any_folder import holds_shards
from congruence.data.sources.catalogue import sources
from congruence.data.sources.table import IMAGE_FOLDER
from congruence.data.sources.texts import is_texts
from congruence.methods.rows import current_parts
from congruence.models import named
from congruence.models.adapters.text_encoders import check_options

Sides = Count | Annotated[tuple[Count, Count], Field(strict=False)]
Channels = Annotated[tuple[float, ...], Field(strict=False, min_length=1)]


def wrong_moments(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> list[tuple[str, str]]:
    """Return (key, sentence) for what is wrong with a mean and a deviation."""
    problems = []
    if (mean is None) != (std is None):
        missing, given = ("mean", "std") if mean is None else ("std", "mean")
        problems.append((missing, f"expected numbers too where `{given}` is given."))
    if std is not None and min(std) <= 0:
        problems.append(("std", f"expected numbers > 0, got {list(std)}."))
    return problems


def importable(factory: str | None) -> str | None:
    """Check that a text names something in a module.

    Raises:
        ValueError: where it does not.
    """
    module, _, name = (factory or "m:f").partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ValueError(f"expected 'package.module:callable', got {brief(factory)}.")
    return factory


_OF_FACTORIES = {"factory", "options", "labels_per_class", "split_seed"}  # keys of data that a factory makes


class DataConfig(Table):
    """What `congruence.data.load` gets. Paths are relative to the working directory.

    Or `factory`, "package.module:function" (which needs trust), that is called with `options` and returns `Splits`, or
    any datasets: see `congruence.pipeline.own_data`.

    Args:
        name: what `congruence data` lists, a folder of images, of tar shards or of Parquet files, one such shard, a
            file of texts, or "image-folder" with `root`.
        factory: "package.module:function" that returns the data; needs trust.
        options: keyword arguments of `factory`.
        split_seed: the seed of every random choice made here: which samples are held out or left out, and which labels
            are kept.
        labels_per_class: keep so many labels of each class of the training images and forget the others; a stage may
            say its own.
    """

    name: str | None = None
    factory: str | None = None
    options: dict[str, Any] | None = None
    root: str | None = None
    split_seed: Whole = 0
    validation: int | float | None = None
    test: int | float | None = None
    train_size: Count | None = None
    labels_per_class: Count | None = None
    classes: Count | None = None
    test_classes: Count | None = None
    size: Sides | None = None
    resize: Sides | None = None
    stream: bool | None = None
    mean: Channels | None = None
    std: Channels | None = None

    _root = field_validator("root")(absolute)
    _importable = field_validator("factory")(importable)

    def __repr_args__(self) -> Any:
        """Yield what data is told; folders are named by it, as before there were factories."""
        told = dict(super().__repr_args__())
        return [(key, value) for key, value in told.items() if key not in ("factory", "options") or value is not None]

    @property
    def called(self) -> str:
        """The name, or the factory's."""
        return self.name or self.factory or ""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is None or name in sources() or name == IMAGE_FOLDER:
            return name
        path = Path(name).expanduser()
        if is_texts(path):
            return str(path.absolute())
        # What looks like a path may be a folder that is yet to come; anything else is a name written wrongly.
        if not os.path.isdir(path) and not holds_shards(path) and path.name == name:
            raise ValueError(expected((*sources(), IMAGE_FOLDER), name, what="a folder or one of "))
        return str(path.absolute())

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = wrong_moments(self.mean, self.std)
        if self.factory is not None:
            given = [key for key in self.model_fields_set - _OF_FACTORIES if getattr(self, key) is not None]
            problems = [
                (key, "expected none beside `factory`, whose options say it, got one.") for key in sorted(given)
            ]
        elif self.name is None:
            problems.append(("name", "expected a value, got nothing."))
        elif self.options is not None:
            problems.append(("options", "expected none without `factory`, got some."))
        if self.resize is not None and self.stream is False:
            problems.append(("resize", f"expected none where `stream` is false, got {self.resize}."))
        if problems:
            raise Problems(problems)
        return self


class InputsConfig(Table):
    """How a model takes its samples, where that is not as the data is; what is not said its own configuration says.

    Keys of images are applied to the pixels of the data, augmented; keys of images and of texts exclude each other.

    Args:
        size: the height and width of the images that the model takes.
        mean: one number a channel, which is subtracted from images scaled to [0, 1]; with `std`.
        std: one number > 0 a channel, by which what is left is divided; with `mean`.
        interpolation: how images are brought to `size`.
        tokenizer: a folder or a tokenizer.json of the Hugging Face libraries, or a JSON file of words and their
            numbers.
        max_length: the number of tokens to which all texts are cut or padded.
    """

    size: Sides | None = None
    mean: Channels | None = None
    std: Channels | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    tokenizer: str | None = None
    max_length: Count | None = None

    _tokenizer = field_validator("tokenizer")(absolute)

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = wrong_moments(self.mean, self.std)
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            problems.append(("std", f"expected {len(self.mean)} numbers, as the mean has, got {len(self.std)}."))
        images = [key for key in ("size", "mean", "std", "interpolation") if getattr(self, key) is not None]
        texts = [key for key in ("tokenizer", "max_length") if getattr(self, key) is not None]
        if images and texts:
            problems.append((texts[0], f"expected none beside `{images[0]}`, which is of images, got one."))
        if problems:
            raise Problems(problems)
        return self


class ReusedClassifierConfig(Table):
    """`congruence.models.ReusedClassifier`: a student that predicts by its teacher's classifier, through a projector.

    Args:
        factor: the projector's hidden width is the teacher's channels divided by it.
        layer: the student's layer whose map [B, C, H, W] is projected; by default its last map.
        teacher_layer: the teacher's layer whose mean over positions its classifier reads; by default its last map.
    """

    factor: Count = 2
    layer: str | None = None
    teacher_layer: str | None = None


def _wrong_options(name: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (option, sentence) for what is wrong with the options of a model of the zoo.

    A plan asks for the same few models in all its rows: each is tried once.
    """
    items = tuple(sorted(options.items()))
    if all(type(value) in (bool, int, float, str) for _, value in items):
        return list(_tried(name, repr(items), items))
    return _tried.__wrapped__(name, "", items)


@functools.lru_cache(maxsize=256)
def _tried(name: str, _: str, options: tuple[tuple[str, Any], ...]) -> list[tuple[str, str]]:
    """Build a model of shapes alone: nothing is allocated or drawn. The text tells 1, 1.0 and True apart."""
    import torch

    with torch.device("meta"):
        return one_by_one(lambda **given: models.build(name, **{"classes": 2, **given}), dict(options))


class ModelConfig(Table):
    """A model: a name of the zoo, or a factory "package.module:callable" (which needs trust); and its weights' file.

    Or "KIND:REST" (see `congruence.models.named`): "onnx:FILE", "export:FILE" and "jit:FILE", which have their own
    weights (the last two can run code and need trust), "hf:FOLDER" of transformers, "st:FOLDER" of
    sentence-transformers and "timm:NAME" (with a tag, "timm:NAME.TAG", its weights), which may get others;
    "text:transformer" and "text:static" are small sentence encoders (see `load_text` for their options).

    Args:
        model: a name of the zoo, or "KIND:REST".
        factory: "package.module:callable" that returns the model; needs trust.
        weights: the file of its weights.
        start: the file of a network trained on other classes, with which it begins; Linear layers that do not fit are
            left out.
        start_stage: an earlier stage ("STAGE/NAME" of several students) with whose student's weights it begins.
        unchecked: take a teacher's weights from a run whatever images and classes that was trained on.
        options: keyword arguments of the zoo's model, or of `factory`.
        inputs: how the model takes the samples, where that is not as the data is.
        reused_classifier: makes a student predict by its teacher's classifier (the row `simkd`).
    """

    model: str | None = None
    factory: str | None = None
    weights: str | None = None
    start: str | None = None
    start_stage: str | None = None
    unchecked: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: InputsConfig | None = None
    reused_classifier: ReusedClassifierConfig | None = None

    _weights = field_validator("weights", "start")(absolute)

    @field_validator("model")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and named.split(name):
            return named.absolute(name)
        if name is not None and ":" in name:
            kinds = ", ".join(f"{kind}:" for kind in named.LOADERS)
            raise ValueError(
                f"expected a name of the zoo or one that begins with {kinds}; what makes a model is written "
                f"factory = {name!r}, not model."
            )
        if name is not None and name not in models.ZOO:
            raise ValueError(expected(models.ZOO, name))
        return name

    _importable = field_validator("factory")(importable)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.model is None) == (self.factory is None):
            got = "neither" if self.model is None else "both"
            raise ValueError(f"expected `model` (of the zoo) or `factory` ('package.module:callable'), got {got}.")
        begins = [key for key in ("weights", "start", "start_stage") if getattr(self, key) is not None]
        if len(begins) > 1:
            raise Problems([(begins[1], f"expected none beside `{begins[0]}`, got both.")])
        parts = named.split(self.model or "")
        if parts is not None and parts[0] in named.OF_FILES:
            if begins or self.options:
                said = f"expected none beside {self.model!r}, whose file says it."
                raise Problems([(key, said) for key in (*begins, *(["options"] if self.options else []))])
        elif parts is not None and self.options and parts[0] not in named.TAKE_OPTIONS:
            raise Problems([("options", f"expected none beside {self.model!r}, whose folder says it.")])
        elif parts is not None and parts[0] == "text":
            check_options(parts[1], self.options)
        elif parts is None and self.model is not None:
            wrong = _wrong_options(self.model, self.options)
            if wrong:
                raise Problems([(f"options.{key}" if key else "options", text) for key, text in wrong])
        return self


class HeadConfig(Table):
    """An embedding or a classifier of one layer of a given teacher, fitted before the student is trained.

    Terms read the embedding as the teacher's layer "embed". A classifier of the data's classes makes the teacher's
    output: a network of other classes, or of none, then has soft labels (`congruence.models.fit_classifier`).

    Args:
        width: outputs of the embedding; a classifier has the data's classes.
        layer: the teacher's layer that it reads; by default what enters its last Linear.
        kind: which of the two.
    """

    width: Count | None = None
    layer: str | None = None
    kind: Literal["embedding", "classifier"] = "embedding"

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.kind == "embedding" and self.width is None:
            raise Problems([("width", "expected the outputs of the embedding, got none.")])
        if self.kind == "classifier" and self.width is not None:
            raise Problems(
                [("width", f"expected none of a classifier, which has the data's classes, got {self.width}.")]
            )
        return self


class CacheConfig(Table):
    """`congruence.TeacherCache`: the teacher looks at each training image `views` times and is read from files then.

    Args:
        views: augmented views of each training image that are stored.
        dtype: the type of the stored numbers; "int8" has a scale for each sample's row.
        folder: where the files are; "teacher-cache" in the stage's own folder by default.
        seed: of the augmentation, by default the training's: runs of several seeds that name the same one can share a
            folder.
    """

    views: Count = 8
    dtype: Literal["float16", "float32", "int8"] = "float16"
    folder: str | None = None
    seed: Whole | None = None

    _folder = field_validator("folder")(absolute)


class TermConfig(BaseModel):
    """A `congruence.Term`; every key that is not its own is a hyper-parameter of the method.

    Args:
        key: of a method of the catalogue (`congruence methods` lists them).
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    key: str
    weight: float | dict[str, float] | Literal["balanced"] | None = None
    share: float | None = None
    name: str | None = None
    student_layer: str | list[str] | dict[str, Any] | None = None
    teacher_layer: str | list[str] | dict[str, Any] | None = None
    student: str | None = None
    teacher: str | None = None
    layout: str | dict[str, Any] | None = None
    mask: str | int | bool | dict[str, Any] | None = None
    pool: str | dict[str, Any] | None = None
    standardize: bool = False
    regions: bool = False
    uncertainty: float | None = None
    dims: list[int] | None = None
    start_epoch: int = 0
    stop_epoch: int | None = None
    warmup_epochs: float = 0.0
    decay: float = 1.0
    cosine_from: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, values: Any) -> Any:
        """Check all of it with the Term itself; a weight or a share left out becomes the method's own."""
        if not isinstance(values, dict) or not isinstance(values.get("key"), str):
            return values
        try:
            row = methods.row(values["key"])
        except ValueError:
            raise Problems([("key", expected(methods.keys(), values["key"]))]) from None
        rest = {name: value for name, value in values.items() if name != "key"}
        allowed = [name for name in cls.model_fields if name != "key"] + list(row.defaults())
        problems = [(name, expected(allowed, name)) for name in rest if name not in allowed]
        problems += one_by_one(
            lambda **given: methods.Term(row.key, **given), {k: v for k, v in rest.items() if k in allowed}
        )
        if problems:
            raise Problems(problems)
        published = row.weight if isinstance(row.weight, int | float) else dict(row.weight)
        weight = values.get("weight", published)
        if weight == "balanced":
            return {"share": row.share, **values}
        return {**values, "weight": published if weight == "published" else current_parts(row, weight)}

    def term(self) -> methods.Term:
        """Return the term."""
        values = self.model_dump()
        return methods.Term(values.pop("key"), **values)

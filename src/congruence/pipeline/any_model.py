"""A trained model by one word: a name of the zoo, a factory, a run's folder, another library's folder, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from congruence import data, models
from congruence.config.problems import explain
from congruence.config.references import StudentRef
from congruence.config.tables import InputsConfig, ModelConfig
from congruence.core import check, rng
from congruence.core.inputs import TEACHER
from congruence.data.datasets.model_facts import remembered
from congruence.models import named
from congruence.models.evaluating import set_mode
from congruence.pipeline.build import channels_of, trained_model
from congruence.pipeline.context import RunContext
from congruence.pipeline.features import with_kept_head
from congruence.pipeline.models import rebuild
from congruence.pipeline.run_config import configured
from congruence.pipeline.student import load_student
from congruence.pipeline.taken import Taker, as_taken
from congruence.training.saving.run_directory import RunDirectory

_PROGRAMS = {".onnx": "onnx", ".pt2": "export"}
_OTHERS = {"config.json": "hf", "modules.json": "st"}
_KINDS = "package.module:callable, a run's folder, hf:FOLDER, st:FOLDER, timm:NAME, onnx:FILE, export:FILE or jit:FILE"


def any_model(
    word: str,
    splits: data.Splits,
    *,
    who: str,
    weights: str | Path | None = None,
    last: bool = False,
    trust: bool = False,
) -> Taker:
    """Return the model that a word names, with its weights, and how it takes its inputs.

    Args:
        word: a name of the zoo ("resnet20"); "package.module:callable", which makes the model; a run's folder, whose
            student it is (of several, "FOLDER@NAME"); "hf:FOLDER", "st:FOLDER" or "timm:NAME" of other libraries; or a
            file of a whole model: "onnx:FILE", "export:FILE" and "jit:FILE", for short a path that ends in .onnx or
            .pt2.
        splits: the data: a model of the zoo gets its classes and channels, and a run's student takes images with the
            mean and deviation of its training.
        who: what messages call the model: "the teacher".
        weights: a file of weights, for words that name a model without weights.
        last: take the weights of a run's last epoch, not of its best one.
        trust: whether factories, and files that can run code, may be used.

    Returns:
        Taker: the model in evaluation mode, and the table of its inputs if its run or its weights have one. A model
            without weights keeps its initial weights, which are always the same.

    Raises:
        ValueError: for a word that names nothing, or weights that are absent or do not fit.

    Example:
        >>> type(any_model("cnn3", data.load("digits"), who="the student").model).__name__
        'Cnn3'
    """
    run = run_of(word)
    if run is not None:
        if weights is not None:
            raise ValueError(f"{_begin(who)} is the run in '{run[0]}', which has its weights: leave out '{weights}'.")
        return _of_run(*run, splits, who=who, last=last, trust=trust)
    config = _config_of(word, weights, who)
    zoo = config.model is not None and not named.split(config.model)
    if zoo and weights is None and splits.train.classes is None:
        raise ValueError(f"{_begin(who)} '{word}' needs weights: the data has no classes that would say its outputs.")
    return _built(config, splits, trust=trust)


def _built(config: ModelConfig, splits: data.Splits, *, trust: bool) -> Taker:
    with rng.untouched():
        rng.seed_everything(0)  # what a factory draws, or a network without weights, is the same in every call
        model = trained_model(
            config, None, RunContext(trust=trust), classes=splits.train.classes, in_channels=channels_of(splits)
        )
    set_mode(model, training=False)
    return Taker(model, config.inputs or _as_trained(model, splits), config.model)


def teacher_of(word: str, splits: data.Splits, *, trust: bool = False) -> Taker:
    """Return the teacher that the student of a run's folder learned from, as `any_model` does.

    Raises:
        ValueError: in one sentence for a word that is no run, a run without a teacher or with several, or a teacher
            that cannot be built again.
    """
    run = run_of(word)
    _, stage = configured(RunDirectory(run[0])) if run else (None, None)
    given = list(stage.teachers().values()) if stage else []
    if run is None or len(given) != 1:
        found = "is no run's folder" if run is None else "has several teachers" if given else "names no teacher"
        raise ValueError(f"Give --teacher: the student '{word}' {found}, which would say what it learned from.")
    (config,) = given
    if isinstance(config, str):
        reference = StudentRef.parse(config)
        taker = any_model(f"{run[0] / reference.stage}@{reference.student}", splits, who="the teacher", trust=trust)
    else:
        taker = _built(config, splits, trust=trust)
    heads = list(stage.heads().values()) if stage else []
    if not heads:
        return taker
    taken = as_taken(splits, {}, {TEACHER: taker}, told=False)
    return taker._replace(model=with_kept_head(taker.model, heads[0], taken.train, RunDirectory(run[0])))


def data_of(word: str) -> dict[str, Any]:
    """Return the table [data] of a run's configuration, by the word that names its student.

    Raises:
        ValueError: in one sentence for a word that is no run with a configuration.
    """
    run = run_of(word)
    config, _ = configured(RunDirectory(run[0])) if run else (None, None)
    if config is None:
        raise ValueError(f"Give --data: the student '{word}' is no run's folder, which would say its data.")
    return config.data.model_dump(exclude_none=True)


def is_untrained(word: str) -> bool:
    """Whether a word names an architecture alone, whose weights are drawn unless a file of them is given.

    Example:
        >>> [is_untrained(word) for word in ("resnet20", "timm:resnet18", "timm:resnet18.a1_in1k", "teacher.onnx")]
        [True, True, False, False]
    """
    return word in models.ZOO or named.is_drawn(word)


def _begin(who: str) -> str:
    return who[0].upper() + who[1:]


def _config_of(word: str, weights: str | Path | None, who: str) -> ModelConfig:
    """Return the table of a model that is no run's."""
    path = Path(word).expanduser()
    if named.split(word):
        values: dict[str, Any] = {"model": word}
    elif path.suffix in _PROGRAMS:
        values = {"model": f"{_PROGRAMS[path.suffix]}:{word}"}
    elif path.is_file():
        raise ValueError(
            f"{_begin(who)} '{word}' is a file: a TorchScript program is given as jit:{word}, and weights beside the "
            "name of their architecture (--teacher-weights FILE, --student NAME=resnet20 --student-weights NAME=FILE)."
        )
    elif ":" in word:
        values = {"factory": word}
    elif word in models.ZOO:
        values = {"model": word}
    elif path.name != word:
        raise ValueError(f"{_begin(who)}: there is no file and no folder '{word}'.")
    else:
        raise ValueError(
            f"{_begin(who)} must be a model of the zoo ({', '.join(models.ZOO)}), {_KINDS}, got '{word}'."
            f"{check.near(word, models.ZOO)}"
        )
    if weights is not None:
        values["weights"] = str(weights)
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        key, sentence = explain(dict(error.errors()[0]), lambda _: ())[0]
        what = f", {key}" if key in ("weights", "options") else ""
        raise ValueError(f"{_begin(who)} '{word}'{what}: {sentence}") from None


# A run's student


def run_of(word: str) -> tuple[Path, str | None] | None:
    """Return the folder and the student's name of "FOLDER" or "FOLDER@NAME"; None of another word."""
    if named.split(word):
        return None
    folder, at, name = word.rpartition("@")
    for path, student in ((Path(word).expanduser(), None), (Path(folder or "@").expanduser(), name)):
        if path.is_dir() and (student is None or at) and (student is not None or word not in models.ZOO):
            return path, student
    return None


def _of_run(path: Path, name: str | None, splits: data.Splits, *, who: str, last: bool, trust: bool) -> Taker:
    directory = RunDirectory(path)
    files = directory.student_files(last=last)
    if not files:
        kind = next((kind for file, kind in _OTHERS.items() if (path / file).is_file()), None)
        expected = directory.student_file(last=last).name
        hint = f": a folder of another library is given as {kind}:{path}" if kind else f" (no {expected})"
        raise ValueError(f"{_begin(who)}: the folder '{path}' holds no run with a student{hint}.")
    if name is None and len(files) > 1:
        raise ValueError(f"{_begin(who)}: the run in '{path}' has the students {', '.join(files)}: say {path}@NAME.")
    name = name or next(iter(files))
    if name not in files:
        near = check.near(name, files)
        raise ValueError(f"{_begin(who)}: the run in '{path}' has no student '{name}', only {', '.join(files)}.{near}")
    with rng.untouched():
        rng.seed_everything(0)
        model = load_student(path, _made_by_factory(directory, name, trust=trust), name=name, last=last)
    table = _table_of(directory, name)
    return Taker(model, _as_trained(model, splits) if table is None else table)


def _made_by_factory(directory: RunDirectory, name: str, *, trust: bool) -> Any:
    """Return what makes a student that a factory has made; None of another, which the run itself describes."""
    described = directory.described(name)
    if not described or not described.get("factory"):
        return None
    made = rebuild(described, trust=trust)
    return lambda: made


def _table_of(directory: RunDirectory, name: str) -> InputsConfig | None:
    """Return what a run's configuration says of how its student takes the data."""
    _, stage = configured(directory)
    students = {} if stage is None else stage.students()
    return students[name].inputs if name in students else None


def _as_trained(model: nn.Module, splits: data.Splits) -> InputsConfig | None:
    """Return the mean and deviation that a model's file says, where images are else prepared as for its training.

    Of other samples of the same images the data's own differ a little: another part of them was trained on.
    """
    known, train = remembered(model), splits.train
    if known is None or not isinstance(train, data.ImageDataset) or models.input_of(model) is not None:
        return None
    facts = known[0]
    same_size = facts.shape == train.shape and facts.resize == getattr(train, "resize", None)
    if facts.mean is None or facts.std is None or not same_size:
        return None  # what differs is refused where the model reads the data, in its own sentence
    differs = (facts.mean, facts.std) != (tuple(train.mean), tuple(train.std))
    return InputsConfig(mean=facts.mean, std=facts.std) if differs else None

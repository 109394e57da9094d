"""From a configuration to what `fit` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from congruence import data
from congruence.core.rng import seed_everything
from congruence.distiller import Distiller
from congruence.models.weights import load_weights
from congruence.pipeline.diagnose import make_diagnostics
from congruence.pipeline.features import make_sampler, with_head
from congruence.pipeline.models import build_model, describe_model
from congruence.teacher_cache import TeacherCache
from congruence.training import FitOptions
from congruence.training.distributed import join_process_group, pick_device
from congruence.training.options import Callback
from congruence.training.setup import rehearse_run

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig
    from congruence.config.tables import CacheConfig, DataConfig, ModelConfig


@dataclass(frozen=True)
class Models:
    """The models of a stage; `described` says how to build each student again."""

    students: dict[str, nn.Module]
    teacher: nn.Module | None
    described: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Built:
    """What `fit` takes for one stage, and what it was made of; `splits` has all labels, however few are trained on."""

    distiller: Distiller
    train_loader: data.Loader
    val_loader: data.Loader | None
    options: FitOptions
    splits: data.Splits
    models: Models


def load_splits(config: DataConfig) -> data.Splits:
    """Load the data of a configuration, with all its labels."""
    values = config.model_dump(exclude={"name", "labels_per_class"})
    return data.load(config.name, **values)


def build_models(
    config: RunConfig, stage_name: str, *, teachers: Mapping[str, Path], splits: data.Splits, trust: bool = False
) -> Models:
    """Build the models of one stage; the students depend on the stage's seed alone (see `build_stage`)."""
    stage = config.stages[stage_name]
    channels, classes = splits.train.shape[0], splits.train.classes
    teacher = _teacher(config, stage.teacher, teachers, classes=classes, in_channels=channels, trust=trust)
    if classes is None and teacher is not None:
        classes = _outputs(teacher, _example(splits))
    seed_everything(stage.train.seed)
    students, described = {}, {}
    for name, model in stage.students().items():
        students[name] = build_model(model, classes=classes, in_channels=channels, trust=trust)
        described[name] = describe_model(model, classes=classes, in_channels=channels, trust=trust)
    return Models(students, teacher, described)


def build_stage(
    config: RunConfig,
    stage_name: str,
    *,
    teachers: Mapping[str, Path],
    splits: data.Splits | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    trust: bool = False,
    callbacks: Sequence[Callback] = (),
    dry: bool = False,
) -> Built:
    """Build one stage; nothing is trained.

    Args:
        config: of the run.
        stage_name: which stage.
        teachers: the weights of earlier stages' students, by stage ("STAGE/NAME" of several). A stage that is not there
            gives a teacher with fresh weights, which is enough to find out whether everything fits.
        splits: the data, where it is loaded already.
        out: the stage's directory.
        resume: as in `FitOptions`.
        trust: whether factories may be imported.
        callbacks: as in `FitOptions`.
        dry: only find out whether everything fits, for `fit` too: what takes a pass over the data is left out
            (superclasses of the teacher's features, the fit of its head).

    Raises:
        ValueError: for whatever does not fit, in one sentence.
    """
    stage = config.stages[stage_name]
    train = stage.train
    device = pick_device(train.device)
    join_process_group(device)
    splits = load_splits(config.data) if splits is None else splits
    made = build_models(config, stage_name, teachers=teachers, splits=splits, trust=trust)
    trained = splits.train
    kept = stage.labels_per_class or config.data.labels_per_class
    if kept is not None:
        trained = data.keep_labels(trained, kept, seed=config.data.split_seed)
    once: dict[str, Any] = {"device": device, "folder": None if out is None else Path(out), "dry": dry}
    if made.teacher is not None and stage.teacher_head is not None:
        head = with_head(made.teacher, stage.teacher_head, trained, seed=train.seed, workers=train.workers, **once)
        made = replace(made, teacher=head)
    terms = [term.term() for term in stage.terms]
    views = tuple(dict.fromkeys(["main", *(view for term in terms for view in term.needs.views)]))
    cache = stage.teacher_cache
    train_loader = data.loader(
        trained,
        batch_size=train.batch_size,
        seed=train.seed,
        drop_last=train.drop_last,
        augment=train.augmentation(),
        views=views,
        workers=train.workers,
        sampler=make_sampler(train, trained, made.teacher, **once),
        device=device,
        view_cycle=cache.views if cache else None,
        view_seed=cache.seed if cache else None,
    )
    teacher: nn.Module | TeacherCache | None = made.teacher
    if cache and made.teacher and not dry:
        teacher = TeacherCache(made.teacher, train_loader, _cache_folder(cache, out), dtype=cache.dtype)
    distiller = Distiller(teacher, made.students, terms, example=_example(splits), facts=data.facts(trained))
    readers = [name for name, needs in distiller.needs().items() if needs.labels]
    if readers and trained.labels is None:
        raise ValueError(f"The term '{readers[0]}' needs labels, the data '{config.data.name}' has none.")
    val_loader = None
    if len(splits.validation):
        # Batches of the training's size, since a relational loss depends on it.
        val_loader = data.loader(
            splits.validation,
            batch_size=train.batch_size,
            shuffle=False,
            views=views,
            device=device,
            workers=train.workers,
        )
    taught = made.teacher is not None
    diagnose = make_diagnostics(config.diagnostics, stage_name, splits, teacher=taught, device=device, dry=dry)
    options = train.options(out=out, resume=resume, callbacks=tuple(callbacks), diagnose=diagnose)
    if dry:
        rehearse_run(distiller, train_loader, val_loader, options, device)
    return Built(distiller, train_loader, val_loader, options, splits, made)


def rehearse(config: RunConfig, splits: data.Splits, *, trust: bool = False) -> None:
    """Build every stage without training, to find out whether all of them fit."""
    for name in config.stages:
        build_stage(config, name, teachers={}, splits=splits, trust=trust, dry=True)


def _cache_folder(cache: CacheConfig, out: str | Path | None) -> Path:
    if cache.folder is not None:
        return Path(cache.folder)
    if out is None:
        raise ValueError("The teacher's cache needs a folder: say teacher_cache.folder, or give the stage its own.")
    return Path(out) / "teacher-cache"


def _example(splits: data.Splits) -> Tensor:
    return splits.train.batch(range(min(2, len(splits.train))))


def _teacher(
    config: RunConfig,
    teacher: str | ModelConfig | None,
    teachers: Mapping[str, Path],
    *,
    classes: int | None,
    in_channels: int,
    trust: bool,
) -> nn.Module | None:
    """Build the teacher: a model of its own, or an earlier stage's student with its weights."""
    if teacher is None:
        return None
    weights: str | Path | None = None
    if isinstance(teacher, str):
        stage, _, student = teacher.partition("/")
        weights = teachers.get(teacher)
        teacher = config.stages[stage].students()[student or "student"]
    source = weights or teacher.weights
    if teacher.model is not None and source is not None:
        # A trained teacher has the classes it was trained on, whatever those of the data are.
        head = load_weights(source).get("fc.weight")
        classes = classes if head is None else head.shape[0]
    return build_model(teacher, classes=classes, in_channels=in_channels, weights=source, trust=trust)


@torch.no_grad()
def _outputs(teacher: nn.Module, example: Tensor) -> int | None:
    """Return how many classes a teacher tells apart: the students of unlabelled data get as many."""
    output = teacher.eval()(example)
    return output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None

"""From one stage of a configuration to the arguments of `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from congruence import data
from congruence.config.references import StudentRef
from congruence.core import rng
from congruence.core.devices import private
from congruence.core.inputs import TEACHER, Inputs, inputs_of
from congruence.core.rng import seed_everything
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.model_facts import remember
from congruence.distiller import Distiller
from congruence.models import named
from congruence.models.evaluating import set_mode
from congruence.models.forward import call
from congruence.models.reused import ReusedClassifier
from congruence.models.untaught import mark_parts
from congruence.models.weights import load_into, load_weights
from congruence.pipeline.context import RunContext
from congruence.pipeline.diagnose import make_diagnostics
from congruence.pipeline.features import make_sampler, with_head
from congruence.pipeline.measured_by import protocol_of
from congruence.pipeline.models import build_model, describe_model
from congruence.pipeline.taken import Taker, as_taken
from congruence.pipeline.text_students import with_tokenizer
from congruence.teacher_cache import TeacherCache
from congruence.training import FitOptions
from congruence.training.distributed import join_process_group, pick_device
from congruence.training.modes import settled
from congruence.training.saving.run_directory import facts_of, untaught_of
from congruence.training.setup import rehearse_run

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig, StageConfig
    from congruence.config.tables import CacheConfig, ModelConfig

_TEACHER_SEED = 1_000_003  # added to a stage's: a seed for what its teacher's factory draws


@dataclass(frozen=True)
class Models:
    """The models of a stage; `described` says how to rebuild each student, `splits` is the data prepared for them."""

    students: dict[str, nn.Module]
    teachers: dict[str, nn.Module]
    described: dict[str, dict[str, Any]]
    splits: data.Splits

    @property
    def teacher(self) -> nn.Module | None:
        """The only teacher; None if there is none, or several."""
        return self.teachers.get(TEACHER)


@dataclass(frozen=True)
class Built:
    """The arguments of `fit` for one stage, and their sources; `splits` has all labels, even if few are trained on."""

    distiller: Distiller
    train_loader: data.Loader
    val_loader: data.Loader | None
    options: FitOptions
    splits: data.Splits
    models: Models


def build_stage(config: RunConfig, stage_name: str, context: RunContext) -> Built:
    """Build one stage without training.


    Args:
        config: the run's configuration.
        stage_name: the stage's name.
        context: the context that the run's stages share.

    Raises:
        ValueError: for anything that does not fit.
    """
    stage = config.stages[stage_name]
    device = pick_device(stage.train.device)
    join_process_group(device)
    context = context.with_splits(config.data)
    models = build_models(config, stage_name, context)
    splits = models.splits
    trained = _labelled(config, stage, splits)
    for name, head in stage.heads().items():
        headed = with_head(models.teachers[name], head, trained, stage.train, context, name=name, device=device)
        models = replace(models, teachers={**models.teachers, name: headed})
    terms = [term.term() for term in stage.terms]
    views = tuple(dict.fromkeys(["main", *(view for term in terms for view in term.needs.views)]))
    sampler = make_sampler(stage.train, trained, models.teacher, context, device=device)
    train_loader = _train_loader(stage, trained, views, sampler, device)
    distiller = Distiller(
        _asked(stage, models.teachers, train_loader, context),
        models.students,
        terms,
        example=splits.train.example(),
        facts=data.facts(trained),
    )
    readers = [name for name, needs in distiller.needs().items() if needs.labels]
    if readers and trained.labels is None:
        raise ValueError(f"The term '{readers[0]}' needs labels, the data '{config.data.called}' has none.")
    val_loader = _val_loader(stage, splits, views, device)
    diagnose = make_diagnostics(
        config.diagnostics,
        stage_name,
        splits,
        teacher=bool(models.teachers),
        views=views,
        device=device,
        dry=context.dry,
    )
    options = stage.train.options(
        out=context.out, resume=context.resume, callbacks=context.callbacks, diagnose=diagnose
    )
    return Built(distiller, train_loader, val_loader, options, splits, models)


def rehearse(config: RunConfig, context: RunContext) -> RunConfig:
    """Build every stage without training, to check that all of them fit.


    Returns:
        The configuration with "auto" replaced by the choices made here, which a resumed run must keep on any machine.
    """
    dry = replace(context, teachers={}, out=None, resume=False, callbacks=(), dry=True).with_splits(config.data)
    protocol_of(config, dry.loaded(config.data))  # which says what does not fit
    return config.with_training({name: rehearsed(build_stage(config, name, dry)) for name in config.stages})


def rehearsed(built: Built) -> dict[str, Any]:
    """Find out whether `fit` would refuse a stage; return what "auto" stands for in its training table."""
    device = pick_device(built.options.device)
    rehearse_run(built.distiller, built.train_loader, built.val_loader, built.options, device)
    return {"channels_last": settled(built.options, built.distiller, device).channels_last}


# The models


def build_models(config: RunConfig, stage_name: str, context: RunContext) -> Models:
    """Build the models of one stage; they depend on the stage's seed alone."""
    stage, splits, trust = config.stages[stage_name], context.loaded(config.data), context.trust
    channels, classes = channels_of(splits), splits.train.classes
    teachers = _teachers(config, stage, context, classes=classes, in_channels=channels)
    if classes is None and teachers and _teaches_logits(stage):
        first = next(iter(teachers))
        example = as_teachers_take(config, stage_name, splits, teachers).train.example()
        classes = _outputs(teachers[first], inputs_of(example, first, TEACHER))
    seed_everything(stage.train.seed)
    students, described = {}, {}
    for name, model in stage.students().items():
        model = with_tokenizer(model, splits)
        students[name] = build_model(model, classes=classes, in_channels=channels, trust=trust)
        if model.start_stage is not None:
            _begin_as(students[name], model.start_stage, config, context, classes=classes, in_channels=channels)
        described[name] = describe_model(model, classes=classes, in_channels=channels, trust=trust)
    takers = {name: Taker.of(students[name], model) for name, model in stage.students().items()}
    taken = as_taken(splits, takers, _takers(config, stage, teachers), told=not context.dry)
    for name, model in stage.students().items():
        if model.reused_classifier is not None:
            example = taken.train.example()
            example = Inputs(teacher=inputs_of(example, TEACHER, TEACHER), student=inputs_of(example, name))
            options = model.reused_classifier.model_dump()
            reused = ReusedClassifier.of(students[name], teachers[TEACHER], example=example, **options)
            students[name], described[name]["reused_classifier"] = reused, reused.described
    return Models(students, teachers, described, taken)


def as_teachers_take(
    config: RunConfig, stage_name: str, splits: data.Splits, teachers: Mapping[str, nn.Module]
) -> data.Splits:
    """Return the data as the teachers of a stage take it, where no student is at hand."""
    return as_taken(splits, {}, _takers(config, config.stages[stage_name], teachers), told=False)


def _takers(config: RunConfig, stage: StageConfig, teachers: Mapping[str, nn.Module]) -> dict[str, Taker]:
    return {name: Taker.of(teachers[name], model) for name, model in config.teachers_of(stage).items()}


def _begin_as(
    student: nn.Module,
    stage: str,
    config: RunConfig,
    context: RunContext,
    *,
    classes: int | None,
    in_channels: int | None,
) -> None:
    """Give a student an earlier stage's weights; before that has trained, drawn ones, to see that they fit."""
    reference = StudentRef.parse(stage)
    file = context.teachers.get(reference)
    if file is not None:
        load_into(student, load_weights(file), source=f"the stage '{stage}'")
        return
    earlier = with_tokenizer(config.stages[reference.stage].students()[reference.student], context.loaded(config.data))
    with rng.untouched():
        drawn = build_model(earlier, classes=classes, in_channels=in_channels, trust=context.trust)
    load_into(student, drawn.state_dict(), source=f"the stage '{stage}'")


def build_teacher(config: RunConfig, stage_name: str, context: RunContext) -> nn.Module | None:
    """Build the only teacher of one stage, as `build_models` does."""
    splits = context.loaded(config.data)
    classes, channels = splits.train.classes, channels_of(splits)
    return _teachers(config, config.stages[stage_name], context, classes=classes, in_channels=channels).get(TEACHER)


def _teachers(
    config: RunConfig, stage: StageConfig, context: RunContext, *, classes: int | None, in_channels: int | None
) -> dict[str, nn.Module]:
    """Build the teachers, each a model of its own or an earlier stage's student with its weights."""
    teachers = {}
    for position, (name, model) in enumerate(config.teachers_of(stage).items()):
        model = with_tokenizer(model, context.loaded(config.data))
        # Not of the student's seed, which would make equal networks equal; nor of each other's.
        seed_everything(stage.train.seed + _TEACHER_SEED + position)
        said = stage.teachers()[name]
        trained = context.teachers.get(StudentRef.parse(said)) if isinstance(said, str) else None
        teachers[name] = trained_model(model, trained, context, classes=classes, in_channels=in_channels)
    return teachers


def trained_model(
    model: ModelConfig, trained: Path | None, context: RunContext, *, classes: int | None, in_channels: int | None
) -> nn.Module:
    """Build a model that is not trained any more, which knows what its file says of its training data.

    Args:
        model: its table.
        trained: an earlier stage's weights, where it is its student.
        context: says whether factories may be imported.
        classes: of the data; a model of the zoo has as many as its weights.
        in_channels: of the data, None if these are texts.
    """
    weights: str | Path | None = trained or model.weights
    if model.model is not None and weights is not None and not named.split(model.model):
        # A trained teacher has the classes it was trained on, whatever those of the data are.
        head = load_weights(weights).get("fc.weight")
        classes = classes if head is None else head.shape[0]
    teacher = build_model(model, classes=classes, in_channels=in_channels, weights=weights, trust=context.trust)
    facts = None if weights is None or model.unchecked else facts_of(weights)
    if facts is not None:
        remember(teacher, facts, weights)
    if weights is not None:
        mark_parts(teacher, untaught_of(weights))
    return teacher


def _teaches_logits(stage: StageConfig) -> bool:
    """Whether a term moves the student's logits towards the teacher's: else nobody would train a head like its."""
    return any(term.needs.teacher and "logits" in term.needs.roles for term in (each.term() for each in stage.terms))


@torch.no_grad()
def _outputs(teacher: nn.Module, example: Any) -> int | None:
    """Return how many classes a teacher tells apart: the students of unlabelled data get as many."""
    set_mode(teacher, training=False)
    output = call(teacher, private(example))
    if isinstance(output, Mapping):  # as a file gives that has its embedding as an output, too
        output = output.get("logits")
    return output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None


def _asked(
    stage: StageConfig, teachers: Mapping[str, nn.Module], train_loader: data.Loader, context: RunContext
) -> dict[str, nn.Module | TeacherCache] | None:
    """Return what the distiller asks: the teachers, or their stored answers."""
    cache = stage.teacher_cache
    if not teachers:
        return None
    if cache is None or context.dry:
        return dict(teachers)
    folders = cache_folders(stage, cache, context)
    return {name: TeacherCache(each, train_loader, folders[name], dtype=cache.dtype) for name, each in teachers.items()}


def cache_folders(stage: StageConfig, cache: CacheConfig, context: RunContext) -> dict[str, Path]:
    """Return the folder of each teacher's cache, by the teacher's name."""
    folder = _cache_folder(cache, context)
    return {name: folder if name == TEACHER else folder / name for name in stage.teachers()}


def _cache_folder(cache: CacheConfig, context: RunContext) -> Path:
    if cache.folder is not None:
        return Path(cache.folder)
    if context.directory is None:
        raise ValueError("The teacher's cache needs a folder: say teacher_cache.folder, or give the stage its own.")
    return context.directory.teacher_cache


# The data


def _labelled(config: RunConfig, stage: StageConfig, splits: data.Splits) -> BatchDataset:
    """Return the training samples with the labels that the stage may see."""
    per_class = stage.labels_per_class or config.data.labels_per_class
    if per_class is None:
        return splits.train
    return data.keep_labels(splits.train, per_class, seed=config.data.split_seed)


def _train_loader(
    stage: StageConfig,
    trained: BatchDataset,
    views: Sequence[str],
    sampler: data.Sampler | None,
    device: torch.device,
) -> data.Loader:
    train, cache = stage.train, stage.teacher_cache
    return data.loader(
        trained,
        batch_size=train.batch_size,
        seed=train.seed,
        drop_last=train.drop_last,
        augment=train.augmentation(),
        views=views,
        workers=train.workers,
        sampler=sampler,
        device=device,
        view_cycle=cache.views if cache else None,
        view_seed=cache.seed if cache else None,
    )


def _val_loader(
    stage: StageConfig, splits: data.Splits, views: Sequence[str], device: torch.device
) -> data.Loader | None:
    if not len(splits.validation):
        return None
    return data.loader(
        splits.validation,
        batch_size=stage.train.batch_size,  # the training's, since a relational loss depends on it
        shuffle=False,
        views=views,
        device=device,
        workers=stage.train.workers,
    )


def channels_of(splits: data.Splits) -> int | None:
    """Return how many channels the images have; None of texts, and of items that are none."""
    if isinstance(splits.train, data.ItemDataset):
        example = splits.train.example()
        return example.shape[1] if isinstance(example, Tensor) and example.dim() == 4 else None
    return splits.train.shape[0] if isinstance(splits.train, data.ImageDataset) else None

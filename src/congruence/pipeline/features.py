"""What a stage takes from its teacher's features before training, once: superclasses for batches, an embedding head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from congruence import data
from congruence.core import check, ranks, rng
from congruence.core.devices import to_device
from congruence.core.inputs import TEACHER, inputs_of
from congruence.data.datasets.batched import BatchDataset
from congruence.data.loading.source import BatchSource
from congruence.evaluation.embed import embed
from congruence.evaluation.measure import has_labels
from congruence.models import Head, WithClassifier, WithHead, fit_classifier, fit_head
from congruence.models.fingerprint import model_fingerprint
from congruence.models.weights import load_into, load_weights, save_weights
from congruence.pipeline.context import RunContext
from congruence.training.saving.run_directory import RunDirectory

if TYPE_CHECKING:
    from congruence.config.tables import HeadConfig
    from congruence.config.training import TrainConfig

_BATCH = 256


def make_sampler(
    train: TrainConfig,
    dataset: BatchDataset,
    teacher: nn.Module | None,
    context: RunContext,
    *,
    device: torch.device,
) -> data.Sampler | None:
    """Return the sampler that a stage asks for, None for the loader's own.

    Args:
        train: the stage's training.
        dataset: the training data.
        teacher: whose features are clustered.
        context: its directory keeps the superclasses, so that a resumed run has the same whatever the device; a dry
            one checks only what needs no pass over the data.
        device: on which the teacher runs.

    Raises:
        ValueError: for data without labels, or a batch that the classes cannot fill.
    """
    asked = train.sampler
    if asked is None:
        return None
    if asked.name == "class_uniform":
        if dataset.labels is None:
            raise ValueError(f"The sampler '{asked.name}' needs labels, the data '{dataset.name}' has none.")
        return data.ClassUniformSampler(dataset.labels, batch_size=train.batch_size, k=asked.k, seed=train.seed)
    if teacher is None:
        raise ValueError(f"The sampler '{asked.name}' needs a teacher, whose features it clusters.")
    given, size = teacher, len(dataset)
    if size < train.batch_size // asked.k:
        check.fail("make_sampler", "dataset", "one of at least as many samples as there are superclasses", size)
    if context.dry:
        return None

    def compute() -> dict[str, Tensor]:
        made = data.SuperclassUniformSampler(
            _features(given, dataset, None, device, train.workers),
            batch_size=train.batch_size,
            clusters=asked.clusters,
            k=asked.k,
            seed=train.seed,
        )
        return {"superclasses": made.superclasses}

    identity = f"{model_fingerprint(given).content} {size} {asked.clusters} {asked.k} {train.batch_size} {train.seed}"
    path = context.directory.superclasses if context.directory else None
    numbers = _once(compute, {"superclasses": torch.zeros(size, dtype=torch.int64)}, path, identity, device)
    return data.ClassUniformSampler(numbers["superclasses"], batch_size=train.batch_size, k=asked.k, seed=train.seed)


def with_head(
    teacher: nn.Module,
    config: HeadConfig,
    dataset: BatchDataset,
    train: TrainConfig,
    context: RunContext,
    *,
    name: str = TEACHER,
    device: torch.device,
) -> WithHead | WithClassifier:
    """Return the teacher with a head that is fitted on its features and frozen.

    An embedding is its layer "embed", beside its own output: the labels that the stage trains on are used where there
    are any, else principal components. A classifier of the data's classes gives its output.

    Args:
        teacher: given.
        config: of the head.
        dataset: the training data.
        train: its seed is the head's, its workers read images in files.
        context: its directory keeps the head; a dry one checks only what needs no pass over the data, and the head is
            not fitted.
        name: of the teacher, among several.
        device: on which the teacher runs.

    Raises:
        ValueError: for a layer that is not there, a width that principal components cannot have, or a classifier
            without labels.
    """
    made = _empty(teacher, config, dataset, name)

    def compute() -> dict[str, Tensor]:
        features = _features(teacher, dataset, config.layer, device, train.workers, name)
        return dict(_fitted(features, dataset, config, train.seed).state_dict())

    if not context.dry:
        parts = (model_fingerprint(teacher).content, len(dataset), config.layer, config.width, train.seed)
        identity = " ".join(map(str, parts))
        path = None if context.directory is None else _file(context.directory, name)
        head = _head(made)
        head.load_state_dict(_once(compute, dict(head.state_dict()), path, identity, device))
    return made


def with_kept_head(
    teacher: nn.Module, config: HeadConfig, dataset: BatchDataset, directory: RunDirectory, *, name: str = TEACHER
) -> nn.Module:
    """Return the teacher with the head that a run fitted; as it is where the run's folder has none."""
    path = _file(directory, name)
    if not path.is_file():
        return teacher
    made = _empty(teacher, config, dataset, name)
    load_into(_head(made), load_weights(path), source=f"'{path}'")
    return made


def with_classifier(
    teacher: nn.Module, loader: data.Loader, classes: int, *, directory: Path | None, seed: int, device: torch.device
) -> WithClassifier:
    """Return the teacher with a classifier that is fitted on its features and frozen; see `with_head`.

    Args:
        teacher: on `device`.
        loader: the training data, in order and as it is.
        classes: how many it tells apart.
        directory: the run's, which keeps the classifier; None for none.
        seed: of `fit_classifier`.
        device: where the teacher is.

    Raises:
        ValueError: if a sample's label is not one class.
    """
    example = inputs_of(to_device(BatchSource(loader).first().inputs, device), TEACHER, TEACHER)
    made = WithClassifier(teacher, _linear(_width(teacher, example, None, TEACHER), classes), example=example)

    def compute() -> dict[str, Tensor]:
        found = embed(teacher, loader, name=TEACHER, kind=TEACHER, device=device)
        if found.labels is None:
            raise ValueError("A teacher's classifier needs a class for each labelled sample, the data has none.")
        return dict(fit_classifier(found.features, found.labels, classes, seed=seed).state_dict())

    path = None if directory is None else RunDirectory(directory).teacher_head
    identity = f"{model_fingerprint(teacher).content} {classes} {seed}"
    made.classifier.load_state_dict(_once(compute, dict(made.classifier.state_dict()), path, identity, device))
    return made.to(device).eval()


def _width(teacher: nn.Module, example: Any, layer: str | None, name: str) -> int:
    return embed(teacher, [(example,)], layer=layer, name=name, kind=TEACHER).features.shape[1]


def _linear(in_width: int, classes: int) -> nn.Linear:
    """Return a classifier that is not fitted yet; its draw leaves the students' alone."""
    with rng.untouched():
        return nn.Linear(in_width, classes).requires_grad_(False)


def _file(directory: RunDirectory, name: str) -> Path:
    path = directory.teacher_head
    return path if name == TEACHER else path.with_stem(f"{path.stem}-{name}")


def _empty(teacher: nn.Module, config: HeadConfig, dataset: BatchDataset, name: str) -> WithHead | WithClassifier:
    """Return the teacher with a head of the right widths."""
    example = inputs_of(dataset.example(), name, TEACHER)
    in_width = _width(teacher, example, config.layer, name)
    unlabelled = not has_labels(dataset)
    if config.width is None:
        if unlabelled or dataset.classes is None:
            raise ValueError(f"A teacher's classifier needs labels, the data '{dataset.name}' has none.")
        return WithClassifier(teacher, _linear(in_width, dataset.classes), example=example, layer=config.layer)
    if unlabelled and config.width > min(in_width, len(dataset)):
        most = min(in_width, len(dataset))
        raise ValueError(
            f"A teacher's head of {config.width} outputs needs labels: principal components of its {in_width} features "
            f"are at most {most}."
        )
    return WithHead(teacher, Head(in_width, config.width), example=example, layer=config.layer)


def _head(made: WithHead | WithClassifier) -> nn.Module:
    return made.embed if isinstance(made, WithHead) else made.classifier


def _fitted(features: Tensor, dataset: BatchDataset, config: HeadConfig, seed: int) -> nn.Module:
    if config.width is not None:
        return fit_head(features, dataset.labels, config.width, seed=seed)
    if dataset.labels is None or dataset.classes is None:
        raise RuntimeError("`_empty` lets no classifier without labels pass.")
    return fit_classifier(features, dataset.labels, dataset.classes, seed=seed)


def _features(
    teacher: nn.Module,
    dataset: BatchDataset,
    layer: str | None,
    device: torch.device,
    workers: int,
    name: str = TEACHER,
) -> Tensor:
    """Embed all training images, as they are; the teacher stays where it was, beside the students."""
    home = next(teacher.parameters(), torch.empty(0)).device
    batches = data.loader(
        dataset, batch_size=_BATCH * ranks.world_size(), shuffle=False, device=device, workers=workers
    )
    features = embed(teacher, batches, layer=layer, name=name, kind=TEACHER, device=device).features
    teacher.to(home)
    return features


def _once(
    compute: Callable[[], Mapping[str, Tensor]],
    template: Mapping[str, Tensor],
    path: Path | None,
    identity: str,
    device: torch.device,
) -> dict[str, Tensor]:
    """Compute on the first rank, or read what it computed before for the same `identity`; all ranks get its bits."""
    tensors: Mapping[str, Tensor] = {}
    if ranks.rank() == 0:
        there = path is not None and path.exists()
        tensors = load_weights(path) if path is not None and there and _identity(path) == identity else compute()
        if path is not None and not there:  # what another run left is not written over
            save_weights(tensors, path, {"of": identity})
    shared = {}
    for name, empty in template.items():
        value = tensors[name] if name in tensors else torch.zeros_like(empty)
        shared[name] = ranks.sum_over_ranks(value.to(device)).cpu()
    return shared


def _identity(path: Path) -> str | None:
    """Return what a file says it was computed from; None if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("of")
    except (OSError, SafetensorError):
        return None

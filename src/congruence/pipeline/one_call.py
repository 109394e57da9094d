"""`distill`: trains a student in one call, given models and data."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from congruence import data as datasets
from congruence.core import check, ranks
from congruence.core.devices import row_count, take_rows, to_device
from congruence.core.inputs import STUDENT, TEACHER
from congruence.data.augment.crops import PLAIN_VIEWS
from congruence.data.datasets.batched import BatchDataset, Spec
from congruence.data.datasets.model_facts import ModelFacts
from congruence.data.loading.source import BatchSource
from congruence.distiller import Distiller
from congruence.evaluation.compare import compare
from congruence.evaluation.comparison import Comparison
from congruence.methods import Term
from congruence.models.evaluating import evaluating
from congruence.pipeline import quick
from congruence.pipeline.features import with_classifier
from congruence.pipeline.parts import Parts, parts_of
from congruence.pipeline.quick import Weight
from congruence.pipeline.student import leave_best
from congruence.pipeline.taken import Taker, asked_of
from congruence.teacher_cache import TeacherCache
from congruence.training import FitResult, fit
from congruence.training.distributed import join_process_group, pick_device
from congruence.training.saving.run_directory import RunDirectory

LOG = logging.getLogger("congruence")
_CONSTRAINTS: dict[str, check.Constraint] = {
    "epochs": check.Real(low=1, closed="low", integer=True, optional=True),
    "batch_size": check.COUNT,
    "lr": check.POSITIVE,
    "teacher_views": check.Real(low=1, closed="low", integer=True, optional=True),
    "seed": check.Real(low=0, closed="low", integer=True),
    "resume": check.Flag(),
}
_EXAMPLE = 2
_SHORT = 4  # a last batch of less than one in so many of the others' samples is left out


@dataclass(frozen=True)
class Distilled:
    """The result of `distill`.


    Args:
        student: the student with its best epoch's weights, in evaluation mode.
        result: the result of `fit`.
        report: the comparison of the student with its teacher by `compare`; None if there was no data to measure on.
        measured_on: "test", or "validation" if there is no test part: as the best epoch was chosen on it, the report is
            then slightly optimistic.
    """

    student: nn.Module
    result: FitResult
    report: Comparison | None
    measured_on: Literal["test", "validation"] | None


def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    method: str | Term | Sequence[str | Term] | None = None,
    epochs: int | None = None,
    *,
    weight: Weight = "balanced",
    share: float | None = None,
    batch_size: int = 64,
    lr: float = quick.RATE,
    teacher_views: int | None = None,
    augment: Spec | bool | None = None,
    validation: Any = None,
    test: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> Distilled:
    """Train a student in one call, by AdamW with a cosine schedule, and compare it with its teacher.

    If the data has labels, the student also learns them by cross-entropy (weight 1), unless one of the methods does;
    with a method for independent labels (`sigmoid_kd`) by binary cross-entropy.
    For anything else, such as optimizers, schedules, loaders, several students, precision or callbacks, use a
    `Distiller` and `fit`.

    Args:
        teacher: a trained model; it is left unchanged.
        student: the model to train in place: it ends with its best epoch's weights, in evaluation mode, on `device`.
        data: a map-style dataset of (inputs, labels) or of inputs, such as a `TensorDataset`; `Splits`; or an argument
            of `congruence.data.load`: a folder of images or a dataset's name. For photographs of several sizes, pass
            `congruence.data.load(folder, size=64)`.
        method: a key of the catalogue (`congruence methods` lists them), a `Term`, or several. None for "kd": a teacher
            that tells other classes apart than the student, or none, gets a classifier of the student's classes, fitted
            on its frozen features (`congruence.models.fit_classifier`); without labels the method is "queue_relation".
        epochs: passes over the training data. None for 30, or for little data as many as make 3,000 steps.
        weight: weight of each method that is given by its key: "balanced" (see `Term`), "published", or a number. A
            single method on data without labels has weight 1. A `Term` has its own weight.
        share: share of a balanced weight; None for the method's default.
        batch_size: samples in each step.
        lr: the peak learning rate of AdamW.
        teacher_views: ask the teacher about this many augmented views of each sample and keep its answers in files
            (`TeacherCache`, in `out` or a temporary folder); None for a new view in every epoch. An expensive teacher
            then takes little of a long run. With far fewer views than a quarter of the epochs a student of few
            samples learns them by heart. Samples that do not vary are asked about once.
        augment: see `congruence.data.loader`, for images of this library; None for the dataset's default. Other
            datasets must transform their items themselves.
        validation: the number of samples, or the fraction, to hold out of `data` for choosing the best epoch,
            stratified by class; or a dataset. None for a tenth, or for the validation part of `Splits` and named
            datasets; 0 for none: the last epoch is then the best. The best epoch is the last one whose accuracy is
            within one standard error of the highest (`FitOptions`): on a few samples mostly the last. If the dataset
            augments its items, the held-out part is augmented too: pass a dataset that does not.
        test: a dataset, read once at the end. `Splits` and named datasets have their own.
        out: the run's folder, see `FitOptions`.
        resume: continue the run in `out`.
        seed: seed of order, augmentation, and held-out samples.
        device: see `FitOptions`.

    Returns:
        Distilled: the student, the result of `fit`, and the comparison by `compare`.

    Raises:
        ValueError: before the first step, for arguments that cannot work.

    Example:
        >>> import torch, congruence as cg
        >>> inputs, labels = torch.randn(60, 4), torch.arange(60) % 3
        >>> teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> done = cg.distill(teacher, student, torch.utils.data.TensorDataset(inputs, labels), "kd", epochs=2)
        >>> done.result.epochs, done.measured_on, done.report.samples, done.student is student
        (2, 'validation', 6, True)
    """
    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "teacher_views": teacher_views}
    check.hyperparameters("distill", _CONSTRAINTS, **given, seed=seed, resume=resume)
    quick.check_weight("distill", weight, share)
    for argument, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, nn.Module):
            check.fail("distill", argument, "a torch module", type(model).__name__)
    asked = _listed(method)
    parts, on = parts_of(data, validation, test, seed=seed), pick_device(device)
    parts = _as_taken(parts, teacher, student)
    join_process_group(on)
    kept = contextlib.nullcontext() if teacher_views is None else _folder(out)
    with _left_as_it_was(teacher), kept as folder:
        teacher.to(on)
        student.to(on)
        plain = _loader(parts.train, batch_size, seed, None)
        first = BatchSource(plain).first()
        few = to_device(_few(first.inputs), on)
        facts = ModelFacts.of(parts.train)

        def unlike() -> str | None:
            clause = quick.knows_other_classes(teacher, few, facts, student)
            both = {TEACHER: teacher, STUDENT: student}
            return clause or (quick.gives_embeddings(both, few) if asked is None else None)

        labelled = _has_labels(plain, parts.train)
        classes = quick.width_of(student, few, STUDENT) if asked is None else None  # of a classifier by default
        single = isinstance(first.labels, Tensor) and first.labels.dim() == 1 and not first.labels.is_floating_point()
        choice = quick.chosen(
            asked, unlike, f'method="{quick.RELATIONAL}"', labelled=labelled and single and classes is not None
        )
        if choice.told:
            LOG.warning("%s", choice.told)
        if choice.classifier and classes is not None:
            place = None if out is None else Path(out)
            if place is not None and not resume and RunDirectory(place).identity.exists():
                place = None  # another run's, which `fit` refuses: nothing is written there
            in_order = _loader(parts.train, batch_size, None, on)
            teacher = with_classifier(teacher, in_order, classes, directory=place, seed=seed, device=on)
        terms = _terms(choice.methods, weight, share, labelled=labelled)
        views = _views(terms, parts.train)
        own = augment if augment is not None or not isinstance(parts.train, datasets.ImageDataset) else True
        train_loader = _loader(parts.train, batch_size, seed, on, views=views, augment=own, view_cycle=teacher_views)
        val_loader = None if parts.validation is None else _loader(parts.validation, batch_size, None, on, views=views)
        source = teacher if folder is None else TeacherCache(teacher, train_loader, folder / "teacher-cache")
        distiller = Distiller(source, student, terms, example=few, facts=datasets.facts(parts.train))
        options = quick.fit_options(
            lr,
            epochs=quick.epochs_of(len(parts.train), batch_size) if epochs is None else epochs,
            out=out,
            resume=resume,
            seed=seed,
            device=str(on),
        )
        result = fit(distiller, train_loader, val_loader, options)
        leave_best({"student": student}, result, out)
        report, measured_on = _measured(teacher, student, parts, batch_size, on)
    student.to(on)  # frozen weights that it shares with the teacher went back with that
    return Distilled(student, result, report, measured_on)


def _as_taken(parts: Parts, teacher: nn.Module, student: nn.Module) -> Parts:
    """Return parts of which each model takes its samples as its own configuration says, where it has one."""
    asked = asked_of(parts.train, {STUDENT: Taker(student)}, {TEACHER: Taker(teacher)})
    if not asked:
        return parts
    return Parts(*(part.for_models(**asked) if isinstance(part, BatchDataset) else part for part in parts))


def _listed(method: Any) -> list[str | Term] | None:
    if method is None:
        return None
    methods = [method] if isinstance(method, str | Term) else method
    if not isinstance(methods, Sequence) or not methods or not all(isinstance(each, str | Term) for each in methods):
        got = repr(method) if isinstance(method, Sequence) else type(method).__name__
        check.fail("distill", "method", "a method's key, a Term, or a list of them", got)
    return list(methods)


def _terms(methods: Sequence[str | Term], weight: Weight, share: float | None, *, labelled: bool) -> list[Term]:
    """Return the terms; the label loss is first, so that balanced ones are held against it."""
    tables = [quick.label_term(methods, weight) if labelled else None]
    terms = [Term(table.pop("key"), **table) for table in tables if table is not None]
    for method in methods:
        table = {} if isinstance(method, Term) else quick.weighed(method, weight, share)
        terms.append(method if isinstance(method, Term) else Term(table.pop("key"), **table))
    readers = [term.name for term in terms if term.needs.labels]
    if readers and not labelled:
        raise ValueError(f"`distill`: the method '{readers[0]}' needs labels, `data` has none.")
    return terms


def _views(terms: Sequence[Term], dataset: Any) -> tuple[str, ...]:
    """Return the views that terms read, as far as the dataset can make them."""
    for term in terms:
        plain = [view for view in term.needs.views if view in PLAIN_VIEWS]
        if plain and not isinstance(dataset, BatchDataset):
            raise ValueError(
                f"`distill`: the method '{term.name}' reads each sample a second time as it is ('{plain[0]}'), which "
                "only images of congruence.data can give: make `data` an ArrayDataset or a FileDataset."
            )
    return tuple(dict.fromkeys(["main", *(view for term in terms for view in term.needs.views)]))


def _loader(
    dataset: Any, batch_size: int, seed: int | None, device: torch.device | None, **more: Any
) -> datasets.Loader:
    """Return the batches of a dataset: shuffled by a seed, or in order without one."""
    short = len(dataset) % batch_size
    left_out = seed is not None and len(dataset) > batch_size and 0 < short * _SHORT < batch_size
    return datasets.loader(
        dataset,
        batch_size=batch_size,
        shuffle=seed is not None,
        seed=seed or 0,
        drop_last=left_out,
        device=device,
        **more,
    )


def _has_labels(loader: datasets.Loader, dataset: Any) -> bool:
    """Whether a sample has a class label; read only of a dataset that does not tell."""
    known = datasets.facts(dataset).labels
    if known is not None:
        return bool((known >= 0).any())
    for batch in BatchSource(loader).share():
        labels = batch.labels
        if labels is None:
            return False
        whole = isinstance(labels, Tensor) and labels.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
        # Of positions, soft, or several a sample: whether they fit the logits the term that reads them says.
        several = whole or (isinstance(labels, Tensor) and labels.is_floating_point())
        several = several and labels.dim() > 1 and labels[0].numel() > 1
        if not several and (not whole or labels.dim() != 1):
            kind = type(labels).__name__
            if isinstance(labels, Tensor):
                kind = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
            wanted = "a dataset of inputs, or of inputs and their classes (int64 [B], -1 for unknown)"
            check.fail("distill", "data", wanted, f"labels {kind}")
        if bool((labels >= 0).any()):
            return True
    return False


def _few(inputs: Any) -> Any:
    """Return the inputs of a few samples of a batch."""
    count = row_count(inputs)
    return inputs if count is None else take_rows(inputs, torch.arange(min(count, _EXAMPLE)), count)


def _measured(
    teacher: nn.Module, student: nn.Module, parts: Parts, batch_size: int, device: torch.device
) -> tuple[Comparison | None, Literal["test", "validation"] | None]:
    """Compare on the test part, or else on the validation part; what cannot be compared costs no student."""
    on: Literal["test", "validation"] = "validation" if parts.test is None else "test"
    part = parts.validation if parts.test is None else parts.test
    if part is None or ranks.rank() != 0:
        return None, None
    try:
        return compare(teacher, student, _loader(part, batch_size, None, device)), on
    except ValueError as error:
        LOG.warning("The student is trained, and not compared with its teacher: %s", check.sentence(error))
        return None, None


@contextlib.contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """The folder of a run's files, without `out` a temporary one, which all ranks share."""
    if out is not None:
        yield Path(out)
        return
    folder = ranks.on_rank_zero(tempfile.mkdtemp)
    try:
        yield Path(folder)
    finally:
        if ranks.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _left_as_it_was(teacher: nn.Module) -> Iterator[None]:
    """Give a teacher back its modes, what of it requires gradients, and its place."""
    asked = [(parameter, parameter.requires_grad) for parameter in teacher.parameters() if parameter.is_leaf]
    first = next(teacher.parameters(), None)
    place = None if first is None else first.device
    try:
        with evaluating(teacher):
            yield
    finally:
        if place is not None:
            teacher.to(place)
        for parameter, requires_grad in asked:
            parameter.requires_grad_(requires_grad)

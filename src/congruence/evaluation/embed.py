"""Run a model over a dataset once, and keep its embeddings and logits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from congruence.core.allocator import memory_kept
from congruence.core.devices import row_count, take_rows, to_device
from congruence.core.inputs import STUDENT, TEACHER, inputs_of
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.facts import declared_classes
from congruence.data.datasets.files import files_changed
from congruence.data.datasets.model_facts import ModelFacts, check_prepared
from congruence.data.loading.loader import loader as batches_of
from congruence.data.loading.source import BatchSource
from congruence.evaluation.channels import batch_of, channels_last, reads_alike
from congruence.evaluation.embeddings import Embeddings, given
from congruence.evaluation.gathered import Gathered
from congruence.evaluation.kept import KeptRows
from congruence.evaluation.truth import Labels, answers_of, labels_of
from congruence.models.evaluating import evaluating
from congruence.models.fingerprint import model_fingerprint
from congruence.models.layouts import batch_sizes, check_rows
from congruence.models.masks import token_mask
from congruence.models.memory_order import prefers_channels_last
from congruence.models.parameters import is_quantized
from congruence.models.projectors import rows
from congruence.models.taps import Taps
from congruence.models.teacher import called
from congruence.models.untaught import is_untaught

LOG = logging.getLogger("congruence")
_EXAMPLE = 4  # images on which it is found out how a model can be read
_TOLD: WeakSet[nn.Module] = WeakSet()  # models of which it was said that their output is measured as their embedding


class Embedded(NamedTuple):
    """Embeddings [N, D] and logits [N, C] (None if the model has none) on the CPU, and labels [N] or None.

    `head` is the weight [C, D] and bias [C] (or None) of the Linear that maps the embeddings to the logits, if there is
    one. `left_out` says why logits are left out, if the model's logits are meaningless: no term trained its head, or
    its classes are not the data's. `answers` [P] are the classes of dense logits' positions, for `truth.Labels.truth`.
    """

    features: Tensor
    logits: Tensor | None
    labels: Tensor | None
    head: tuple[Tensor, Tensor | None] | None = None
    left_out: str = ""
    answers: Tensor | None = None
    truth: Tensor | None = None

    def without_classes(self, why: str) -> Embedded:
        """Leave out the logits, which mean nothing, for a reason unless there was one before."""
        return self._replace(logits=None, answers=None, head=None, left_out=self.left_out or why)

    def tensors(self) -> dict[str, Tensor]:
        """Return the rows that can be kept and are there, by name: data that is kept has one class a sample."""
        rows = {"features": self.features, "logits": self.logits, "labels": self.labels}
        return {name: tensor for name, tensor in rows.items() if tensor is not None}


def embed(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layer: str | None = None,
    name: str = "model",
    kind: str = STUDENT,
    device: str | torch.device | None = None,
) -> Embedded:
    """Embed every sample of a loader, in evaluation mode.


    Args:
        model: any module; its modes are restored afterwards.
        loader: batches as `fit` takes them, in the wanted order; a loader of `congruence.data` gives every rank all
            samples.
        layer: the layer that gives the embedding; by default the input of the last Linear. Maps and tokens are averaged
            over their positions, without padding ("attention_mask" of the inputs).
        name: the model's name in messages and in the `Inputs` of a batch.
        kind: "student" or "teacher": the entry of `Inputs` that is used if there is none under the model's name.
        device: device to which the model is moved; None leaves it where it is.

    Raises:
        ValueError: for a layer that does not exist, or an empty loader.
    """
    teachers = (name,) if kind == TEACHER else (TEACHER,)
    return embed_all({name: model}, loader, layers={name: layer}, device=device, teachers=teachers)[name]


@torch.no_grad()
def embed_all(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    layers: Mapping[str, str | None],
    device: str | torch.device | None = None,
    teachers: Collection[str] = (TEACHER,),
) -> dict[str, Embedded]:
    """Embed every sample of a loader with several models in one pass; see `embed`.

    If batches hold `Inputs`, each model takes its own entry, or else the teachers' or the students' entry.
    """
    readers = readers_of(models, loader, layers=layers, device=device, teachers=teachers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_kept())
        for model in models.values():
            stack.enter_context(evaluating(model))
        labels = read_all(readers.values(), loader, stack)
    return of_classes({name: reader.embedded(labels) for name, reader in readers.items()}, loader, labels.classes)


def readers_of(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    layers: Mapping[str, str | None],
    device: str | torch.device | None,
    teachers: Collection[str] = (TEACHER,),
) -> dict[str, Reader]:
    """Return what lets models read a loader, whose images are prepared as those that each was trained on."""
    readers = {
        name: Reader(model, layers[name], name, device, TEACHER if name in teachers else STUDENT)
        for name, model in models.items()
    }
    for name, model in models.items():
        check_prepared(model, ModelFacts.of(loader, name, readers[name].kind))
    return readers


@torch.no_grad()
def embed_images(
    model: nn.Module,
    images: BatchDataset,
    *,
    name: str = "model",
    kind: str = STUDENT,
    device: str | torch.device | None = None,
    kept: KeptRows | None = None,
) -> Embedded:
    """Embed all samples of a dataset as `embed` does, in batches suited to the device, or read kept embeddings.

    Args:
        model: see `embed`.
        images: the dataset, read in order.
        name: see `embed`.
        kind: see `embed`.
        device: see `embed`.
        kept: the folder of kept rows, which are read or written. It is not used for a model whose content cannot be
            read.
    """
    reader = Reader(model, None, name, device, kind)
    size = batch_of(reader.device)
    loader = batches_of(images, batch_size=size, shuffle=False)
    check_prepared(model, ModelFacts.of(loader, name, reader.kind))
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_kept())
        stack.enter_context(evaluating(model))
        identity = None
        if kept is not None and len(images):
            reader.begin(images.batch(range(min(size, len(images)))), stack)
            identity = reader.identity()
        if kept is None or identity is None:
            labels = read_all([reader], loader, stack)
            embedded = reader.embedded(labels)
        else:
            identity |= {"images": images.fingerprint(), "batch": size, **files_changed(images)}
            rows = kept.find(identity)
            if rows is None:
                embedded = reader.embedded(read_all([reader], loader, stack))
                kept.keep(identity, embedded.tensors())
            else:
                embedded = reader.found(rows)
    return of_classes({reader.taps.name: embedded}, loader, embedded.labels)[reader.taps.name]


def read_all(
    readers: Iterable[Reader], loader: Iterable[Any], stack: contextlib.ExitStack, first: list[Any] | None = None
) -> Labels:
    """Let models read a loader, and return its labels.

    What was done to a model for this is undone by `stack`. `first` is given what the first batch holds for models.
    """
    labels: list[Tensor] = []
    source = BatchSource(loader)
    for number, batch in enumerate(source.share()):
        if number == 0 and first is not None:
            first.append(batch.inputs)
        for reader in readers:
            reader.batches = source.steps() if number == 0 else reader.batches
            reader.read(batch.inputs, stack, positions=batch.labels is not None and batch.labels.dim() > 1)
        if batch.labels is not None:
            labels.append(batch.labels.cpu())
    return labels_of(labels, dense=any(reader.answers for reader in readers))


def of_classes(embedded: Mapping[str, Embedded], loader: Iterable[Any], labels: Tensor | None) -> dict[str, Embedded]:
    """Leave out logits that are not of the data's classes."""
    classes = _classes(declared_classes(getattr(loader, "dataset", None)), embedded.values(), labels)
    of_classes = {}
    for name, each in embedded.items():
        if each.logits is not None and classes is not None and each.logits.shape[1] != classes:
            why = f"the {name}'s output has {each.logits.shape[1]} columns, the data {classes} classes"
            each = each.without_classes(why)
        of_classes[name] = each
    return of_classes


def _classes(declared: int | None, embedded: Iterable[Embedded], labels: Tensor | None) -> int | None:
    """Return how many classes the data has, None if nothing tells.

    The labels tell where models differ: of logits of 10 and 1000 classes, labels of 0 to 8 are those of the first.
    """
    widths = {each.logits.shape[1] for each in embedded if each.logits is not None}
    if declared is not None or labels is None or len(widths) < 2 or not len(labels):
        return declared
    counted = int(labels.max()) + 1
    return min((width for width in widths if width >= counted), default=None)


class Reader:
    """One model, and what it has given so far."""

    def __init__(
        self, model: nn.Module, layer: str | None, name: str, device: str | torch.device | None, kind: str
    ) -> None:
        first = next(model.parameters(), None)
        self.device = torch.device(device) if device is not None else first.device if first is not None else None
        self.layer, self.name, self.kind = layer, name, kind
        called_so = called(name) if kind == TEACHER else name
        self.taps = Taps(model if device is None else model.to(self.device), name=called_so)
        self.paths: tuple[str, str | None] | None = None
        self.left_out = ""
        self.channels_last = False
        self.batches: int | None = None  # how many will come, as far as the loader says
        self.dense: str | None = None  # the path of logits with positions
        self.features, self.logits, self.answers = Gathered(), Gathered(), Gathered()

    def begin(self, inputs: Any, stack: contextlib.ExitStack) -> None:
        """Find out on a batch which layers are read, and how the model is best run; `stack` ends that."""
        inputs = to_device(inputs_of(inputs, self.name, self.kind), self.device)
        self.paths = self._find(inputs)
        count, model = row_count(inputs), self.taps.model
        if self.device is None or count is None or not prefers_channels_last(model, self.device):
            return
        few = take_rows(inputs, torch.arange(min(count, _EXAMPLE)), count)
        paths = [path for path in self.paths if path is not None]

        def read() -> dict[str, Tensor]:
            given = self.taps.read(few)[1]
            return {path: given[path].float() for path in paths}

        self.channels_last = reads_alike(model, read)
        if self.channels_last:
            stack.enter_context(channels_last(model))

    def read(self, inputs: Any, stack: contextlib.ExitStack, *, positions: bool) -> None:
        """Run the model over a batch; `positions`: whether its labels may be those of dense logits."""
        if self.paths is None:
            self.begin(inputs, stack)
        inputs = to_device(inputs_of(inputs, self.name, self.kind), self.device)
        features, classes = given(self.paths)
        read = self.taps.read(inputs)[1]
        tapped, what = read[features], f"The {self.taps.name}'s layer '{features}'"
        if tapped.dim() > 2:
            check_rows(what, tapped.shape, batch_sizes(inputs))
        mask = token_mask(tapped, inputs, None, what, "read a layer that gives one row a sample", look=True)
        if mask is None:
            self.taps.turned.check_own_mask(features, "`embed`")
        self.features.add(rows(tapped, mask).float().cpu(), self.batches)
        logits = None if (path := classes or self.dense) is None else read[path]
        if logits is not None and classes is not None and logits.dim() == 2:
            logits = logits.float().cpu()
            self.logits.add(logits.log() if classes == self.taps.defaults.probabilities else logits, self.batches)
        elif logits is not None and logits.dim() > 2 and positions:
            self.answers.add(answers_of(logits).cpu(), self.batches)

    def _find(self, example: Any) -> tuple[str, str | None]:
        self.taps.probe(example, training=False)
        try:
            logits: str | None = self.taps.default("logits")
        except ValueError:
            logits = self.taps.defaults.probabilities
        heads = self.taps.defaults.made_of
        if heads and all(is_untaught(self.taps.module(head)) for head in heads):
            logits, self.left_out = None, f"no term taught the {self.taps.name}'s {', '.join(sorted(map(repr, heads)))}"
        paths = (self._features(logits) if self.layer is None else self.layer, logits)
        self.dense = None if logits is not None or self.left_out else self.taps.defaults.dense
        self.taps.require([path for path in (*paths, self.dense) if path is not None])
        self.taps.layout(paths[0], "read a layer that gives one row a sample")
        return paths

    def _features(self, logits: str | None) -> str:
        """Return the layer of the embedding; of a model whose layers no hook reaches, what it says of classes."""
        if self.taps.closed and self.taps.defaults.features is None and logits is not None:
            if self.taps.model not in _TOLD:
                _TOLD.add(self.taps.model)
                text = "The %s's embedding cannot be read, because %s: its '%s' is measured instead."
                LOG.warning(text, self.taps.name, self.taps.closed, logits)
            return logits
        return self.taps.default("features")

    def identity(self) -> dict[str, Any] | None:
        """Return what decides the rows beside the images; None of a model whose content cannot be read."""
        model = model_fingerprint(self.taps.model, self.taps.scratch)
        if model.unreadable:
            return None
        device = self.device or torch.device("cpu")
        on_cpu = device.type == "cpu"
        return {
            "model": model.content,
            "structure": model.structure,
            "layers": self.paths,
            "probabilities": self.taps.defaults.probabilities,
            "device": _named(device),
            "threads": torch.get_num_threads() if on_cpu else None,
            "channels_last": self.channels_last,
            "autocast": torch.is_autocast_enabled(device.type),
        }

    def embedded(self, labels: Labels) -> Embedded:
        """Return all that was read."""
        if not self.features:
            raise ValueError("`embed`: `loader` must hold at least one batch, got none: is the dataset empty?")
        read = {"features": self.features, "logits": self.logits, "answers": self.answers}
        rows = {"labels": labels.classes, "truth": labels.truth} | {
            k: each.joined() for k, each in read.items() if each
        }
        return self.found({name: each for name, each in rows.items() if each is not None})

    def found(self, rows: Mapping[str, Tensor]) -> Embedded:
        """Return rows as what was read."""
        logits = rows.get("logits")
        head = None if logits is None else self._head()
        labels, answers, truth = (rows.get(name) for name in ("labels", "answers", "truth"))
        return Embedded(rows["features"], logits, labels, head, self.left_out, answers, truth)

    def _head(self) -> tuple[Tensor, Tensor | None] | None:
        """Return the last Linear, where the embedding is what enters it."""
        head = self.taps.head
        # Of a sum of branches, one is not the logits.
        if head is None or self.paths != (f"input:{head}", head or "output"):
            return None
        linear = self.taps.module(head)
        if not isinstance(linear, nn.Linear) or is_quantized(linear):
            return None
        bias = None if linear.bias is None else linear.bias.detach().float().cpu().clone()
        return linear.weight.detach().float().cpu().clone(), bias


def _named(device: torch.device) -> str:
    """Return what a device calls itself: another kind of processor rounds otherwise."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else device.type


def tell_left_out(embedded: Mapping[str, Embedded | None]) -> None:
    """Say of each model by name why its classes are not measured, where its logits were left out."""
    for name, each in embedded.items():
        if each is not None and each.left_out:
            LOG.warning("The %s's accuracy, agreement and entropy are left out: %s.", name, each.left_out)


def beside(
    student: Embedded,
    teacher: Embedded | None = None,
    *,
    database: Embedded | None = None,
    projected: Tensor | None = None,
) -> Embeddings:
    """Return what numbers are measured on: a student's embeddings beside its teacher's of the same samples.

    Args:
        student: has the labels.
        teacher: of the same samples in the same order.
        database: the student's of the training images.
        projected: the student's features, brought to the teacher's width.
    """
    return Embeddings(
        student.features,
        None if teacher is None else teacher.features,
        student.logits,
        None if teacher is None else teacher.logits,
        student.labels,
        None if teacher is None else teacher.head,
        None if database is None else (database.features, database.labels),
        projected,
        student.answers,
        None if teacher is None else teacher.answers,
        student.truth,
    )

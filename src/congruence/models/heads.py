"""A head for a given teacher, an embedding or a classifier: fitted on its frozen features, then frozen."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check, rng
from congruence.models.layers import unwrap
from congruence.models.masks import token_mask
from congruence.models.parameters import check_fits
from congruence.models.projectors import rows
from congruence.models.taps import Taps

CHECKS = {"width": check.COUNT, "seed": check.Real(integer=True), "epochs": check.COUNT}
_BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 256, 3e-3, 5e-4
_LEAST_STEPS = 300  # of cross entropy, however few the samples
_ORDER = 205  # the stream of the order's generator
_PENALTIES, _PENALTY = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), 1e-2  # of a classifier; the latter where nothing can be held out
_HELD, _LOGISTIC_STEPS = 5, 200  # one of so many samples is held out
_SEARCHED = 10_000  # samples by which the penalty is chosen, at most


class Head(nn.Module):
    """An affine map [B, in_width] → [B, width].

    Not an `nn.Linear`, so that the teacher's own last Linear stays the one that default layers are found by.
    """

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        check.hyperparameters("Head", {"in_width": check.COUNT, "width": check.COUNT}, in_width=in_width, width=width)
        check_fits("Head", "width", width, 4.0 * width * in_width)
        self.weight = nn.Parameter(torch.zeros(width, in_width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """Embed features."""
        return F.linear(features, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Write the widths."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


def fit_head(features: Tensor, labels: Tensor | None, width: int, *, seed: int = 0, epochs: int = 20) -> Head:
    """Fit an embedding of a teacher's frozen features, before any student sees it.

    With labels, it is trained by cross-entropy through a classifier of the embedding, which is then discarded. Without
    labels, it gives the first `width` principal components of the centred features. If it were trained together with
    the student under a relational loss, both would collapse to a constant.

    Shape:
        `features` [N, D], `labels` [N]; the head maps [B, D] to [B, width].

    Args:
        features: the teacher's features of the training samples.
        labels: classes from 0 on, -1 if unknown (these samples are left out); None for principal components, which are
            also used if no sample has a label.
        width: width of the embedding; at most min(N, D) for principal components.
        seed: seed of the initial weights and the order of samples.
        epochs: passes over the labelled samples, with AdamW; at least 300 steps are taken.

    Returns:
        The frozen head, in evaluation mode, in the dtype and on the device of `features`.

    Raises:
        ValueError: for shapes that do not fit, features that are not finite, or a width out of range.

    Example:
        >>> import torch
        >>> head = fit_head(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), None, 1)
        >>> head(torch.tensor([[2.0, 7.0]])).tolist()
        [[2.0]]

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, sec. 4.1: a fully connected layer of
        128 outputs on both networks.

    Deviations:
        The paper trains the teacher with this layer; here the teacher is already trained.
    """
    check.floating("fit_head", 2, features=features)
    check.hyperparameters("fit_head", CHECKS, width=width, seed=seed, epochs=epochs)
    if not bool(torch.isfinite(features).all()):
        check.fail("fit_head", "features", "finite", "NaN or infinity")
    features = features.detach()
    if labels is not None:
        check.class_labels("fit_head", labels=labels)
        check.same_rows("fit_head", features=features, labels=labels)
        labelled = labels >= 0
        labels = labels[labelled] if bool(labelled.any()) else None
    if labels is None:
        weight, bias = _components(features, width)
    else:
        weight, bias = _discriminant(features[labelled], labels.to(features.device), width, seed, epochs)
    head = Head(features.shape[1], width).to(features)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head.requires_grad_(False).eval()


def _components(features: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Principal axes as rows, each with its largest entry positive."""
    if width > min(features.shape):
        limit = f"at most {min(features.shape)} without labels (as many principal components as there can be)"
        check.fail("fit_head", "width", limit, width)
    values = features.double()
    mean = values.mean(0)
    axes = torch.linalg.svd(values - mean, full_matrices=False).Vh[:width]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return axes, -axes @ mean


def _discriminant(features: Tensor, labels: Tensor, width: int, seed: int, epochs: int) -> tuple[Tensor, Tensor]:
    """Train embedding and classifier on standardised features; the standardisation is folded into the embedding."""
    values, mean, scale = _standardised(features.float())
    with rng.untouched(), torch.enable_grad():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(values.shape[1], width), nn.Linear(width, int(labels.max()) + 1))
        model.to(values.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        per_epoch = -(-len(values) // _BATCH)
        for epoch in range(max(epochs, -(-_LEAST_STEPS // per_epoch))):
            order = torch.randperm(len(values), generator=rng.keyed_generator(seed, _ORDER, epoch))
            for batch in order.to(values.device).split(_BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(values[batch]), labels[batch].long()).backward()
                optimizer.step()
    embedding = cast(nn.Linear, model[0])
    weight = embedding.weight.detach() / scale
    return weight, embedding.bias.detach() - weight @ mean


def _standardised(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values less their mean, divided by one scale for all, so that directions keep their weight; and both."""
    mean = values.mean(0)
    scale = values.var(0, correction=0).mean().sqrt().clamp_min(1e-6)
    return (values - mean) / scale, mean, scale


def fit_classifier(features: Tensor, labels: Tensor, classes: int, *, seed: int = 0) -> nn.Linear:
    """Fit a classifier on a teacher's frozen features, so that a model of other classes, or of none, teaches yours.

    Multinomial logistic regression: it minimises (1/N) Σ_i CE(W x_i + b, y_i) + (λ/2)‖W‖² over the labelled samples, x
    the features less their mean, divided by one scale. Of λ = 10⁻⁴ … 1 it takes the one with the lowest cross-entropy
    on a held-out fifth (of at most 10,000 samples): soft labels are to be as sure as the classifier is right on images
    that it did not see. Then all labelled samples are fitted. 10,000 samples of 768 features and 100 classes take a
    core 16 seconds.

    Shape:
        `features` [N, D], `labels` [N]; the classifier maps [B, D] to [B, classes].

    Args:
        features: the teacher's features of the training samples.
        labels: classes from 0 on, -1 if unknown (these samples are left out).
        classes: number of classes; one without a labelled sample becomes improbable.
        seed: seed of which samples are held out.

    Returns:
        The frozen classifier, in the dtype and on the device of `features`.

    Raises:
        ValueError: for shapes that do not fit, features that are not finite, labels out of range, or fewer than two
            classes with a label.

    Example:
        >>> import torch
        >>> features = torch.tensor([[3.0, 0.0], [2.0, 1.0], [-3.0, 0.0], [-2.0, 1.0]])
        >>> classifier = fit_classifier(features, torch.tensor([0, 0, 1, 1]), 2)
        >>> classifier(torch.tensor([[5.0, 0.0], [-5.0, 0.0]])).argmax(1).tolist()
        [0, 1]
    """
    name = "fit_classifier"
    check.floating(name, 2, features=features)
    check.hyperparameters(name, {"classes": check.COUNT, "seed": CHECKS["seed"]}, classes=classes, seed=seed)
    check.class_labels(name, labels=labels)
    check.same_rows(name, features=features, labels=labels)
    if not bool(torch.isfinite(features).all()):
        check.fail(name, "features", "finite", "NaN or infinity")
    known = labels >= 0
    if bool((labels >= classes).any()):
        check.fail(name, "labels", f"below {classes}", int(labels.max()))
    if len(labels[known].unique()) < 2:
        check.fail(name, "labels", "of two classes or more", f"{len(labels[known].unique())}")
    values, labels = features.detach()[known.to(features.device)].double(), labels[known].to(features.device).long()
    values, mean, scale = _standardised(values)
    order = torch.randperm(len(values), generator=rng.keyed_generator(seed, _ORDER, 0)).to(values.device)[:_SEARCHED]
    held, fitted = order[: len(order) // _HELD], order[len(order) // _HELD :]
    errors = []
    for penalty in _PENALTIES if len(held) and len(labels[fitted].unique()) > 1 else ():
        weight, bias = _logistic(values[fitted], labels[fitted], classes, penalty)
        errors.append(float(F.cross_entropy(values[held] @ weight.T + bias, labels[held])))
    best = _PENALTIES[errors.index(min(errors))] if errors else _PENALTY
    weight, bias = _logistic(values, labels, classes, best)
    with rng.untouched():
        classifier = nn.Linear(features.shape[1], classes).to(features)
    with torch.no_grad():
        classifier.weight.copy_(weight / scale)
        classifier.bias.copy_(bias - weight @ mean / scale)
    return classifier.requires_grad_(False).eval()


def _logistic(values: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Minimise the cross-entropy of a linear classifier and a penalty on its weights."""
    weight, bias = values.new_zeros(classes, values.shape[1]), values.new_zeros(classes)
    optimizer = torch.optim.LBFGS(
        [weight.requires_grad_(), bias.requires_grad_()], max_iter=_LOGISTIC_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(values @ weight.T + bias, labels) + penalty * weight.square().sum() / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


class WithHead(nn.Module):
    """A teacher with an embedding head that can be tapped as the layer "embed"; its output is unchanged.


    Args:
        model: the teacher.
        head: a module from [B, width of the layer] to [B, width of the embedding]; see `fit_head`.
        example: a batch of inputs, for finding the layer.
        layer: the layer that the head reads; None for the input of the last Linear. Maps and sequences are averaged
            first.

    Raises:
        ValueError: for a layer that does not exist, or a head that does not accept its width.

    Example:
        >>> import torch
        >>> teacher = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> both = WithHead(teacher, Head(5, 4), example=torch.ones(2, 3))
        >>> taps = Taps(both, name="teacher")
        >>> taps.probe(torch.ones(2, 3), training=False)
        >>> taps.require(["embed"])
        >>> list(taps.read(torch.ones(2, 3))[1]["embed"].shape), taps.default("features")
        ([2, 4], 'input:model.2')
    """

    def __init__(self, model: nn.Module, head: nn.Module, *, example: Any, layer: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.embed = head
        self._read = _LayerRead("WithHead", "head", model, head, example, layer)
        self.layer = self._read.layer

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the teacher, embed what the head reads, and return the teacher's output."""
        output, read = self._read(named or inputs)
        self.embed(read)
        return output


class WithClassifier(nn.Module):
    """A teacher whose output are the logits of a classifier of its features, which need not be of its own classes.


    Args:
        model: the teacher.
        classifier: a Linear from [B, width of the layer] to [B, classes]; see `fit_classifier`.
        example: a batch of inputs, for finding the layer.
        layer: the layer that the classifier reads; None for the input of the last Linear, or an encoder's output. Maps
            and sequences are averaged first.

    Raises:
        ValueError: for a layer that does not exist, or a classifier that does not accept its width.

    Example:
        >>> import torch
        >>> teacher = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1000))
        >>> both = WithClassifier(teacher, nn.Linear(5, 2), example=torch.ones(2, 3))
        >>> list(both(torch.ones(4, 3)).shape), both.layer
        ([4, 2], 'input:2')
    """

    def __init__(self, model: nn.Module, classifier: nn.Linear, *, example: Any, layer: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier
        self._read = _LayerRead("WithClassifier", "classifier", model, classifier, example, layer)
        self.layer = self._read.layer

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(self._read(named or inputs)[1])
        return logits


def without_head(model: nn.Module) -> nn.Module:
    """Return the teacher that a head was fitted on; any other model as it is.

    Example:
        >>> teacher = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 9))
        >>> without_head(WithClassifier(teacher, nn.Linear(5, 2), example=torch.ones(2, 3))) is teacher
        True
    """
    bare = unwrap(model)
    return unwrap(bare.model) if isinstance(bare, WithHead | WithClassifier) else bare


class _LayerRead:
    """A model's output and one of its layers, a row a sample, for a head of it."""

    def __init__(
        self, function: str, argument: str, model: nn.Module, head: nn.Module, example: Any, layer: str | None
    ) -> None:
        self.argument = argument
        self.taps = Taps(model, name="teacher")
        self.taps.probe(example, training=False)
        closed = self.taps.closed and self.taps.defaults.features is None and self.taps.defaults.logits is not None
        # Of a program that gives its classes alone, these are what can be read: see `embed`.
        self.layer = layer or self.taps.default("logits" if closed else "features")
        self.taps.require([self.layer])
        shape = self.taps.shapes[self.layer]
        self.taps.layout(self.layer, f"let the {argument} read another layer")
        width = shape[-1] if len(shape) == 3 else shape[1]
        if isinstance(head, Head | nn.Linear) and head.weight.shape[1] != width:
            wanted = f"one that takes the {width} features of '{self.layer}'"
            check.fail(function, argument, wanted, f"one of {head.weight.shape[1]}")

    def __call__(self, inputs: Any) -> tuple[Any, Tensor]:
        output, read = self.taps.read(inputs)
        tokens, what = read[self.layer], f"The teacher's layer '{self.layer}'"
        advice = f"let the {self.argument} read a layer that gives one row a sample"
        mask = token_mask(tokens, inputs, None, what, advice)
        return output, rows(tokens, mask)

"""A student that predicts with its teacher's classifier, from its own map through a trained projector (SimKD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from congruence.core import check
from congruence.core.inputs import STUDENT, TEACHER, inputs_of
from congruence.models.evaluating import evaluating
from congruence.models.forward import call
from congruence.models.taps import Taps

CHECKS: Mapping[str, check.Constraint] = {
    name: check.COUNT for name in ("channels", "teacher_channels", "classes", "factor")
}
_CLOSE = 1e-3  # relative: the pooled map and what enters the classifier


def transfer(
    channels: int, teacher_channels: int, factor: int = 2, norm: type[nn.Module] = nn.BatchNorm2d
) -> nn.Module:
    """Return SimKD's projector: convolutions 1×1, 3×3 and 1×1 without bias, each with batch norm and ReLU.

    Args:
        channels: of the student's map.
        teacher_channels: of the teacher's, C_t.
        factor: the hidden width is C_t / factor, rounded down, at least 1.
        norm: of the batch norms.

    Example:
        >>> transfer(8, 32)(torch.ones(2, 8, 4, 4)).shape
        torch.Size([2, 32, 4, 4])
    """
    hidden = max(1, teacher_channels // factor)
    parts: list[nn.Module] = []
    for given, made, kernel in ((channels, hidden, 1), (hidden, hidden, 3), (hidden, teacher_channels, 1)):
        parts += [nn.Conv2d(given, made, kernel, padding=kernel // 2, bias=False), norm(made), nn.ReLU()]
    return nn.Sequential(*parts)


class ReusedClassifier(nn.Module):
    """A student whose last map goes through a projector, a mean over positions and the teacher's frozen classifier.

    logits = W_t · mean_HW(transfer(map_s)) + b_t. The projector and the classifier are part of the student: they are in
    its file, its parameter count, its latency and its exports. The student's own layers behind the map stay in the
    module, unused and frozen, so that its own file still fits.

    Shape:
        inputs as the student takes them; returns logits [B, C].

    Args:
        student: the small model.
        layer: the dotted path of its layer that gives the map [B, channels, H, W].
        channels: of that map.
        teacher_channels: C_t, which the classifier reads.
        classes: C.
        bias: whether the classifier has one.
        factor: the projector's hidden width is C_t / factor.
        size: height and width of the teacher's map where the student's is larger: it is average-pooled to them first.

    Raises:
        ValueError: for a hyper-parameter out of its range, or a layer that is not there.

    Example:
        >>> conv = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        >>> teacher = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
        >>> small = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        >>> student = ReusedClassifier.of(small, teacher, example=torch.randn(2, 1, 6, 6))
        >>> student.layer, student(torch.randn(5, 1, 6, 6)).shape, torch.equal(student.head.weight, teacher[3].weight)
        ('0', torch.Size([5, 3]), True)

    Reference:
        Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, sec. 3.2, and the authors'
        code, whose factor is 2.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        layer: str,
        channels: int,
        teacher_channels: int,
        classes: int,
        bias: bool = True,
        factor: int = 2,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        given = {"channels": channels, "teacher_channels": teacher_channels, "classes": classes, "factor": factor}
        check.hyperparameters("ReusedClassifier", CHECKS, **given)
        paths = dict(student.named_modules())
        if layer not in paths:
            near = check.near(layer, paths)
            check.fail("ReusedClassifier", "layer", "a layer of the student", f"{layer!r}.{near}"[:-1])
        self.student, self.layer, self.size = student, layer, None if size is None else (size[0], size[1])
        self.described: dict[str, Any] = {"layer": layer, **given, "bias": bias, "size": size and list(size)}
        self.projector = transfer(channels, teacher_channels, factor)
        self.head = nn.Linear(teacher_channels, classes, bias=bias).requires_grad_(False)

    @classmethod
    def of(
        cls,
        student: nn.Module,
        teacher: nn.Module,
        *,
        example: Any,
        factor: int = 2,
        layer: str | None = None,
        teacher_layer: str | None = None,
    ) -> Self:
        """Make it from a student and its teacher, which one dry forward of each is shown.

        Args:
            student: the small model, which is not copied.
            teacher: its last Linear, copied, becomes the classifier.
            example: inputs of both, of two samples or more.
            factor: of the projector.
            layer: of the student's map; by default its last map.
            teacher_layer: of the teacher's map; by default its last.

        Raises:
            ValueError: in one sentence for a model without a map, or a teacher whose classifier is no Linear that reads
                the mean of its map.
        """
        seen = {name: Taps(model, name=name) for name, model in ((STUDENT, student), (TEACHER, teacher))}
        for name, taps in seen.items():
            taps.probe(inputs_of(example, name, name), training=False)
        named = {STUDENT: layer, TEACHER: teacher_layer}
        layers = {name: named[name] or next(reversed(taps.stages), None) for name, taps in seen.items()}
        for name, path in layers.items():
            if path is None:
                raise ValueError(
                    f"`ReusedClassifier`: the {name} has no map [B, C, H, W]; name a layer that gives one."
                )
        head = seen[TEACHER].head
        classifier = None if head is None else seen[TEACHER].module(head)
        if not isinstance(classifier, nn.Linear):
            raise ValueError(
                "`ReusedClassifier`: the teacher's logits are not those of one Linear, which could be reused."
            )
        ours = _values(seen[STUDENT], [str(layers[STUDENT])], example)[0]
        theirs, entered = _values(seen[TEACHER], [str(layers[TEACHER]), f"input:{head}"], example)
        if theirs.dim() != 4 or ours.dim() != 4:
            shapes = f"{list(ours.shape)} and {list(theirs.shape)}"
            raise ValueError(f"`ReusedClassifier`: the layers must give maps [B, C, H, W], got {shapes}.")
        pooled = theirs.mean((2, 3))
        if pooled.shape != entered.shape or not torch.allclose(pooled, entered, rtol=_CLOSE, atol=_CLOSE):
            raise ValueError(
                f"`ReusedClassifier`: the teacher's classifier '{head}' does not read the mean of its layer "
                f"'{layers[TEACHER]}' over positions: name the layer whose mean it reads by `teacher_layer`."
            )
        smaller = tuple(min(each) for each in zip(ours.shape[2:], theirs.shape[2:], strict=True))
        made = cls(
            student,
            layer=str(layers[STUDENT]),
            channels=ours.shape[1],
            teacher_channels=theirs.shape[1],
            classes=classifier.out_features,
            bias=classifier.bias is not None,
            factor=factor,
            size=None if smaller == tuple(ours.shape[2:]) else (smaller[0], smaller[1]),
        )
        made.head.load_state_dict(classifier.state_dict())
        made.projector.to(next(student.parameters()))
        made.head.to(next(student.parameters()))
        made._freeze_what_is_behind(inputs_of(example, STUDENT, STUDENT))
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.projector(self._map(*args, **kwargs)).mean((2, 3)))
        return logits

    def _map(self, *args: Any, **kwargs: Any) -> Tensor:
        caught: list[Tensor] = []
        # A copy: what follows in the student may write into its map.
        hook = self.student.get_submodule(self.layer).register_forward_hook(
            lambda *call: caught.append(call[2].clone())
        )
        try:
            self.student(*args, **kwargs)
        finally:
            hook.remove()
        return caught[-1] if self.size is None else F.adaptive_avg_pool2d(caught[-1], self.size)

    def _freeze_what_is_behind(self, inputs: Any) -> None:
        """Freeze the student's parameters that the logits do not depend on."""
        trained = [each for each in self.student.parameters() if each.requires_grad]
        if trained:
            with evaluating(self), torch.enable_grad():
                found = torch.autograd.grad(call(self, inputs).sum(), trained, allow_unused=True)
            for parameter, gradient in zip(trained, found, strict=True):
                parameter.requires_grad_(gradient is not None)


def _values(taps: Taps, paths: list[str], example: Any) -> list[Tensor]:
    taps.require(paths)
    with evaluating(taps.model), torch.no_grad():
        _, values = taps.read(inputs_of(example, taps.name, taps.name))
    return [values[path] for path in paths]

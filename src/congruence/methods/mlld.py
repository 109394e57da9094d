"""Multi-level logit distillation: instances, samples and classes, at several temperatures, over two views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.devices import to_device
from congruence.core.numerics import as_float64, float32_island
from congruence.losses.ce import cross_entropy_loss
from congruence.losses.kd import distillation_loss
from congruence.losses.mlld import batch_correlation_rows, class_correlation_rows
from congruence.methods.method import Method, Needs, Probe, Signals


class MultiLevelLogits(Method):
    """Matches the teacher's logits at three levels, each summed over temperatures T and over a weak and a strong view.

    "ce" = CE(weak) + CE(strong), "instance" = Σ_T T² KL, "class" = Σ_T (1/C) ‖P_tᵀ P_t − P_sᵀ P_s‖²_F and
    "batch" = Σ_T (1/B) ‖P_t P_tᵀ − P_s P_sᵀ‖²_F with P = softmax(z / T); each is a mean over rows.
    For the weak view, the mean is taken only over rows on which the teacher is uncertain: samples whose largest
    probability (T = 1) is at or below the median of the batch ("instance", "batch"), and classes whose summed
    probability is at or below the median of the classes ("class"). For the strong view, "batch" uses these samples and
    the other parts use all rows.

    Shape:
        logits [B, C] of two views, labels [B]; four losses of shape [].

    Args:
        temperatures: the values of T > 0, at least one.
        views: the names of the weakly and the strongly augmented view. `congruence.data` makes "weak" with the usual
            training augmentation; "strong" adds changes of brightness, contrast and colours and a cut-out square.

    Raises:
        ValueError: for temperatures or views that are not allowed.

    Example:
        >>> MultiLevelLogits().needs.views
        ('weak', 'strong')

    Reference:
        Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.

    Deviations:
        The released code multiplies a batch's loss, a single number, by the mean of the mask (about ½), which selects
        nothing; here rows are selected. It reads the weak logits for the strong view at T = 2 and 6, and does not
        return the strong view's "class" and "batch"; here each view has its own and all count. The places where it
        masks (all of the weak view, "batch" of the strong one) are kept. Its strong view uses a learned augmentation
        policy, and moves the running statistics of batch norms; here it leaves them alone, for the images that a
        student is measured on are not distorted.
    """

    needs = Needs(roles=("logits",), views=("weak", "strong"), distorted=("strong",), labels=True)

    def __init__(
        self, *, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0), views: Sequence[str] = ("weak", "strong")
    ) -> None:
        super().__init__()
        several = isinstance(temperatures, list | tuple) and len(temperatures) > 0
        if not several or not all(check.POSITIVE.accepts(value) for value in temperatures):
            check.fail("MultiLevelLogits", "temperatures", "a list of numbers > 0", repr(temperatures))
        named = not isinstance(views, str) and all(isinstance(view, str) and view.isidentifier() for view in views)
        if not named or len(set(views)) != 2 or len(views) != 2:
            check.fail("MultiLevelLogits", "views", "the names of two views, the weak one first", repr(views))
        self.temperatures = tuple(temperatures)
        self.needs = replace(self.needs, views=tuple(views), distorted=tuple(views)[1:])

    def build(self, probe: Probe) -> None:
        """Check that both networks have the same number of classes, and more than one."""
        student, teacher = (probe.shapes[model, "logits"][0][-1] for model in ("student", "teacher"))
        if student != teacher:
            raise ValueError(
                f"`MultiLevelLogits` compares logits of the same classes, got {student} of the student and {teacher} "
                "of the teacher."
            )
        check.several_classes("MultiLevelLogits", logits=torch.empty(probe.shapes["student", "logits"][0]))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the four losses of the batch."""
        labels = signals.labels
        if labels is None:
            raise ValueError("`MultiLevelLogits` needs labels, the batch has none.")
        (weak, weak_teacher), (strong, strong_teacher) = (
            (signals.one("student", "logits", view), signals.one("teacher", "logits", view))
            for view in self.needs.views
        )
        probabilities = as_float64(weak_teacher).softmax(1)
        samples, classes = _low(probabilities.amax(1)), _low(probabilities.sum(0))
        weak_rows = _rows(weak, weak_teacher, self.temperatures)
        strong_rows = _rows(strong, strong_teacher, self.temperatures)
        return {
            "ce": cross_entropy_loss(weak, labels) + cross_entropy_loss(strong, labels),
            "instance": _mean(weak_rows.instance, samples) + strong_rows.instance.mean(),
            "class": _mean(weak_rows.by_class, classes) + strong_rows.by_class.mean(),
            "batch": _mean(weak_rows.by_sample, samples) + _mean(strong_rows.by_sample, samples),
        }


class _Rows(NamedTuple):
    """The loss of each row of a view, summed over the temperatures: [B], [C] and [B]."""

    instance: Tensor
    by_class: Tensor
    by_sample: Tensor


@float32_island
def _rows(student: Tensor, teacher: Tensor, temperatures: tuple[float, ...]) -> _Rows:
    scales = to_device(torch.tensor(temperatures, dtype=student.dtype), student.device)[:, None, None]
    student, teacher = student / scales, teacher / scales  # all temperatures at once [T, B, C]
    flat = distillation_loss(student.flatten(0, 1), teacher.flatten(0, 1), temperature=1.0, reduction="none")
    instance = (scales[:, :, 0].square() * flat.view(student.shape[:2])).sum(0)
    student, teacher = student.softmax(-1), teacher.softmax(-1)
    by_class, by_sample = class_correlation_rows(student, teacher), batch_correlation_rows(student, teacher)
    return _Rows(instance, by_class.sum(0), by_sample.sum(0))


def _mean(rows: Tensor, chosen: Tensor) -> Tensor:
    """Average the chosen rows."""
    return rows.where(chosen, torch.zeros_like(rows)).sum() / chosen.sum()


def _low(confidences: Tensor) -> Tensor:
    """Return which values are at or below their median: about half of them, at least one."""
    return confidences <= confidences.median()

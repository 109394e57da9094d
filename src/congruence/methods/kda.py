"""Kernel transfer by landmarks that follow the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import widen
from congruence.core.rng import keyed_generator
from congruence.data.datasets.facts import DataFacts
from congruence.losses.kda import CHECKS as LOSS_CHECKS
from congruence.losses.kda import KernelTransferLoss, Scale
from congruence.methods.landmarks import LandmarkBank, Weighting
from congruence.methods.method import Method, Needs, Probe, Signals

Landmarks = Literal["centres", "clusters", "random", "onehot"]
Transfer = Literal["features", "logits", "combo"]
SIDES = ("student", "teacher")
ROLES: Mapping[str, tuple[str, ...]] = {
    "features": ("features",),
    "logits": ("logits",),
    "combo": ("features", "logits"),
}
CHECKS: Mapping[str, check.Constraint] = {
    "landmarks": check.Choice(("centres", "clusters", "random", "onehot")),
    "per_class": check.COUNT,
    "count": check.Real(low=1, closed="low", integer=True, optional=True),
    "weighting": check.Choice(("none", "teacher", "own")),
    "transfer": check.Choice(tuple(ROLES)),
    "warmup": check.Real(low=0, closed="low", integer=True),
    "seed": check.Real(low=0, closed="low", integer=True),
    **LOSS_CHECKS,
}


class KernelTransfer(Method):
    """`kernel_transfer_loss` with a `LandmarkBank` for every layer; its values are summed over the layers.

    There are no landmarks before the end of the first epoch: until then, and for `warmup` epochs, the loss is 0 while
    the bank already collects rows. (`start_epoch` of a `Term` would keep the bank from collecting them.)

    Args:
        landmarks: "centres": class centres, which need labels (rows labelled -1 only count in the loss); "clusters":
            found by K-means in the teacher's space, without labels; "random": random samples, which need the index;
            "onehot", for logits: the identity, which makes the loss a matching of logits.
        per_class: centres of each class, found by K-means if there are several.
        count: how many clusters or random samples; None: as many as there are classes.
        weighting: "teacher" compares C W_T^{+1/2} on both sides, "own" each side with its own W.
        transfer: the input of the last Linear ("features"), its output ("logits"), or both ("combo").  `student_layer`
            and `teacher_layer` of the `Term` may name other layers, earlier ones included.
        warmup: H, epochs without the loss.
        normalize: see `kernel_transfer_loss`; the bank then averages rows of length 1. False compares features as they
            are, as the paper does; landmarks and features then rescale each other from epoch to epoch.
        scale: see `kernel_transfer_loss`; "mean" is over the existing landmarks.
        seed: seed of random samples and K-means.

    Raises:
        ValueError: for a hyper-parameter out of its range, or one that does not apply together with the others.

    Example:
        >>> KernelTransfer(landmarks="clusters", count=50).needs.labels  # no labels are needed
        False

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, Alg. 1.

    Deviations:
        Several centres of a class are updated from epoch to epoch instead of being found again (see `LandmarkBank`), so
        that no epoch's features are stored. Rows have length 1 by default, unlike the paper's (`normalize=False`),
        since students learn more with them (the guide on balanced weights shows how much). The default weight of 1 is
        meant for raw features and "mean"; the authors' released code, like the recipes of its benchmarks, has
        "teacher_norm" and 0.04, which equals a weight of 0.04 √(B·M)/rms(C_t) with "mean". The kernel of raw logits is
        larger than that of features: 0.1 did better for "combo" on digits.
    """

    needs = Needs(labels=True, facts=True, epochs=True)
    chosen: Tensor

    def __init__(
        self,
        *,
        landmarks: Landmarks = "centres",
        per_class: int = 1,
        count: int | None = None,
        weighting: Weighting = "none",
        transfer: Transfer = "features",
        warmup: int = 5,
        normalize: bool = True,
        scale: Scale = "mean",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = "KernelTransfer"
        check.hyperparameters(
            name,
            CHECKS,
            landmarks=landmarks,
            per_class=per_class,
            count=count,
            weighting=weighting,
            transfer=transfer,
            warmup=warmup,
            normalize=normalize,
            scale=scale,
            seed=seed,
        )
        counted = landmarks in ("clusters", "random")
        if per_class > 1 and landmarks != "centres":
            check.fail(name, "per_class", "1 for landmarks other than 'centres'", per_class)
        if count is not None and not counted:
            check.fail(name, "count", f"None for the landmarks '{landmarks}'", count)
        self.landmarks: Landmarks = landmarks
        self.per_class, self.count, self.warmup, self.seed = per_class, count, warmup, seed
        self.weighting: Weighting = weighting
        self.criterion = KernelTransferLoss(normalize=normalize, scale=scale)
        self.needs = Needs(
            roles=ROLES[transfer],
            labels=landmarks == "centres",
            index=landmarks == "random",
            facts=landmarks in ("centres", "random") or (counted and count is None),
            epochs=landmarks != "onehot",
        )
        self.banks = nn.ModuleList()

    def build(self, probe: Probe) -> None:
        """Make the banks."""
        if self.landmarks == "random":
            self.register_buffer("chosen", self._choose(probe.known_facts()))
        self.banks = nn.ModuleList()
        for role in self.needs.roles:
            for student, teacher in probe.pairs(role):
                self.banks.append(self._bank(probe, student[1], teacher[1]))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Sum the loss over the layers; 0 in the warm-up."""
        values = []
        for bank, student, teacher in self._layers(signals):
            if signals.clock.epoch < self.warmup:
                values.append(widen(student[:0]).sum())
                continue
            value: Tensor = self.criterion(student, teacher, *bank.landmarks())
            values.append(value / bank.share() if self.criterion.scale == "mean" else value)
        return {"loss": torch.stack(values).sum()}

    def update(self, signals: Signals) -> None:
        """Add the rows to the running means."""
        if self.landmarks == "onehot":
            return
        for bank, student, teacher in self._layers(signals):
            bank.update(student, teacher, self._groups(signals, student, bank))

    def end_epoch(self) -> None:
        """Swap the epoch's means in."""
        if self.landmarks != "onehot":
            for bank in self.banks:
                cast(LandmarkBank, bank).end_epoch()

    def _bank(self, probe: Probe, student: int, teacher: int) -> LandmarkBank:
        """Make the bank of one layer."""
        if self.landmarks == "onehot":
            if student != teacher:
                raise ValueError(
                    f"`KernelTransfer`: one-hot landmarks need layers of equal width on both sides, such as logits, "
                    f"got "
                    f"{student} of the student and {teacher} of the teacher."
                )
            bank = LandmarkBank(student, teacher, student, normalize=self.criterion.normalize, weighting=self.weighting)
            bank.fix(torch.eye(student), torch.eye(teacher))
            return bank
        total = self._count(probe.facts)
        groups, per_group = {
            "centres": (total, self.per_class),
            "clusters": (1, total),
            "random": (total, 1),
        }[self.landmarks]
        return LandmarkBank(
            student,
            teacher,
            groups,
            per_group=per_group,
            normalize=self.criterion.normalize,
            weighting=self.weighting,
            seed=self.seed,
        )

    def _count(self, facts: DataFacts | None) -> int:
        """Return the number of classes, or the count that was given instead."""
        if self.count is not None:
            return self.count
        if facts is None or facts.classes is None:
            instead = "" if self.landmarks == "centres" else " Give `count`."
            raise ValueError(f"`KernelTransfer`: the dataset does not say how many classes it has.{instead}")
        return facts.classes

    def _choose(self, facts: DataFacts) -> Tensor:
        """Return the positions of the random samples, ascending."""
        count = self._count(facts)
        if count > facts.size:
            check.fail("KernelTransfer", "count", f"at most the number of samples ({facts.size})", count)
        return torch.randperm(facts.size, generator=keyed_generator(self.seed))[:count].sort().values

    def _layers(self, signals: Signals) -> Iterator[tuple[LandmarkBank, Tensor, Tensor]]:
        """Yield bank, student's rows and teacher's rows of every layer."""
        student, teacher = ([t for role in self.needs.roles for t in signals.layers(side, role)] for side in SIDES)
        for bank, ours, theirs in zip(self.banks, student, teacher, strict=True):
            yield cast(LandmarkBank, bank), ours, theirs

    def _groups(self, signals: Signals, rows: Tensor, bank: LandmarkBank) -> Tensor:
        """Return the group of each row, -1 for none."""
        if self.landmarks == "centres" and signals.labels is not None:
            check.class_labels("KernelTransfer", bank.groups, unlabelled=True, labels=signals.labels)
            return signals.labels
        if self.landmarks == "random" and signals.index is not None:
            position = torch.searchsorted(self.chosen, signals.index).clamp(max=len(self.chosen) - 1)
            return torch.where(self.chosen[position] == signals.index, position, -1)
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)

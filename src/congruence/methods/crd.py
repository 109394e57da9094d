"""Contrastive representation distillation with its memory: both networks' embeddings of every sample of the data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.host_values import extremes
from congruence.core.numerics import float32_island, unit, widen
from congruence.core.rng import keyed_generator, keyed_uniform
from congruence.data.datasets.facts import DataFacts
from congruence.losses.crd import bank_scores, contrast, log_normalizer
from congruence.methods.method import Method, Needs, Probe, Signals

LOG = logging.getLogger("congruence")
SIDES = ("student", "teacher")
BankDtype = Literal["float16", "bfloat16"]
CHECKS: Mapping[str, check.Constraint] = {
    "negatives": check.COUNT,
    "shared_negatives": check.Flag(),
    "bank_dtype": check.Choice(("float16", "bfloat16"), optional=True),
    "embedding_dim": check.COUNT,
    "temperature": check.POSITIVE,
    "momentum": check.Real(low=0, high=1, closed="low"),
    "seed": check.Real(low=0, closed="low", integer=True),
}


class ContrastiveRepresentation(Method):
    """`contrastive_representation_loss` with projections of both networks, banks, and negatives of other classes.

    After the loss, a sample's row of a bank becomes unit(momentum · row + (1 − momentum) · e). A sample that occurs
    several times in a batch counts once, with its mean e. Z is computed on the first batch and kept.
    Negatives are drawn in every step as a function of (seed, step, sample), so a resumed run and all ranks draw the
    same ones. A sample without a label is treated as a class of its own, in the batch and among the negatives. If fewer
    than `negatives` samples lie outside the largest class, K is that number (the log reports it).
    In evaluation mode the index belongs to other data: a sample's positive is then its own row of the other network,
    and the negatives are drawn from the whole bank.

    Shape:
        features [B, D] of any widths, index [B]; a loss of shape [].

    Args:
        negatives: K, the number of negatives of every sample.
        shared_negatives: draw one set of K for the whole batch instead of B sets, which is faster. For each sample,
            negatives of its own class are left out and the others counted K/(number left) times, which keeps the
            expectation. A sample with none left has only its positive.
        bank_dtype: "float16" or "bfloat16" halves the banks' memory; by default they have the parameters' dtype.
        embedding_dim: D of both projections.
        temperature: τ of the loss.
        momentum: momentum of the banks, in [0, 1).
        seed: seed of the banks' initial rows and of the negatives.

    Raises:
        ValueError: for a hyper-parameter out of its range, data of one class, or an index outside the data.

    Reference:
        Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, sec. 3, and the authors' code.

    Deviations:
        The authors draw a sample's negatives without replacement, which takes a pass over all samples of other classes;
        here they are drawn with replacement. Their banks start from uniform rows of length about 1, here from unit
        rows.
    """

    needs = Needs(index=True, facts=True, scope="sample", memory=True)
    student_bank: Tensor
    teacher_bank: Tensor
    log_normalizers: Tensor
    draws: Tensor
    classes: Tensor
    order: Tensor
    first: Tensor
    after: Tensor

    def __init__(
        self,
        *,
        negatives: int = 16384,
        shared_negatives: bool = False,
        bank_dtype: BankDtype | None = None,
        embedding_dim: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check.hyperparameters(
            "ContrastiveRepresentation",
            CHECKS,
            negatives=negatives,
            shared_negatives=shared_negatives,
            bank_dtype=bank_dtype,
            embedding_dim=embedding_dim,
            temperature=temperature,
            momentum=momentum,
            seed=seed,
        )
        self.negatives, self.shared_negatives, self.embedding_dim = negatives, shared_negatives, embedding_dim
        self.temperature, self.momentum, self.seed = temperature, momentum, seed
        self.bank_dtype: torch.dtype | None = getattr(torch, bank_dtype) if bank_dtype else None
        self.projections = nn.ModuleDict()
        self._normalized = False

    def build(self, probe: Probe) -> None:
        """Make the projections, the banks and the order of the samples by class."""
        for side in SIDES:
            layers = len(probe.shapes[side, "features"])
            if layers != 1:
                raise ValueError(
                    f"`ContrastiveRepresentation` needs one layer on each side, got {layers} of the {side}."
                )
        facts = probe.known_facts()
        classes = _classes(facts)
        ordered, order = classes.sort(stable=True)
        counts = torch.unique_consecutive(ordered, return_counts=True)[1]
        others = facts.size - int(counts.max())
        if others < 1:
            raise ValueError("`ContrastiveRepresentation`: all samples are of one class: there are no negatives.")
        self.count = min(self.negatives, others)
        # `order` holds the samples class by class, sample i's own class at order[first[i]:after[i]]. These four follow
        # from the facts, so no checkpoint stores them.
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("first", torch.searchsorted(ordered, classes), persistent=False)
        self.register_buffer("after", torch.searchsorted(ordered, classes, right=True), persistent=False)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.register_buffer("log_normalizers", torch.full((2,), -torch.inf))  # log Z of each side; -∞: none yet
        for part, side in enumerate(SIDES):
            rows = torch.randn(facts.size, self.embedding_dim, generator=keyed_generator(self.seed, part))
            self.register_buffer(f"{side}_bank", unit(rows).to(self.bank_dtype or rows.dtype))
            self.projections[side] = nn.Linear(probe.width(side), self.embedding_dim)
        self._log_size(facts.size)

    def _log_size(self, size: int) -> None:
        held = 2 * self.student_bank.numel() * self.student_bank.element_size() / 2**20
        fewer = f" ({self.negatives} were requested, but only this many are of other classes)"
        LOG.info(
            "CRD: two banks of %d × %d, %.1f MiB; %d negatives a sample%s.",
            size,
            self.embedding_dim,
            held,
            self.count,
            fewer if self.count < self.negatives else "",
        )

    def embed(self, signals: Signals) -> Signals:
        """Project both networks' rows to unit embeddings."""
        dtype = next(self.projections.parameters()).dtype
        rows = {side: self.projections[side](signals.one(side).to(dtype)) for side in SIDES}
        return signals.replace({(side, "main", "features"): (unit(widen(e)),) for side, e in rows.items()})

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the loss, with this batch's Z if it is the first batch."""
        scores, weights = self._scores(signals)
        log_z = self.log_normalizers
        if not self._normalized:
            # The device selects one of both: reading whether Z is stored would wait for it.
            log_z = torch.where(log_z.isfinite(), log_z, self._normalizers(signals.whole))
        values = [
            contrast(each - of_side, len(self.classes), weights)
            for each, of_side in zip(scores, log_z.to(scores[0].dtype), strict=True)
        ]
        return {"loss": torch.stack(values).sum()}

    @float32_island
    def update(self, signals: Signals) -> None:
        """Keep Z of the first batch, and move the banks towards the batch's embeddings."""
        if not (self._normalized or self.log_normalizers.isfinite().all()):
            # `loss` writes nothing: its Z is made again, before banks and draws move, from the same rows and negatives.
            # Z then stays fixed, since the objective would change with a Z that followed the networks.
            self.log_normalizers.copy_(self._normalizers(signals))
        self._normalized = True  # from now on the device is not read
        index = _index(signals)
        # If a sample is in several rows, each row writes the mean of all, so the bank does not depend on the order.
        same = index[:, None] == index[None, :]
        for side, bank in zip(SIDES, (self.student_bank, self.teacher_bank), strict=True):
            rows = signals.one(side)
            mean = same.to(rows.dtype) @ rows / same.sum(1, keepdim=True)
            # A row may be an epoch old when it is read, and an embedding comes from one augmented view. With momentum,
            # a row is a mean of several views, weighted towards the newest. It is normalised so that ⟨m, e⟩ is a
            # cosine.
            moved = self.momentum * bank[index].to(rows.dtype) + (1 - self.momentum) * mean
            bank[index] = unit(moved).to(bank.dtype)
        self.draws += 1

    @torch.no_grad()
    def _normalizers(self, signals: Signals) -> Tensor:
        """Return log Z of both sides [2], from a batch's rows and negatives."""
        scores, weights = self._scores(signals)
        return torch.stack([log_normalizer(each, len(self.classes), weights) for each in scores])

    @float32_island
    def _scores(self, signals: Signals) -> tuple[list[Tensor], Tensor | None]:
        """Return ⟨m, e⟩/τ [B, 1 + K] of student and teacher, and how often each negative counts (None: once)."""
        index = _index(signals)
        if self.training and (wrong := [k for k in extremes(index) if not 0 <= k < len(self.classes)]):
            check.fail("ContrastiveRepresentation", "index", f"positions in data of {len(self.classes)}", wrong[0])
        sides = [signals.one(side) for side in SIDES]
        negatives = self._shared() if self.shared_negatives else self._draw(index)
        scores = []
        for rows, other, bank in zip(sides, sides[::-1], (self.teacher_bank, self.student_bank), strict=True):
            positive = bank[index].to(rows.dtype) if self.training else other.detach()
            near = (positive * rows).sum(1, keepdim=True)
            if negatives.dim() == 1:
                far = rows @ bank[negatives].to(rows.dtype).T
            else:
                far = bank_scores(rows, bank, negatives)
            scores.append(torch.cat([near, far], 1) / self.temperature)
        return scores, self._weights(index, negatives, sides[0].dtype) if self.shared_negatives else None

    def _draw(self, index: Tensor) -> Tensor:
        """Draw negatives [B, K] from other classes.

        A draw is a position among the n − |class| others, ordered by class; positions from the start of the sample's
        own class on are shifted by its size. So no draw is rejected, and every sample uses the same number of random
        numbers.
        """
        uniform = keyed_uniform(self.seed, self.draws, index, self.count)
        if not self.training:
            return self.order[(uniform * len(self.order)).long()]
        first, after = self.first[index, None], self.after[index, None]
        among_others = (uniform * (len(self.order) - (after - first))).long()
        return self.order[torch.where(among_others < first, among_others, among_others + after - first)]

    def _shared(self) -> Tensor:
        """Draw one set [K] from all samples."""
        key = torch.zeros(1, dtype=torch.int64, device=self.order.device)
        return (keyed_uniform(self.seed, self.draws, key, self.count, stream=1)[0] * len(self.order)).long()

    def _weights(self, index: Tensor, negatives: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the weight of each shared negative for each sample: 0 for its own class, with sum K."""
        if not self.training:
            return torch.ones(len(index), self.count, dtype=dtype, device=index.device)
        others = self.classes[negatives][None, :] != self.classes[index][:, None]
        return others * (self.count / others.sum(1, keepdim=True).clamp(min=1)).to(dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._normalized = False  # the state may be from before the first batch, so the buffer must be read again

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ContrastiveRepresentation:
        """Keep the banks in the requested dtype, and Z in at least float32."""
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            if self.bank_dtype is not None and name.endswith("_bank"):
                self._buffers[name] = buffer.to(self.bank_dtype)
            elif name == "log_normalizers":
                self._buffers[name] = widen(buffer)
        return self


def _classes(facts: DataFacts) -> Tensor:
    """Return a class for each sample; each unlabelled sample gets a class of its own."""
    alone = torch.arange(facts.size)
    if facts.labels is None:
        return alone
    labels = facts.labels.cpu()
    return torch.where(labels >= 0, labels, int(labels.max()) + 1 + alone)


def _index(signals: Signals) -> Tensor:
    index, rows = signals.index, len(signals.one("student"))
    if index is None:
        raise ValueError("`ContrastiveRepresentation` needs the samples' index, the batch has none.")
    if index.dtype != torch.int64 or index.shape != (rows,):
        check.fail("ContrastiveRepresentation", "index", f"int64 [{rows}]", f"{index.dtype} {check.shape(index)}")
    return index

import math

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import IntraClassContrastiveLoss, intra_class_contrastive_loss
from congruence.losses.intra_class import CHECKS

CLASSES = 3
GRADIENTS = {"f": 0, "f_pos": 1}
GOLDENS = tuple(
    Golden(
        f"intraclass_{rows}_delta{delta}_{over}_A",
        {"margin_threshold": delta, "normalize": rows == "l2norm", "reduction": reduction},
        ("in_f", "in_f_pos", "in_logits", "in_y"),
        GRADIENTS,
    )
    for rows in ("l2norm", "raw")
    for delta in (0.0, 0.6, 1.0)
    for over, reduction in (("gated", "gated_mean"), ("overB", "mean"))
)


def batch(generator, rows):
    """Embeddings of two views, logits that are mostly right, and labels of which every seventh is missing."""
    anchor, positive = (torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(rows) % 2
    logits = torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), labels] += 2
    labels[1::7] = -1
    return anchor, positive, logits, labels


def reference(anchor, positive, logits, labels, *, margin_threshold, temperature=1.0, normalize=True, reduction="mean"):
    def unit(row):
        length = math.sqrt(sum(v * v for v in row))
        return [v / length for v in row] if normalize else row

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / temperature

    anchor, positive = ([unit(row) for row in rows.tolist()] for rows in (anchor, positive))
    total, gated = 0.0, 0
    for i, label in enumerate(labels.tolist()):
        exponentials = [math.exp(value) for value in logits[i].tolist()]
        shares = [value / sum(exponentials) for value in exponentials]
        if label < 0 or shares[label] - max(s for c, s in enumerate(shares) if c != label) <= margin_threshold:
            continue
        gated += 1
        drawn = math.exp(dot(anchor[i], positive[i]))
        pushed = sum(math.exp(dot(anchor[i], anchor[j])) for j in range(len(anchor)) if j != i and labels[j] == label)
        total += -math.log(drawn / (drawn + pushed))
    counted = len(anchor) if reduction == "mean" else max(gated, 1)
    return torch.tensor(total / counted, dtype=torch.float64)


class TestIntraClass(LossTester):
    case = LossCase(
        function=intra_class_contrastive_loss,
        module=IntraClassContrastiveLoss,
        checks=CHECKS,
        inputs=batch,
        reference=reference,
        settings=(
            {"margin_threshold": 0.0},
            {"margin_threshold": -1.0, "temperature": 0.3},
            {"margin_threshold": 0.2, "normalize": False, "reduction": "gated_mean"},
        ),
        required={"margin_threshold": 0.0},
        goldens=GOLDENS,
        differentiable=(0, 1),
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4, 5), torch.zeros(4).long()),
                "got `anchor` [4, 3], `positive` [4, 2].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, 5), torch.zeros(3).long()),
                "got `anchor` [4, 3], `logits` [4, 5], `labels` [3].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])),
                "`labels` must be class labels in [0, 2) or negative where there is none, got 2.",
            ),
            (
                (torch.zeros(4), torch.zeros(4), torch.zeros(4, 2), torch.zeros(4).long()),
                "`anchor` must be a non-empty 2-D tensor, got shape [4].",
            ),
        ),
    )

    def test_student_equal_to_the_teacher(self):
        """There is no teacher; what gives 0 is a class of one sample, or no sample above the threshold."""
        anchor, positive, logits, _ = leaves(batch(seeded(3), 3))
        for labels, threshold in ((torch.arange(3), -1.0), (torch.zeros(3).long(), 1.0), (torch.full((3,), -1), -1.0)):
            value = intra_class_contrastive_loss(anchor, positive, logits, labels, margin_threshold=threshold)
            assert value.item() == 0.0
            assert all(not g.any() for g in gradients(value, (anchor, positive, logits)))

    def test_goldens_gate_and_values_by_sample(self):
        for case in GOLDENS:
            stored = golden.arrays(case.name)
            inputs = [stored[name] for name in case.inputs]
            inputs = [t.double() if t.is_floating_point() else t for t in inputs]
            gated = int(stored["out_gate"].sum())
            assert intra_class_contrastive_loss(*inputs, **case.settings).item() == pytest.approx(
                stored["out_per_sample"][stored["out_gate"]].sum().item()
                / (8 if case.settings["reduction"] == "mean" else max(gated, 1)),
                rel=1e-10,
            )

    def test_the_margin_is_strict_and_constant(self):
        anchor, positive, _, _ = batch(seeded(0), 4)
        labels = torch.zeros(4).long()
        even = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
        assert intra_class_contrastive_loss(anchor, positive, even, labels, margin_threshold=0.0).item() == 0.0
        value = intra_class_contrastive_loss(anchor.requires_grad_(), positive, even, labels, margin_threshold=-0.01)
        value.backward()
        assert value.item() > 0
        assert even.grad is None

    def test_a_gated_anchor_alone_in_its_class_counts(self):
        anchor, positive, _, _ = batch(seeded(0), 4)
        alone = torch.tensor([0, 0, 1, 2])
        sure = torch.nn.functional.one_hot(alone, CLASSES).double() * 9
        for reduction in ("mean", "gated_mean"):
            settings = {"margin_threshold": 0.5, "reduction": reduction}
            both = intra_class_contrastive_loss(anchor[:2], positive[:2], sure[:2], alone[:2], **settings)
            four = intra_class_contrastive_loss(anchor, positive, sure, alone, **settings)
            assert four.item() == pytest.approx(both.item() / 2, rel=1e-12)

    def test_a_mean_over_the_batch_counts_those_that_are_not_sure(self):
        """Three of 64: the papers' mean is a twenty-first of that over the sure."""
        anchor, positive = (torch.randn(64, 3, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
        labels, logits = torch.zeros(64).long(), torch.zeros(64, 2, dtype=torch.float64)
        logits[:3, 0] = 9.0
        over_batch = intra_class_contrastive_loss(anchor, positive, logits, labels, margin_threshold=0.5)
        gated = intra_class_contrastive_loss(
            anchor, positive, logits, labels, margin_threshold=0.5, reduction="gated_mean"
        )
        assert gated.item() > 1
        assert over_batch.item() == pytest.approx(gated.item() * 3 / 64, rel=1e-12)

    def test_negatives_carry_gradient_below_the_threshold_too(self):
        anchor, positive, logits, labels = batch(seeded(0), 2)
        labels = torch.zeros(2).long()
        logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0]], dtype=torch.float64)
        value = intra_class_contrastive_loss(anchor.requires_grad_(), positive, logits, labels, margin_threshold=0.5)
        value.backward()
        assert anchor.grad[1].abs().max() > 0

    def test_a_descent_spreads_the_class_out(self):
        anchor = (torch.ones(6, 4) + 0.1 * torch.randn(6, 4, generator=seeded(0))).requires_grad_()
        positive, sure, labels = anchor.detach().clone(), torch.tensor([[9.0, 0.0]]).repeat(6, 1), torch.zeros(6).long()
        before = torch.cosine_similarity(anchor[:, None], anchor[None], dim=-1).mean().item()
        value = intra_class_contrastive_loss(anchor, positive, sure, labels, margin_threshold=0.5)
        (gradient,) = torch.autograd.grad(value, anchor)
        after = anchor.detach() - 5 * gradient
        assert torch.cosine_similarity(after[:, None], after[None], dim=-1).mean().item() < before

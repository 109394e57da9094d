import math

import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, seeded, usual_extremes
from torch.nn import functional as F

from congruence.losses import ContrastiveRepresentationLoss, contrastive_representation_loss
from congruence.losses.crd import CHECKS, bank_scores, contrast, log_normalizer

TOTAL, NEGATIVES = 9, 4
GIVEN = {"normalizers": (40.0, 65.0)}


def unit_rows(generator, rows, width=3):
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64))


def arguments(generator, rows):
    banks = (unit_rows(generator, TOTAL), unit_rows(generator, TOTAL))
    index = torch.randint(TOTAL, (rows, 1 + NEGATIVES), generator=generator)
    return unit_rows(generator, rows), unit_rows(generator, rows), *banks, index


def reference(student, teacher, student_bank, teacher_bank, index, *, temperature=0.07, normalizers=None):
    total, eps, loss = len(student_bank), 1e-7, 0.0
    for side, (rows, bank) in enumerate(((student, teacher_bank), (teacher, student_bank))):
        x = []
        for row, chosen in zip(rows.tolist(), index.tolist(), strict=True):
            dots = [sum(a * b for a, b in zip(bank[k].tolist(), row, strict=True)) for k in chosen]
            x.append([math.exp(dot / temperature) for dot in dots])
        z = sum(map(sum, x)) / sum(map(len, x)) * total if normalizers is None else normalizers[side]
        for values in x:
            noise = (len(values) - 1) / total
            positive, *others = (value / z for value in values)
            loss -= math.log(positive / (positive + noise + eps)) / len(x)
            loss -= sum(math.log(noise / (other + noise + eps)) for other in others) / len(x)
    return torch.tensor(loss, dtype=torch.float64)


def extremes(case):
    """The usual ones, with an index that stays within banks of fewer rows."""
    return {label: (*tensors[:4], tensors[4] % len(tensors[2])) for label, tensors in usual_extremes(case).items()}


class TestCrd(LossTester):
    case = LossCase(
        function=contrastive_representation_loss,
        module=ContrastiveRepresentationLoss,
        checks=CHECKS,
        inputs=arguments,
        reference=reference,
        settings=(GIVEN, {**GIVEN, "temperature": 0.5}),
        no_golden="its golden case holds two steps of the whole method: below, and in tests/methods/test_crd.py",
        zero_at_equal=(),
        differentiable=(0, 1),
        extremes=extremes,
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(9, 3), torch.zeros(9, 3), torch.zeros(4, 2).long()),
                "got `student` [4, 3], `teacher` [4, 2].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(9, 3), torch.zeros(8, 3), torch.zeros(4, 2).long()),
                "got `student_bank` [9, 3], `teacher_bank` [8, 3].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(9, 5), torch.zeros(9, 5), torch.zeros(4, 2).long()),
                "got `student` [4, 3], `student_bank` [9, 5].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(9, 3), torch.zeros(9, 3), torch.zeros(4, 2)),
                "`contrast_index` must be an int64 tensor [B, 1 + K] with K >= 1, got torch.float32 of shape [4, 2].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(9, 3), torch.zeros(9, 3), torch.zeros(5, 2).long()),
                "got `student` [4, 3], `contrast_index` [5, 2].",
            ),
            (
                (
                    torch.zeros(4, 3),
                    torch.zeros(4, 3),
                    torch.zeros(9, 3),
                    torch.zeros(9, 3),
                    torch.full((4, 2), 9),
                ),
                "`contrast_index` must be rows of banks of 9, got 9.",
            ),
        ),
    )

    @pytest.mark.parametrize("temperature", [0.07, 0.5])
    def test_the_first_batch_gives_its_own_constants(self, temperature):
        tensors = arguments(seeded(0), 6)
        value = contrastive_representation_loss(*tensors, temperature=temperature)
        torch.testing.assert_close(value, reference(*tensors, temperature=temperature), rtol=1e-10, atol=0)

    def test_the_constants_are_constant(self):
        tensors = [t.requires_grad_() if t.is_floating_point() else t for t in arguments(seeded(1), 6)]
        student, teacher, student_bank, teacher_bank, index = tensors
        sides = ((student, teacher_bank), (teacher, student_bank))
        pair = [(log_normalizer(bank_scores(rows, bank, index) / 0.07, TOTAL)).exp().item() for rows, bank in sides]
        tensor = torch.tensor(pair, dtype=torch.float64)
        for normalizers in (pair, tensor, tuple(tensor)):
            values = [contrastive_representation_loss(*tensors, normalizers=z) for z in (None, normalizers)]
            torch.testing.assert_close(*values)
            by_value = [torch.autograd.grad(value, tensors[:2]) for value in values]
            torch.testing.assert_close(*by_value)
            assert not any(torch.autograd.grad(values[0], tensors[2:4], allow_unused=True, retain_graph=True))

    def test_few_rows_of_a_large_bank_are_gathered(self):
        bank, rows = unit_rows(seeded(2), 500), unit_rows(seeded(3), 4)
        index = torch.randint(500, (4, 3), generator=seeded(4))
        torch.testing.assert_close(bank_scores(rows, bank, index), (rows @ bank.T).gather(1, index))

    def test_a_weight_counts_a_negative_so_often(self):
        scores, weights = torch.randn(3, 3, generator=seeded(5)).double(), torch.tensor([[2.0, 0.0]] * 3).double()
        twice = scores[:, [0, 1, 1]]
        torch.testing.assert_close(contrast(scores, 9, weights), contrast(twice, 9))
        torch.testing.assert_close(log_normalizer(scores, 9, weights), log_normalizer(twice, 9))

    def test_the_golden_embeddings_give_the_golden_loss(self):
        stored = golden.arrays("crd_A")
        for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
            cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in stored.items()}
            projections = [cast[f"param_embed_{side}.linear.weight"] for side in "st"]
            biases = [cast[f"param_embed_{side}.linear.bias"] for side in "st"]
            banks = [cast["param_contrast.memory_v1"], cast["param_contrast.memory_v2"]]
            normalizers, total = None, 0.0
            for step in ("", "2"):
                raw = [cast[f"in_{side}{step}"].requires_grad_() for side in "st"]
                rows = [F.normalize(F.linear(x, w, b)) for x, w, b in zip(raw, projections, biases, strict=True)]
                index = cast[f"in_contrast_idx{step}"]
                loss = contrastive_representation_loss(*rows, *banks, index, normalizers=normalizers)
                expected = cast[f"out_loss_step{step or 1}"][0]
                torch.testing.assert_close(loss, expected, rtol=rtol, atol=0)
                loss.backward()
                wanted = cast[f"grad_s{step}"]
                torch.testing.assert_close(raw[0].grad, wanted, rtol=rtol, atol=rtol * wanted.abs().max().item())
                total = total + loss
                normalizers = cast["out_Z_v1_v2"]
                banks = [cast["out_memory_v1_after1"], cast["out_memory_v2_after1"]]
            torch.testing.assert_close(total, stored["loss"].to(dtype), rtol=rtol, atol=0)

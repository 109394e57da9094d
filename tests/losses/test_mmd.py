import math

import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import MmdLoss, mmd_loss
from congruence.losses.mmd import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, kernel="rbf", gamma=1.0, biased=True):
    def value(p, q):
        product = sum(a * b for a, b in zip(p, q, strict=True))
        if kernel == "rbf":
            return math.exp(-gamma * sum((a - b) ** 2 for a, b in zip(p, q, strict=True)))
        return product**2 if kernel == "polynomial" else product

    def mean(x, y, same):
        kernels = [value(p, q) for i, p in enumerate(x) for j, q in enumerate(y) if biased or not same or i != j]
        return sum(kernels) / len(kernels)

    x, y = student.tolist(), teacher.tolist()
    return torch.tensor(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False), dtype=torch.float64)


KERNELS = ({}, {"gamma": 0.05}, {"kernel": "polynomial"}, {"kernel": "linear"})


class TestMmd(LossTester):
    case = LossCase(
        function=mmd_loss,
        module=MmdLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=(*KERNELS, *({**settings, "biased": False} for settings in KERNELS)),
        zero_at_equal=KERNELS,
        no_golden="the case has values of seven losses under names of their own: test_equals_the_golden",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2)), "got `student` [4, 3], `teacher` [4, 2]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
        ),
    )

    @pytest.mark.parametrize("gamma", [0.05, 0.5])
    @pytest.mark.parametrize("biased", [True, False])
    def test_equals_the_golden(self, gamma, biased):
        stored = golden.arrays("ot_24x8")
        key = f"mmd2_rbf_gamma{gamma}_{'biased' if biased else 'unbiased'}"
        student = stored["in_x"].double().requires_grad_()
        value = mmd_loss(student, stored["in_y"].double(), gamma=gamma, biased=biased)
        torch.testing.assert_close(value, stored[key], rtol=1e-11, atol=0)
        if biased:
            expected = stored[f"grad_x_{key}"]
            torch.testing.assert_close(gradients(value, (student,))[0], expected, rtol=1e-10, atol=1e-15)

    def test_equals_the_goldens_of_other_kernels(self):
        stored = golden.arrays("ot_24x8")
        arguments = stored["in_x"].double(), stored["in_y"].double()
        for kernel, key in (("linear", "mmd2_linear"), ("polynomial", "mmd2_poly2_biased")):
            torch.testing.assert_close(mmd_loss(*arguments, kernel=kernel), stored[key], rtol=1e-11, atol=0)

    def test_linear_is_the_distance_of_the_means(self):
        student, teacher = embeddings(seeded(), 6)
        expected = (student.mean(0) - teacher[:4].mean(0)).square().sum()
        torch.testing.assert_close(mmd_loss(student, teacher[:4], kernel="linear"), expected, rtol=1e-11, atol=0)

    @pytest.mark.parametrize("biased", [True, False])
    def test_unequal_batches(self, biased):
        student, teacher = leaves((embeddings(seeded(), 5)[0], embeddings(seeded(1), 3)[1]))
        expected = reference(student.detach(), teacher.detach(), biased=biased)
        torch.testing.assert_close(mmd_loss(student, teacher, biased=biased), expected, rtol=1e-11, atol=0)
        assert torch.autograd.gradcheck(lambda s, t: mmd_loss(s, t, biased=biased), (student, teacher))

    def test_one_sample_has_no_unbiased_estimate(self):
        student, teacher = leaves(embeddings(seeded(), 4))
        for arguments in ((student[:1], teacher), (student, teacher[:1])):
            value = mmd_loss(*arguments, biased=False)
            assert value.item() == 0
            assert all(not g.any() for g in gradients(value, (student, teacher)))

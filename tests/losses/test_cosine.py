import math

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, seeded

from congruence.losses import CosineLoss, cosine_loss
from congruence.losses.cosine import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def reference(student, teacher):
    losses = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        losses.append(1 - dot / (math.hypot(*s) * math.hypot(*t)))
    return torch.tensor(losses, dtype=torch.float64)


class TestCosine(LossTester):
    case = LossCase(
        function=cosine_loss,
        module=CosineLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        goldens=(Golden("jasper_cosine_A"),),
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 5)),
                "must have the same shape, got `student` [4, 3], `teacher` [4, 5].",
            ),
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)), "got shape [4, 2, 3]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    @pytest.mark.parametrize(("dtype", "suffix", "rtol"), [(torch.float64, "", 1e-9), (torch.float32, "_f32", 2e-5)])
    def test_equals_the_projector_ensembles_golden(self, dtype, suffix, rtol):
        stored = golden.arrays("pefd_A")
        names = [f"reg{k}" for k in (1, 2, 3)]
        weights = [stored[f"param_{name}.weight"].to(dtype).requires_grad_() for name in names]
        biases = [stored[f"param_{name}.bias"].to(dtype) for name in names]
        student = stored["in_s"].to(dtype).requires_grad_()
        projected = torch.stack([F.linear(student, w, b).relu() for w, b in zip(weights, biases, strict=True)]).mean(0)
        value = cosine_loss(projected, stored["in_t"].to(dtype))
        torch.testing.assert_close(value, stored[f"loss{suffix}"].to(dtype), rtol=rtol, atol=0)
        value.backward()
        expected = {"gradf32_s" if suffix else "grad_s": student.grad}
        if not suffix:
            expected |= {f"gradparam_{n}.weight": w.grad for n, w in zip(names[:2], weights[:2], strict=True)}
        for key, gradient in expected.items():
            wanted = stored[key].to(dtype)
            torch.testing.assert_close(gradient, wanted, rtol=rtol, atol=rtol * wanted.abs().max().item())

    def test_a_row_of_zeros_has_cosine_zero(self):
        row, zero = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
        student = torch.cat([zero, row, zero]).requires_grad_()
        losses = cosine_loss(student, torch.cat([row, zero, zero]), reduction="none")
        assert losses.tolist() == [1.0, 0.5 + 0.5, 1.0]
        losses.sum().backward()
        assert student.grad[[0, 2]].abs().max() == 0
        assert student.grad.abs().max() < 1e-7  # only a turn counts, and a row of zeros has no direction

    def test_length_does_not_matter_and_opposite_rows_are_two_apart(self):
        student, teacher = embeddings(seeded(), 6)
        torch.testing.assert_close(cosine_loss(1e30 * student, 1e-20 * teacher), cosine_loss(student, teacher))
        torch.testing.assert_close(cosine_loss(-3 * teacher, teacher).item(), 2.0)

    def test_digits_near_equality_are_kept(self):
        teacher = torch.tensor([[1.0, 0.0]])
        student = torch.tensor([[1.0, 1e-5]])
        assert cosine_loss(student, teacher).item() == pytest.approx(0.5e-10, rel=1e-5)

import math

import pytest
import torch
from _harness.losses import Golden, LossCase, LossTester, seeded

from congruence.geometry import bilinear_kernel
from congruence.losses import CorrelationCongruenceLoss, correlation_congruence_loss
from congruence.losses.cckd import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def squared_products(x):
    return (x @ x.T) ** 2


def kernel_value(a, b, kernel, gamma, order):
    product = sum(p * q for p, q in zip(a, b, strict=True))
    if kernel == "bilinear":
        return product
    if kernel == "rbf":
        return math.exp(-gamma * sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))
    if kernel == "taylor_rbf":
        powers = range(order + 1)
        return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * product**p for p in powers)
    if kernel == "mmd":
        return abs(sum(a) / len(a) - sum(b) / len(b))
    return product**2


def reference(student, teacher, *, kernel="taylor_rbf", gamma=0.4, order=2, normalize=True):
    def rows(x):
        lengths = [math.sqrt(sum(v * v for v in row)) if normalize else 1.0 for row in x]
        return [[v / length for v in row] for row, length in zip(x, lengths, strict=True)]

    student, teacher = rows(student.tolist()), rows(teacher.tolist())
    total, count = 0.0, len(student)
    for i in range(count):
        for j in range(count):
            ours = kernel_value(student[i], student[j], kernel, gamma, order)
            total += (ours - kernel_value(teacher[i], teacher[j], kernel, gamma, order)) ** 2
    return torch.tensor(total / count**2, dtype=torch.float64)


class TestCorrelationCongruence(LossTester):
    case = LossCase(
        function=correlation_congruence_loss,
        module=CorrelationCongruenceLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=(
            {},
            {"order": 3, "gamma": 1},
            {"kernel": "bilinear"},
            {"kernel": "bilinear", "normalize": False},
            {"kernel": "rbf"},
            {"kernel": "rbf", "normalize": False, "gamma": 0.1},
            {"kernel": "mmd"},
            {"kernel": "mmd", "normalize": False},
            {"kernel": squared_products},
        ),
        zero_at_equal=({}, {"kernel": "bilinear"}, {"kernel": "rbf", "normalize": False}, {"kernel": "mmd"}),
        goldens=(
            Golden("cckd_def_bilinear_A", {"kernel": "bilinear"}),
            Golden("cckd_def_bilinear_raw_A", {"kernel": "bilinear", "normalize": False}),
            Golden("cckd_def_rbf_exact_A", {"kernel": "rbf"}),
            Golden("jasper_similarity_A", {"kernel": "bilinear"}),
            *(Golden(f"cckd_{kind}{p}_A", {"order": p}) for kind in ("def_rbf_taylor", "taylor_P") for p in (1, 2, 3)),
        ),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(4, 3)), "got shape [4, 3, 2, 2]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).int()), "`teacher` must be a floating-point tensor"),
        ),
    )

    @pytest.mark.parametrize("kernel", ["bilinear", "rbf", "taylor_rbf"])
    @pytest.mark.parametrize("normalize", [True, False])
    def test_rotated_student_gives_zero(self, kernel, normalize):
        _, teacher = embeddings(seeded(), 7)
        rotation = torch.linalg.qr(torch.randn(5, 5, generator=seeded(1), dtype=torch.float64)).Q
        value = correlation_congruence_loss(teacher @ rotation, teacher, kernel=kernel, normalize=normalize)
        assert value.item() < 1e-25

    def test_taylor_tends_to_rbf_for_unit_rows_only(self):
        student, teacher = embeddings(seeded(), 7)
        exact = correlation_congruence_loss(student, teacher, kernel="rbf")
        torch.testing.assert_close(correlation_congruence_loss(student, teacher, order=15), exact, rtol=1e-10, atol=0)
        raw = correlation_congruence_loss(student, teacher, order=15, normalize=False)
        rbf = correlation_congruence_loss(student, teacher, kernel="rbf", normalize=False)
        assert abs(raw - rbf) > 0.1

    def test_callable_equals_the_kernel_of_that_name(self):
        student, teacher = (x.float() for x in embeddings(seeded(), 7))
        named = correlation_congruence_loss(student, teacher, kernel="bilinear")
        torch.testing.assert_close(correlation_congruence_loss(student, teacher, kernel=bilinear_kernel), named)

    def test_callable_with_another_shape_is_an_error(self):
        student, teacher = embeddings(seeded(), 4)
        with pytest.raises(
            ValueError, match=r"`kernel` must be a callable that maps \[4, D\] to \[4, 4\], got shape \[4\]"
        ):
            correlation_congruence_loss(student, teacher, kernel=lambda x: x.sum(1))

    def test_float32_keeps_the_digits_of_tight_clusters(self):
        offset = 10 + 0.01 * torch.randn(8, 16, generator=seeded())
        other = 10 + 0.01 * torch.randn(8, 16, generator=seeded(1))
        exact = correlation_congruence_loss(offset.double(), other.double(), kernel="bilinear")
        in_float32 = correlation_congruence_loss(offset, other, kernel="bilinear")
        torch.testing.assert_close(in_float32.double(), exact, rtol=1e-5, atol=0)

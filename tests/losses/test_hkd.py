import math
from functools import partial

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, leaves, seeded

from congruence.geometry import rbf_kernel
from congruence.losses import HeterogeneousKdLoss, heterogeneous_kd_loss
from congruence.losses.hkd import CHECKS

KERNELS = ("cosine", "rbf", "student_t")
SETTINGS = [{"kernel": kernel, "divergence": divergence} for kernel in KERNELS for divergence in ("kl", "jeffreys")]
COSINE = {"kernel": "cosine", "divergence": "kl"}


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, kernel, divergence, eps=1e-6):
    def similarity(p, q):
        if kernel == "cosine":
            lengths = [math.sqrt(sum(v * v for v in row)) + eps for row in (p, q)]
            return (1 + sum(a * b for a, b in zip(p, q, strict=True)) / lengths[0] / lengths[1]) / 2
        distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) + 1e-6)
        return math.exp(-distance) if kernel == "rbf" else 1 / (1 + distance)

    def shares(x):
        values = [[similarity(p, q) for q in x] for p in x]
        return [[value / sum(row) for value in row] for row in values]

    ours, theirs = shares(student.tolist()), shares(teacher.tolist())
    total, count = 0.0, len(student)
    for i in range(count):
        for j in range(count):
            s, t = ours[i][j], theirs[i][j]
            if divergence == "kl":
                total += t * math.log(eps + t / (s + eps))
            else:
                total += (t - s) * (math.log(t) - math.log(s))
    return torch.tensor(total / count**2, dtype=torch.float64)


class TestHkd(LossTester):
    case = LossCase(
        function=heterogeneous_kd_loss,
        module=HeterogeneousKdLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=(*SETTINGS, {**COSINE, "eps": 1e-3}),
        required=COSINE,
        goldens=(
            Golden("hkd_cosine_default_A", COSINE),
            Golden("hkd_cosine_kl_A", COSINE),
            Golden("hkd_cosine_jeffreys_A", {"kernel": "cosine", "divergence": "jeffreys"}),
        ),
        zero_at_equal=tuple(settings for settings in SETTINGS if settings["divergence"] == "jeffreys"),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    # Their float32 values hold the rounding noise of expanded squares; ours must be as near to the float64 ones.
    @pytest.mark.parametrize(
        ("name", "kernel", "divergence"),
        [("hkd_rbf_jeffreys_A", "rbf", "jeffreys"), ("hkd_student_t_kl_A", "student_t", "kl")],
    )
    def test_equals_the_goldens_of_distances(self, name, kernel, divergence):
        stored = golden.arrays(name)
        for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
            sides = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
            value = heterogeneous_kd_loss(*sides, kernel=kernel, divergence=divergence)
            value.backward()
            torch.testing.assert_close(value.double(), stored["loss"], rtol=rtol, atol=0)
            wanted = stored["grad_s"]
            atol = rtol * wanted.abs().max().item()
            torch.testing.assert_close(sides[0].grad.double(), wanted, rtol=rtol, atol=atol)

    def test_kl_at_equality_is_within_its_eps(self):
        student, _ = embeddings(seeded(0), 6)
        for kernel in KERNELS:
            value = heterogeneous_kd_loss(student, student, kernel=kernel, divergence="kl")
            assert abs(value.item()) < 1e-5

    def test_jeffreys_is_symmetric(self):
        student, teacher = embeddings(seeded(1), 6)
        for kernel in KERNELS:
            loss = partial(heterogeneous_kd_loss, kernel=kernel, divergence="jeffreys")
            torch.testing.assert_close(loss(student, teacher), loss(teacher, student))

    def test_a_callable_kernel(self):
        student, teacher = embeddings(seeded(2), 6)
        value = heterogeneous_kd_loss(student, teacher, kernel=partial(rbf_kernel, gamma=0.3), divergence="kl")
        shares = [torch.exp(-0.3 * torch.cdist(x, x) ** 2) for x in (student, teacher)]
        ours, theirs = (s / s.sum(1, keepdim=True) for s in shares)
        torch.testing.assert_close(value, (theirs * torch.log(1e-6 + theirs / (ours + 1e-6))).mean())
        with pytest.raises(ValueError, match=r"`kernel` must be a callable that maps \[6, D\] to \[6, 6\], got"):
            heterogeneous_kd_loss(student, teacher, kernel=torch.sum, divergence="kl")

    @pytest.mark.parametrize("divergence", ["kl", "jeffreys"])
    def test_the_scale_of_a_callable_does_not_matter(self, divergence):
        student, teacher = embeddings(seeded(2), 6)
        values = [
            heterogeneous_kd_loss(
                student, teacher, kernel=lambda x, c=scale: c * rbf_kernel(x, gamma=0.3), divergence=divergence
            )
            for scale in (1.0, 1e-30)
        ]
        torch.testing.assert_close(values[1], values[0], rtol=1e-10, atol=0)
        assert values[0] > 1e-4

    def test_a_callable_with_parameters_gets_rows_of_their_type(self):
        student = embeddings(seeded(2), 6)[0].float()
        mapped = torch.nn.Linear(3, 3, bias=False)
        value = heterogeneous_kd_loss(
            student, student.flip(0), kernel=lambda x: torch.exp(mapped(x) @ x.T), divergence="kl"
        )
        value.backward()
        assert mapped.weight.grad.any()


@pytest.mark.parametrize("scale", [1.0, 1e5])
@pytest.mark.parametrize("kernel", ["rbf", "student_t"])
def test_wide_rows_have_the_same_distances(kernel, scale, monkeypatch):
    """Flattened maps: rows far from the origin, near ones and equal ones, value and gradient."""
    generator = seeded(7)
    student, teacher = (0.05 * torch.randn(6, width, generator=generator).double() + 3 for width in (600, 900))
    student[1] = student[0]
    student[3] = student[2] + 1e-6
    student, teacher = (scale * student).requires_grad_(), scale * teacher
    found = []
    for wide in (512, 10**9):
        monkeypatch.setattr("congruence.losses.hkd._WIDE", wide)
        loss = heterogeneous_kd_loss(student, teacher, kernel=kernel, divergence="jeffreys")
        found.append((loss.detach(), *torch.autograd.grad(loss, student)))
    for fast, exact in zip(*found, strict=True):
        torch.testing.assert_close(fast, exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))
    if scale == 1.0:
        expected = reference(student.detach(), teacher, kernel=kernel, divergence="jeffreys")
        torch.testing.assert_close(found[0][0], expected, rtol=1e-7, atol=0)

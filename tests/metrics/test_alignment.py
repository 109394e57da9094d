import math
from itertools import pairwise

import pytest
import torch
from _harness.losses import seeded
from torch.autograd.functional import hessian, jacobian

from congruence.losses import correlation_congruence_loss
from congruence.metrics import effective_kernel_alignment, gram_alignment

FUNCTIONS = (gram_alignment, effective_kernel_alignment)


def features(rows=13):
    generator = seeded()
    return tuple(torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (3, 5))


def squared_gap(student, teacher):
    """Σ_ij (⟨s_i, s_j⟩ − ⟨t_i, t_j⟩)², by hand."""
    rows = range(len(student))
    return math.fsum(
        (
            sum(a * b for a, b in zip(student[i], student[j], strict=True))
            - sum(map(float.__mul__, teacher[i], teacher[j]))
        )
        ** 2
        for i in rows
        for j in rows
    )


@pytest.mark.parametrize("rows", [13, 20])
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 13, 100])
def test_both_are_their_definitions(chunk_size, rows):
    student, teacher = features(rows)
    gap = squared_gap(student.tolist(), teacher.tolist())
    assert gram_alignment(student, teacher, chunk_size=chunk_size) == pytest.approx(gap / rows**2, rel=1e-12)
    assert effective_kernel_alignment(student, teacher, chunk_size=chunk_size) == pytest.approx(
        math.sqrt(gap), rel=1e-12
    )


def test_it_is_the_loss_with_the_bilinear_kernel_over_the_whole_set():
    student, teacher = features()
    loss = correlation_congruence_loss(student, teacher, kernel="bilinear", normalize=False).item()
    assert gram_alignment(student, teacher) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_zero_for_a_copy_and_for_a_turned_student(function):
    _, teacher = features()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=seeded(1), dtype=torch.float64)).Q
    assert function(teacher, teacher, chunk_size=3) == 0.0
    assert function(teacher @ turn, teacher) < 1e-13
    assert function(1.1 * teacher, teacher) > 0.1


class Ridge:
    """Kernel ridge on n points with a teacher's outputs as targets; the features are the outputs (W the identity).

    L_KD(h) = ‖H − T‖²/n + (μ/2) tr(Hᵀ Θ⁻¹ H) and G(h) = ‖H Hᵀ − T Tᵀ‖²/n² in the values H = Θ A on the points. Up to
    λ = n/(2‖T Tᵀ‖₂) the sum L_KD + λ·G is strictly convex, so that Newton's method ends at its one minimiser.
    """

    def __init__(self, n=8, width=2, decay=0.05):
        points = torch.randn(n, 2, generator=seeded(3), dtype=torch.float64)
        self.kernel = torch.exp(-torch.cdist(points, points).square()) + 1e-3 * torch.eye(n, dtype=torch.float64)
        self.teacher = torch.randn(n, width, generator=seeded(4), dtype=torch.float64)
        self.inverse, self.n, self.decay = torch.linalg.inv(self.kernel), n, decay
        self.limit = n / (2 * torch.linalg.matrix_norm(self.teacher @ self.teacher.T, 2).item())

    def kd(self, values):
        norm = (values * (self.inverse @ values)).sum()
        return (values - self.teacher).square().sum() / self.n + self.decay / 2 * norm

    def alignment(self, values):
        return (values @ values.T - self.teacher @ self.teacher.T).square().sum() / self.n**2

    def kd_minimiser(self):
        """Solve ((2/n)·I + μ Θ⁻¹) H = (2/n) T."""
        system = 2 / self.n * torch.eye(self.n, dtype=torch.float64) + self.decay * self.inverse
        return torch.linalg.solve(system, 2 / self.n * self.teacher)

    def minimiser(self, weight):
        def objective(flat):
            values = flat.reshape(self.teacher.shape)
            return self.kd(values) + weight * self.alignment(values)

        flat = self.kd_minimiser().flatten()
        for _ in range(100):
            slope, bend = jacobian(objective, flat), hessian(objective, flat)
            if slope.norm() < 1e-12:
                break
            step, size = torch.linalg.solve(bend, slope), 1.0
            while objective(flat - size * step) > objective(flat) + 1e-15:
                size /= 2
            flat = flat - size * step
        assert slope.norm() < 1e-11
        assert torch.linalg.eigvalsh(bend)[0] > 0
        return flat.reshape(self.teacher.shape)


def test_lemma_1():
    ridge = Ridge()
    kd = ridge.kd_minimiser()
    torch.testing.assert_close(ridge.minimiser(0.0), kd, rtol=1e-10, atol=1e-12)
    levels = [gram_alignment(kd, ridge.teacher)]
    assert levels[0] == pytest.approx(ridge.alignment(kd).item(), rel=1e-12)
    for share in (1e-3, 0.03, 0.3, 0.95):
        levels.append(gram_alignment(ridge.minimiser(share * ridge.limit), ridge.teacher))
    assert all(after < before for before, after in pairwise(levels))
    assert levels[-1] < 0.9 * levels[0]


def test_lemma_1_the_slope_at_zero():
    """ψ'(0) = −⟨∇G, H⁻¹ ∇G⟩ for ψ(λ) = G(h(λ)) (eq. 14)."""
    ridge = Ridge()
    kd = ridge.kd_minimiser()
    slope = jacobian(ridge.alignment, kd).flatten()
    bend = hessian(ridge.kd, kd).reshape(kd.numel(), kd.numel())
    expected = -(slope @ torch.linalg.solve(bend, slope)).item()
    weight = 1e-6 * ridge.limit
    moved = gram_alignment(ridge.minimiser(weight), ridge.teacher) - gram_alignment(kd, ridge.teacher)
    assert moved / weight == pytest.approx(expected, rel=1e-3)
    assert expected < 0


def test_lemma_2():
    """Outputs h = f Wᵀ with WᵀW = s²·I on both sides keep the order of the Gram gaps (assumption 2)."""
    ridge = Ridge()
    head = 1.7 * torch.linalg.qr(torch.randn(4, 2, generator=seeded(5), dtype=torch.float64)).Q.T
    gaps = [
        effective_kernel_alignment(values @ head, ridge.teacher @ head)
        for values in (ridge.kd_minimiser(), ridge.minimiser(0.02 * ridge.limit), ridge.minimiser(0.5 * ridge.limit))
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    features_gap = 8 * math.sqrt(gram_alignment(ridge.kd_minimiser(), ridge.teacher))
    assert gaps[0] == pytest.approx(1.7**2 * features_gap, rel=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"student": torch.zeros(3, 2)}, "must have the same number of rows, got `student` [3, 2], `teacher` [4, 2]."),
        ({"teacher": torch.zeros(4)}, "`teacher` must be a non-empty 2-D tensor, got shape [4]."),
        ({"chunk_size": 0}, "`chunk_size` must be an integer >= 1 or None, got 0."),
    ],
)
def test_errors(function, change, sentence):
    with pytest.raises(ValueError) as error:
        function(**{"student": torch.zeros(4, 2), "teacher": torch.zeros(4, 2), **change})
    assert str(error.value).startswith(f"`{function.__name__}`: ")
    assert str(error.value).endswith(sentence)

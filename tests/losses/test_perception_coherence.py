import math

import pytest
import torch
from _harness.losses import Golden, LossCase, LossTester, seeded, tight_clusters
from _harness.memory import largest_tensor

from congruence.geometry import cosine
from congruence.losses import PerceptionCoherenceLoss, perception_coherence_loss
from congruence.losses.perception_coherence import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def twice_cosine(x):
    return 2 * cosine(x)


def dissimilarity_value(a, b, dissimilarity):
    if dissimilarity == "euclidean":
        return math.dist(a, b)
    value = (1 - sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))) / 2
    return 2 * value if dissimilarity is twice_cosine else value


def reference(
    student,
    teacher,
    *,
    dissimilarity="cosine",
    teacher_dissimilarity=None,
    student_temperature=0.3,
    teacher_temperature=0.1,
    method="auto",
):
    def ranks(x, measure, temperature):
        d = [[0.0 if i == j else dissimilarity_value(a, b, measure) for j, b in enumerate(x)] for i, a in enumerate(x)]
        return [[sum(1 / (1 + math.exp((b - a) / temperature)) for b in row) for a in row] for row in d]

    ours = ranks(student.tolist(), dissimilarity, student_temperature)
    theirs = ranks(teacher.tolist(), teacher_dissimilarity or dissimilarity, teacher_temperature)
    total, count = 0.0, len(ours)
    for i in range(count):
        for j in range(count):
            total += (ours[i][j] - theirs[i][j]) ** 2
    return torch.tensor(total / count**3, dtype=torch.float64)


EQUAL = {"student_temperature": 0.2, "teacher_temperature": 0.2}


class TestPerceptionCoherence(LossTester):
    case = LossCase(
        function=perception_coherence_loss,
        module=PerceptionCoherenceLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=(
            {},
            {"method": "exact", "student_temperature": 1, "teacher_temperature": 0.5},
            {"dissimilarity": "euclidean"},
            {"dissimilarity": "cosine", "teacher_dissimilarity": "euclidean"},
            {"dissimilarity": twice_cosine},
            {"method": "fast"},
            {"method": "fast", "dissimilarity": "euclidean", "student_temperature": 0.01},
        ),
        zero_at_equal=(
            EQUAL,
            {**EQUAL, "dissimilarity": "euclidean"},
            {**EQUAL, "dissimilarity": twice_cosine},
            {**EQUAL, "method": "fast"},
            {**EQUAL, "method": "fast", "dissimilarity": "euclidean"},
        ),
        goldens=tuple(
            Golden(name, {"dissimilarity": dissimilarity, "method": method})
            for name, dissimilarity in (
                ("softrank_cos_A", "cosine"),
                ("softrank_euclid_A", "euclidean"),
                ("softrank_cos1_A", twice_cosine),
            )
            for method in ("auto", "exact", "fast")
        ),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "got shape [4]."),
            ((torch.zeros(4, 3).bool(), torch.zeros(4, 3)), "`student` must be a floating-point tensor"),
        ),
    )

    def test_student_equal_to_the_teacher_is_not_zero_at_other_temperatures(self):
        student, _ = embeddings(seeded(), 6)
        assert perception_coherence_loss(student, student).item() > 1e-3

    def test_only_the_order_counts_as_the_temperature_tends_to_zero(self):
        teacher = torch.randn(8, 2, generator=seeded(), dtype=torch.float64)
        settings = {"student_temperature": 1e-6, "teacher_temperature": 1e-6, "dissimilarity": "euclidean"}
        assert perception_coherence_loss(5 * teacher + 1, teacher, **settings).item() < 1e-20

    @pytest.mark.parametrize("bad", ["quick", "chebyshev"])
    def test_unknown_method_is_an_error(self, bad):
        student, teacher = embeddings(seeded(), 4)
        with pytest.raises(
            ValueError, match="`perception_coherence_loss`: `method` must be one of 'auto', 'exact', 'fast'"
        ):
            perception_coherence_loss(student, teacher, method=bad)

    def test_callable_with_another_shape_is_an_error(self):
        student, teacher = embeddings(seeded(), 4)
        expected = r"^`perception_coherence_loss`: `dissimilarity` must be a callable that maps \[4, D\] to \[4, 4\]"
        with pytest.raises(ValueError, match=expected):
            perception_coherence_loss(student, teacher, dissimilarity=lambda x: x)

    def test_one_sample_gives_zero(self):
        student, teacher = embeddings(seeded(), 1)
        assert perception_coherence_loss(student, teacher).item() == 0.0

    @pytest.mark.parametrize("dissimilarity", ["cosine", "euclidean"])
    def test_fast_agrees_with_the_formula_in_float64(self, dissimilarity):
        generator = seeded(2)
        student, teacher = (torch.randn(160, width, generator=generator) for width in (8, 12))
        near = teacher + 0.1 * torch.randn(160, 12, generator=generator)
        for side in (student, near):
            fast = value_and_gradient(side, teacher, dissimilarity, "fast")
            expected = value_and_gradient(side.double(), teacher.double(), dissimilarity, "exact")
            assert (fast[0] - expected[0]).abs() <= 1e-6 * expected[0]
            assert (fast[1] - expected[1]).norm() <= 1e-5 * expected[1].norm()

    def test_auto_is_fast_in_a_large_batch(self):
        student, teacher = (x.float() for x in embeddings(seeded(), 160))
        auto, fast, exact = (perception_coherence_loss(student, teacher, method=m) for m in ("auto", "fast", "exact"))
        assert torch.equal(auto, fast)
        torch.testing.assert_close(auto, exact, rtol=1e-6, atol=0)
        assert largest_tensor(lambda: perception_coherence_loss(student, teacher)) < 160**2 * 8
        assert largest_tensor(lambda: perception_coherence_loss(student, teacher, method="exact")) == 160**3

    @pytest.mark.parametrize("dissimilarity", ["cosine", "euclidean"])
    def test_a_large_batch_compiles(self, dissimilarity):
        torch.compiler.reset()
        whole = torch.compile(
            lambda s, t: perception_coherence_loss(s, t, dissimilarity=dissimilarity),
            backend="aot_eager",
            fullgraph=True,
        )
        student, teacher = (x.float() for x in embeddings(seeded(), 160))
        again = student.clone().requires_grad_()
        student.requires_grad_()
        value, expected = (
            whole(student, teacher),
            perception_coherence_loss(again, teacher, dissimilarity=dissimilarity),
        )
        torch.testing.assert_close(value, expected)
        value.backward()
        expected.backward()
        torch.testing.assert_close(student.grad, again.grad)

    def test_a_large_batch_under_autocast(self):
        student, teacher = tight_clusters(160, 3, 5)
        student, teacher = student.float().requires_grad_(), teacher.float()
        expected = perception_coherence_loss(student, teacher)
        (wanted,) = torch.autograd.grad(expected, student)
        with torch.autocast("cpu", torch.bfloat16):
            value = perception_coherence_loss(student, teacher)
            (gradient,) = torch.autograd.grad(value, student)
        assert torch.equal(value, expected)
        assert torch.equal(gradient, wanted)


def value_and_gradient(student, teacher, dissimilarity, method):
    student = student.clone().requires_grad_()
    value = perception_coherence_loss(student, teacher, dissimilarity=dissimilarity, method=method)
    value.backward()
    return value.detach().double(), student.grad.double()

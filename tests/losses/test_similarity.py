import inspect
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, leaves, seeded
from _harness.memory import largest_tensor

from congruence.losses import (
    RelativeSimilarityLoss,
    correlation_congruence_loss,
    cosine_loss,
    relative_similarity_loss,
)
from congruence.losses.similarity import CHECKS, _drawn


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, margin=0.015):
    def cosines(rows):
        found = []
        for i, j in itertools.combinations(range(len(rows)), 2):
            lengths = math.hypot(*rows[i]) * math.hypot(*rows[j])
            found.append(sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / (lengths or 1.0))
        return found

    s, t = cosines(student.tolist()), cosines(teacher.tolist())
    terms = []
    for p, q in itertools.combinations(range(len(s)), 2):
        sign = 1 if t[q] < t[p] else -1
        terms.append(max(0.0, sign * (s[q] - s[p]) + margin))
    return torch.tensor(sum(terms) / max(1, len(terms)), dtype=torch.float64)


def all_at_once(student, teacher, margin=0.015):
    """The definition with all pairs of pairs in one tensor."""
    cosines = []
    for x in (student, teacher):
        rows = F.normalize(x.double())
        first, second = torch.triu_indices(len(rows), len(rows), 1)
        cosines.append((rows @ rows.T)[first, second])
    first, second = torch.triu_indices(len(cosines[0]), len(cosines[0]), 1)
    ours, theirs = (c[second] - c[first] for c in cosines)
    return (torch.where(theirs < 0, ours, -ours) + margin).relu().mean()


class TestRelativeSimilarity(LossTester):
    case = LossCase(
        function=relative_similarity_loss,
        module=RelativeSimilarityLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"margin": 0}, {"margin": 0.7}),
        zero_at_equal=({"margin": 0.0},),
        goldens=(Golden("jasper_triplet_A", {"margin": 0.015}),),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "got shape [4]."),
            ((torch.zeros(4, 3).bool(), torch.zeros(4, 3)), "`student` must be a floating-point tensor"),
        ),
    )

    def test_signature(self):
        function = inspect.signature(relative_similarity_loss).parameters
        defaults = {n: p.default for n, p in function.items() if p.kind is p.KEYWORD_ONLY}
        assert defaults == {"margin": 0.015, "sampled_pairs": None, "generator": None}
        constructor = inspect.signature(RelativeSimilarityLoss).parameters
        assert {n: p.default for n, p in constructor.items()} == {n: defaults[n] for n in CHECKS}

    @pytest.mark.parametrize("rows", [3, 12, 17])
    @pytest.mark.parametrize("margin", [0.0, 0.015, 0.3, 5.0])
    def test_value_and_gradient_equal_all_pairs_of_pairs(self, rows, margin):
        sides, again = (leaves(embeddings(seeded(rows), rows)) for _ in range(2))
        value, expected = relative_similarity_loss(*sides, margin=margin), all_at_once(*again, margin)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        value.backward()
        expected.backward()
        torch.testing.assert_close(sides[0].grad, again[0].grad, rtol=1e-11, atol=1e-14)
        assert sides[1].grad.abs().max() == 0

    def test_of_equal_pairs_the_first_is_to_be_the_less_alike(self):
        # The teacher's cosines are 1, −1 or 0, exactly and many times; the student's are equal by pairs as well.
        teacher = torch.tensor([[1.0, 0], [0, 1], [1, 0], [-1, 0], [0, 0], [0, 1]], dtype=torch.float64)
        student, _ = embeddings(seeded(3), 6)
        for ours in (student, torch.cat([student[:3], student[:3]]), teacher.flip(0), torch.zeros_like(student)):
            for margin in (0.0, 0.015, 0.5):
                value = relative_similarity_loss(ours, teacher, margin=margin)
                torch.testing.assert_close(value, reference(ours, teacher, margin=margin), rtol=1e-12, atol=1e-15)
        rising, falling = (relative_similarity_loss(side, torch.zeros(6, 2)) for side in (student, student.flip(0)))
        assert rising != falling

    def test_the_teachers_own_gaps_below_the_margin_count(self):
        angles = torch.tensor([0.0, 0.1, 0.21], dtype=torch.float64)
        teacher = torch.stack([angles.cos(), angles.sin()], 1)
        close = math.cos(0.1) - math.cos(0.11)
        assert close < 0.015
        value = relative_similarity_loss(teacher, teacher)
        torch.testing.assert_close(value.item(), (0.015 - close) / 3, rtol=1e-9, atol=0)

    @pytest.mark.parametrize("rows", [1, 2])
    @pytest.mark.parametrize("sampled", [None, 5])
    def test_without_two_pairs_it_is_zero(self, rows, sampled):
        sides = leaves(embeddings(seeded(), rows))
        value = relative_similarity_loss(*sides, sampled_pairs=sampled, generator=seeded())
        value.backward()
        assert value.item() == 0
        assert sides[0].grad.abs().max() == 0

    @pytest.mark.parametrize(("dtype", "suffix", "rtol"), [(torch.float64, "", 1e-9), (torch.float32, "_f32", 2e-5)])
    def test_the_whole_objective_equals_the_golden(self, dtype, suffix, rtol):
        stored = golden.arrays("jasper_full_A")
        student, teacher = stored["in_s"].to(dtype).requires_grad_(), stored["in_t"].to(dtype)
        widths = golden.description("jasper_full_A")["hyperparameters"]["mrl_dims"]
        value = 10 * cosine_loss(student, teacher)
        for width in widths:
            cut = student[:, :width]
            value = value + 200 / len(widths) * correlation_congruence_loss(cut, teacher, kernel="bilinear")
            value = value + 20 / len(widths) * relative_similarity_loss(cut, teacher)
        torch.testing.assert_close(value, stored[f"loss{suffix}"].to(dtype), rtol=rtol, atol=0)
        value.backward()
        expected = stored["gradf32_s" if suffix else "grad_s"].to(dtype)
        torch.testing.assert_close(student.grad, expected, rtol=rtol, atol=rtol * expected.abs().max().item())

    @pytest.mark.parametrize("rows", [24, 48])
    def test_nothing_is_larger_than_a_few_times_the_similarities(self, rows):
        sides = leaves(tuple(torch.randn(rows, 4, generator=seeded(k)) for k in range(2)))
        assert largest_tensor(lambda: relative_similarity_loss(*sides).backward()) <= 2 * rows**2

    def test_samples_estimate_it_without_bias(self):
        sides = leaves(embeddings(seeded(1), 9))
        expected = relative_similarity_loss(*sides)
        (wanted,) = torch.autograd.grad(expected, sides[0])
        generator = seeded(2)
        draws = 40000
        value = relative_similarity_loss(*sides, sampled_pairs=draws, generator=generator)
        (gradient,) = torch.autograd.grad(value, sides[0])
        # A term is below 2 + m: five deviations of the mean.
        assert (value - expected).abs() < 5 * 2.015 / 2 / draws**0.5
        assert (gradient - wanted).norm() < 0.05 * wanted.norm()

    def test_every_pair_of_pairs_is_drawn_alike(self):
        first, second = _drawn(5, 20000, seeded())
        assert (first < second).all()
        counts = torch.zeros(5, 5).index_put_((first, second), torch.ones(20000), accumulate=True)
        counts = counts[tuple(torch.triu_indices(5, 5, 1))]
        assert len(counts) == 10
        assert (counts - 2000).abs().max() < 5 * (20000 * 0.1 * 0.9) ** 0.5

    def test_samples_are_the_generators_and_need_one(self):
        sides = embeddings(seeded(), 6)
        module = RelativeSimilarityLoss(sampled_pairs=20)
        one, same, other = (module(*sides, generator=seeded(seed)) for seed in (1, 1, 2))
        assert one == same != other
        expected = r"^`relative_similarity_loss`: `generator` must be a torch.Generator where `sampled_pairs` are drawn"
        with pytest.raises(ValueError, match=expected):
            module(*sides)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_what_is_no_number_shows_in_samples(self, bad):
        for side in (0, 1):
            sides = embeddings(seeded(), 6)
            sides[side][5, 0] = bad
            value = relative_similarity_loss(*sides, sampled_pairs=1, generator=seeded())
            assert not torch.isfinite(value)

    def test_huge_and_half_precision_inputs_with_samples(self):
        student, teacher = (x.float() for x in embeddings(seeded(), 6))
        for scale, dtype in ((1e37, torch.float32), (1.0, torch.bfloat16), (1.0, torch.float16)):
            ours = (scale * student).to(dtype).requires_grad_()
            value = relative_similarity_loss(ours, teacher, sampled_pairs=30, generator=seeded())
            value.backward()
            assert value.dtype == torch.float32
            assert torch.isfinite(value)
            assert torch.isfinite(ours.grad).all()
            assert ours.grad.dtype == dtype

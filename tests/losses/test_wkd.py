import inspect
import math
import statistics

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import (
    GaussianFeatureLoss,
    WassersteinLogitLoss,
    class_cost_matrix,
    gaussian_feature_loss,
    wasserstein_logit_loss,
)
from congruence.losses.wkd import CHECKS, FEATURE_CHECKS


def costs(generator, classes=4):
    return torch.rand(classes, classes, generator=generator, dtype=torch.float64)


def logits_and_cost(generator, rows):
    student, teacher = (3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, costs(generator)


def shares(row, temperature):
    powers = [math.exp(v / temperature) for v in row]
    return [v / sum(powers) for v in powers]


def transported(a, b, cost, regularization, iterations):
    places = range(len(a))
    m = [[max(v, 0) + 1e-8 for v in row] for row in cost]
    k = [[math.exp(-v / regularization) for v in row] for row in m]
    u = [1 / len(a)] * len(a)
    for _ in range(iterations):
        v = [b[j] / (sum(u[i] * k[i][j] for i in places) + 1e-8) for j in places]
        u = [a[i] / (sum(k[i][j] * v[j] for j in places) + 1e-8) for i in places]
    return sum(u[i] * k[i][j] * v[j] * m[i][j] for i in places for j in places)


def reference(student, teacher, cost, *, temperature=8.0, regularization=0.05, iterations=10):
    values = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        values.append(
            transported(shares(s, temperature), shares(t, temperature), cost.tolist(), regularization, iterations)
        )
    return torch.tensor(values, dtype=torch.float64)


def labelled_reference(student, teacher, cost, labels, *, weight=1.0, temperature=8.0, **settings):
    values = []
    for s, t, label in zip(student, teacher, labels.tolist(), strict=True):
        kept = [c for c in range(len(s)) if c != label]
        others = reference(s[None, kept], t[None, kept], cost[kept][:, kept], temperature=temperature, **settings)
        target = -shares(t.tolist(), 1)[label] * math.log(shares(s.tolist(), 1)[label])
        values.append(target + weight * others[0])
    return torch.tensor(values, dtype=torch.float64)


def extremes(case):
    student, teacher, cost = case.inputs(seeded(1), 6)
    sides = {
        "equal rows": (student[:1].expand_as(student), teacher[:1].expand_as(teacher)),
        "all zero": (0 * student, 0 * teacher),
        "large": (1e4 * student.sign(), 1e4 * teacher.sign()),
        "large and apart": (1e4 * student, 1e4 * teacher),
        "tiny": (1e-20 * student, 1e-20 * teacher),
        "one sample": (student[:1], teacher[:1]),
    }
    given = {label: (*both, cost) for label, both in sides.items()}
    for label, other in (("free", 0 * cost), ("dear", 1e4 * cost), ("below 0", -cost), ("a free diagonal", cost)):
        free = other * (1 - torch.eye(4)) if label == "a free diagonal" else other
        given |= {label: (student, teacher, free), f"{label}, far": (1e4 * student, 1e4 * teacher, free)}
    return given


T1 = {"temperature": 1, "regularization": 0.5, "iterations": 3}


class TestWassersteinLogit(LossTester):
    case = LossCase(
        function=wasserstein_logit_loss,
        module=WassersteinLogitLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits_and_cost,
        reference=reference,
        settings=(T1, {}),
        goldens=(Golden("wkd_l_A", inputs=("in_s", "in_t", "in_cost")),),
        zero_at_equal=(),
        extremes=extremes,
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 5), torch.zeros(3, 3)),
                "got `student_logits` [4, 3], `teacher_logits` [4, 5].",
            ),
            ((torch.zeros(4), torch.zeros(4), torch.zeros(3, 3)), "must be a non-empty 2-D tensor, got shape [4]."),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3, 4)),
                "`cost` must be of shape [3, 3], got shape [3, 4].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3, 3).long()),
                "`cost` must be a floating-point tensor",
            ),
        ),
    )

    def test_signature(self):
        parameters = inspect.signature(wasserstein_logit_loss).parameters
        assert (parameters["labels"].kind, parameters["labels"].default) == (parameters["labels"].KEYWORD_ONLY, None)
        plain = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "labels"}
        assert set(plain) == set(CHECKS)
        assert {n: p.default for n, p in inspect.signature(WassersteinLogitLoss).parameters.items()} == plain

    def labelled(self, seed=0, rows=5):
        arguments = logits_and_cost(seeded(seed), rows)
        return arguments, torch.randint(0, 4, (rows,), generator=seeded(seed))

    def test_with_labels_it_equals_the_slow_reference(self):
        arguments, labels = self.labelled()
        for settings in ({}, {"weight": 30.0, **T1}, {"weight": 0}):
            rows = wasserstein_logit_loss(*arguments, labels=labels, reduction="none", **settings)
            expected = labelled_reference(*arguments, labels, **settings)
            torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-13)
            value = WassersteinLogitLoss(**settings)(*arguments, labels)
            torch.testing.assert_close(value, expected.mean())

    @pytest.mark.parametrize(
        ("dtype", "loss", "prefix", "rtol"),
        [(torch.float64, "loss", "grad_s", 1e-10), (torch.float32, "loss_f32", "gradf32_s", 2e-5)],
    )
    def test_with_labels_it_equals_the_golden(self, dtype, loss, prefix, rtol):
        stored = golden.arrays("wkd_l_sep_A")
        student, teacher, cost = leaves(tuple(stored[k].to(dtype) for k in ("in_s", "in_t", "in_cost")))
        settings = {"labels": stored["in_y"], "temperature": 4.0}
        value = wasserstein_logit_loss(student, teacher, cost, weight=30.0, **settings)
        torch.testing.assert_close(value, stored[loss].to(dtype), rtol=rtol, atol=0)
        expected = stored[prefix].to(dtype)
        (ours,) = gradients(value, (student,))
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=rtol * expected.abs().max().item())
        if dtype == torch.float64:
            both = (wasserstein_logit_loss(student, teacher, cost, weight=w, **settings) for w in (1.0, 0.0))
            others = next(both) - next(both)
            share = stored["alt__wd_term_only__loss"] / others.detach()  # as the term, or weighed
            assert min(abs(share.item() - 1), abs(share.item() - 30)) < 1e-9
            (ours,) = gradients(share * others, (student,))
            torch.testing.assert_close(ours, stored["alt__wd_term_only__grad_s"], rtol=1e-9, atol=1e-13)

    def test_labelled_gradients(self):
        arguments, labels = self.labelled(rows=3)
        teacher = arguments[1]

        def loss(student, cost):
            return wasserstein_logit_loss(student, teacher, cost, labels=labels, weight=3.0, **T1)

        assert torch.autograd.gradcheck(loss, [arguments[i].clone().requires_grad_() for i in (0, 2)])

    def test_labelled_extremes_stay_finite(self):
        for label, arguments in extremes(self.case).items():
            labels = torch.arange(len(arguments[0])) % 4
            inputs = leaves(tuple(x.float() for x in arguments))
            value = wasserstein_logit_loss(*inputs, labels=labels, weight=600.0)
            assert torch.isfinite(value), label
            assert all(torch.isfinite(g).all() for g in gradients(value, inputs)), label
        two = leaves((torch.randn(3, 2), torch.randn(3, 2), torch.rand(2, 2)))
        value = wasserstein_logit_loss(*two, labels=torch.tensor([0, 1, 0]))
        assert all(torch.isfinite(g).all() for g in gradients(value, two))

    def test_unlabelled_rows_are_left_out_whatever_they_hold(self):
        (student, teacher, cost), labels = self.labelled()
        labels[[1, 4]] = torch.tensor([-1, -7])
        kept = labels >= 0
        expected = wasserstein_logit_loss(student[kept], teacher[kept], cost, labels=labels[kept])
        held = leaves(tuple(x.masked_fill(~kept[:, None], torch.nan) for x in (student, teacher)))
        value = wasserstein_logit_loss(*held, cost, labels=labels)
        torch.testing.assert_close(value, expected)
        assert all(torch.isfinite(g).all() and not g[~kept].any() for g in gradients(value, held))
        nothing = wasserstein_logit_loss(*held, cost, labels=torch.full_like(labels, -1))
        assert nothing.item() == 0

    def test_iterations_lead_to_the_regularised_cost_of_transport(self):
        student, teacher, _ = self.case.inputs(seeded(), 3)
        # Zero on the diagonal: nothing need be moved between equal sides, and little as the regularisation goes.
        free = torch.ones(4, 4, dtype=torch.float64) - torch.eye(4)
        spread = [
            wasserstein_logit_loss(student, student, free, regularization=r, iterations=200) for r in (0.5, 0.1, 0.03)
        ]
        assert spread[0] > spread[1] > spread[2]
        assert spread[2] < 1e-6
        value = wasserstein_logit_loss(student, teacher, free, regularization=0.1, iterations=500, temperature=1.0)
        total = (student.softmax(1) - teacher.softmax(1)).abs().sum(1).mean() / 2
        torch.testing.assert_close(value, total, rtol=1e-2, atol=0)

    def test_what_does_not_fit_is_told(self):
        arguments, labels = self.labelled()
        for settings, part in (
            ({"labels": labels + 4}, "`labels` must be class labels in [0, 4)"),
            ({"labels": labels[:3]}, "`labels` [3]."),
            ({"weight": 30.0}, "`weight` must be 1 where no `labels` are given, since it weighs classes beside a"),
        ):
            with pytest.raises(ValueError) as error:
                wasserstein_logit_loss(*arguments, **settings)
            assert str(error.value).startswith("`wasserstein_logit_loss`: ")
            assert part in str(error.value)


class TestClassCost:
    def features(self):
        return torch.randn(5, 6, 3, generator=seeded(), dtype=torch.float64)

    def test_equals_the_golden(self):
        stored = golden.arrays("wkd_cost_A")
        features = stored["in_features"].double()
        for sharpness, key in ((0.0, "out_cost"), (1.0, "out_cost_sharp")):
            found = class_cost_matrix(features, sharpness=sharpness)
            torch.testing.assert_close(found, stored[key], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(class_cost_matrix(features).sum(), stored["loss"], rtol=1e-10, atol=0)
        narrow = class_cost_matrix(features.float())
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.sum(), stored["loss_f32"], rtol=2e-5, atol=0)

    def test_equals_the_formulas(self):
        features = self.features()
        x = features - features.mean(1, keepdim=True)
        for compared in ("samples", "covariances"):
            expected = torch.zeros(5, 5, dtype=torch.float64)
            for i in range(5):
                for j in range(5):
                    own = (x[i].T @ x[i]).norm() * (x[j].T @ x[j]).norm()
                    both = (x[j].T @ x[i]).square().sum()
                    if compared == "covariances":
                        both = ((x[i].T @ x[i]) * (x[j].T @ x[j])).sum()
                    expected[i, j] = 1 - both / own
            found = class_cost_matrix(features, sharpness=0.0, compared=compared)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
            assert not found.diagonal().any()
            sharp = class_cost_matrix(features, sharpness=2.0, compared=compared)
            torch.testing.assert_close(sharp, 1 - torch.exp(-2 * expected), rtol=1e-10, atol=1e-14)

    def test_only_the_cost_of_covariances_knows_no_order_of_samples(self):
        features = self.features()
        moved = features.clone()
        moved[2] = moved[2].flip(0)
        sides = [class_cost_matrix(x, compared="covariances") for x in (features, moved)]
        torch.testing.assert_close(*sides)
        assert (class_cost_matrix(features) - class_cost_matrix(moved)).abs().max() > 0.01

    def test_blocks_change_nothing(self, monkeypatch):
        features = self.features()
        expected = class_cost_matrix(features)
        monkeypatch.setattr("congruence.losses.wkd._AT_ONCE", 61)
        torch.testing.assert_close(class_cost_matrix(features), expected)

    @pytest.mark.parametrize("scale", [1e20, 1.0, 1e-15, 0.0])
    def test_it_is_finite_at_any_scale(self, scale):
        features = (scale * self.features()).float()
        features[1] = features[1, :1]
        features.requires_grad_()
        cost = class_cost_matrix(features)
        assert torch.isfinite(gradients(cost, (features,))[0]).all()
        assert ((cost >= 0) & (cost <= 1)).all()
        if scale:
            usual = self.features().float()
            usual[1] = usual[1, :1]
            torch.testing.assert_close(cost, class_cost_matrix(usual), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(cost[1, 0], torch.tensor(1 - math.exp(-1)))

    def test_one_sample_or_one_class(self):
        assert class_cost_matrix(torch.randn(1, 4, 3)).tolist() == [[0.0]]
        assert class_cost_matrix(torch.randn(2, 1, 3), sharpness=0.0).tolist() == [[0.0, 1.0], [1.0, 0.0]]
        assert class_cost_matrix(torch.randn(2, 4, 3).bfloat16()).dtype == torch.float32
        assert class_cost_matrix(torch.full((2, 4, 3), torch.nan)).isnan().all()

    @pytest.mark.parametrize(
        ("bad", "settings", "part"),
        [
            (torch.zeros(3, 2), {}, "`class_features` must be a non-empty 3-D tensor, got shape [3, 2]."),
            (torch.zeros(3, 2, 2), {"sharpness": -1}, "`sharpness` must be a number >= 0, got -1."),
            (torch.zeros(3, 2, 2), {"compared": "?"}, "`compared` must be one of 'samples', 'covariances', got '?'."),
        ],
    )
    def test_what_does_not_fit_is_told(self, bad, settings, part):
        with pytest.raises(ValueError) as error:
            class_cost_matrix(bad, **settings)
        assert str(error.value) == f"`class_cost_matrix`: {part}"


def maps(generator, rows):
    return tuple(torch.randn(rows, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))


def cells(side, grid):
    return [range(math.floor(i * side / grid), math.ceil((i + 1) * side / grid)) for i in range(grid)]


def feature_reference(student, teacher, *, grid=1, mean_weight=4.0, eps=1e-5):
    values = []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        total = 0.0
        for s, t in zip(ours, theirs, strict=True):
            for rows in cells(len(s), grid):
                for columns in cells(len(s[0]), grid):
                    sides = [[x[i][j] for i in rows for j in columns] for x in (s, t)]
                    means = [statistics.fmean(x) for x in sides]
                    spreads = [math.sqrt((statistics.variance(x) if len(x) > 1 else 0) + eps) for x in sides]
                    total += mean_weight * (means[0] - means[1]) ** 2 + (spreads[0] - spreads[1]) ** 2
        values.append(total / grid**2)
    return torch.tensor(values, dtype=torch.float64)


class TestGaussianFeature(LossTester):
    case = LossCase(
        function=gaussian_feature_loss,
        module=GaussianFeatureLoss,
        checks=FEATURE_CHECKS,
        inputs=maps,
        reference=feature_reference,
        settings=({}, {"grid": 2, "mean_weight": 1, "eps": 0.1}, {"grid": 3, "mean_weight": 0}),
        zero_at_equal=({}, {"grid": 2}, {"grid": 7}),
        goldens=(Golden("wkd_f_A"),),
        bad_arguments=(
            ((torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2)), "`student_map` [4, 3, 2, 2], `teacher_map` [4, 5, 2"),
            ((torch.zeros(4, 3), torch.zeros(4, 3)), "`student_map` must be a non-empty 4-D tensor, got shape [4, 3]."),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 2, 2)), "`teacher_map` [5, 3, 2, 2]."),
        ),
    )

    def test_its_terms_are_the_golden_ones(self):
        stored = golden.arrays("wkd_f_A")
        sides = stored["in_s"].double(), stored["in_t"].double()
        value = gaussian_feature_loss(*sides, mean_weight=0)
        torch.testing.assert_close(value, stored["out_std_term"], rtol=1e-10, atol=0)
        mean = gaussian_feature_loss(*sides, mean_weight=1) - value
        ratio = stored["out_mean_term"] / mean  # with its weight or without
        assert min(abs(ratio - 1), abs(ratio - 4)) < 1e-9

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (2, 3)])
    def test_cells_of_one_position_have_no_variance(self, height, width):
        sides = leaves(tuple(torch.randn(2, 3, height, width, generator=seeded(k)) for k in (0, 1)))
        for grid in (1, 3, 4):
            value = gaussian_feature_loss(*sides, grid=grid)
            expected = feature_reference(*(x.double() for x in sides), grid=grid).mean().float()
            torch.testing.assert_close(value, expected)
            assert all(torch.isfinite(g).all() for g in gradients(value, sides))

    def test_the_larger_map_is_pooled(self):
        small, large = (torch.randn(2, 3, side, side, generator=seeded(side)) for side in (2, 6))
        pooled = torch.nn.functional.adaptive_avg_pool2d(large, 2)
        torch.testing.assert_close(gaussian_feature_loss(small, large), gaussian_feature_loss(small, pooled))
        torch.testing.assert_close(gaussian_feature_loss(large, small), gaussian_feature_loss(pooled, small))

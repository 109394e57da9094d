import json
import math
from dataclasses import asdict

import pytest
import torch
from _harness.losses import seeded

from congruence.losses import intra_class_contrastive_loss
from congruence.metrics import inter_class_similarity, intra_class_similarity, intra_inter_bounds, intra_inter_ratio


def samples(rows=30, classes=4):
    generator = seeded()
    embeddings = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    positive = embeddings + 0.3 * torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return embeddings, torch.randint(-1, classes, (rows,), generator=seeded(1)), positive


def slow(embeddings, labels, positive):
    """The four means of theorem 1 by a loop over anchors: d ratio, L_intra, L_inter, right-hand side."""
    totals, anchors = [0.0] * 4, 0

    def cosine(a, b):
        return torch.cosine_similarity(a, b, dim=0).item()

    for i, label in enumerate(labels.tolist()):
        near = [cosine(embeddings[i], embeddings[j]) for j, k in enumerate(labels) if j != i and k == label]
        far = [cosine(embeddings[i], embeddings[j]) for j, k in enumerate(labels) if k not in (label, -1)]
        if label < 0 or not near or not far:
            continue
        drawn = math.exp(cosine(embeddings[i], positive[i]))
        near, far = ([math.exp(value) for value in side] for side in (near, far))
        intra, inter = (-math.log(drawn / (drawn + sum(side))) for side in (near, far))
        right = len(far) / len(near) * (math.exp(intra) - 1) / (math.exp(inter) - 1)
        values = ((sum(near) / len(near)) / (sum(far) / len(far)), intra, inter, right)
        totals, anchors = [total + value for total, value in zip(totals, values, strict=True)], anchors + 1
    return [total / anchors for total in totals], anchors


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 100])
def test_equals_the_slow_loop(chunk_size):
    embeddings, labels, positive = samples()
    for view in (positive, None):
        measured = intra_inter_ratio(embeddings, labels, view, chunk_size=chunk_size)
        values, anchors = slow(embeddings, labels, embeddings if view is None else view)
        assert [measured.similarities, measured.intra_loss, measured.inter_loss, measured.losses] == pytest.approx(
            values, rel=1e-12
        )
        assert measured.anchors == anchors
        assert measured.loss_ratio == pytest.approx(values[1] / values[2], rel=1e-12)


def test_theorem_1_both_sides_are_one_number():
    embeddings, labels, positive = samples(60)
    measured = intra_inter_ratio(embeddings, labels, positive)
    assert measured.losses == pytest.approx(measured.similarities, rel=1e-13)
    assert abs(measured.limit / measured.similarities - 1) > 1e-3


def test_theorem_1_as_printed_comes_near_with_many_negatives():
    off = []
    for rows in (20, 200, 2000):
        measured = intra_inter_ratio(torch.randn(rows, 5, generator=seeded()), torch.arange(rows) % 4)
        off.append(abs(measured.limit / measured.similarities - 1))
    assert off[0] > 5 * off[1] > 25 * off[2]


def test_the_intra_loss_is_the_loss():
    embeddings, labels, positive = samples()
    labels = labels.clamp(min=0)
    sure = 20 * torch.nn.functional.one_hot(labels, 4).double()
    loss = intra_class_contrastive_loss(embeddings, positive, sure, labels, margin_threshold=0.5).item()
    assert intra_inter_ratio(embeddings, labels, positive).intra_loss == pytest.approx(loss, rel=1e-12)


def test_equal_classes_make_it_the_ratio_of_the_pair_means_where_anchors_are_alike():
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    pairs = intra_class_similarity(square, labels) / inter_class_similarity(square, labels)
    assert intra_inter_ratio(square, labels).similarities == pytest.approx(pairs, rel=1e-12)


def test_results_are_json():
    embeddings, labels, _ = samples()
    for result in (
        intra_inter_ratio(embeddings, labels),
        intra_inter_bounds(weight=0.02, inter_negatives=9, intra_negatives=3),
    ):
        assert json.loads(json.dumps(asdict(result))) == asdict(result)


def test_the_constants_are_the_papers():
    m, n, e2 = 3, 7, math.e**2
    bounds = intra_inter_bounds(weight=0.5, inter_negatives=n, intra_negatives=m)
    constants = (
        math.log(1 + m * e2) / math.log(1 + m / e2) - 1,
        math.log(1 + n / e2) / math.log(1 + m / e2),
        math.log(1 + n * e2) / math.log(1 + n / e2) - 1,
        math.log(1 + m / e2) / math.log(1 + n / e2),
    )
    assert (bounds.c0, bounds.c1, bounds.c2, bounds.c3) == pytest.approx(constants, rel=1e-13)
    assert bounds.lower == pytest.approx(1 / (0.5 * constants[0] + constants[1]))
    assert bounds.upper == pytest.approx(constants[2] / 0.5 + constants[3])


def best(labels, weight, width=4, starts=2):
    """Minimise eq. 8, its mean over all anchors, over free unit embeddings; the positive is the sample itself."""
    classes = labels[:, None] == labels[None, :]
    near, far = classes & ~torch.eye(len(labels), dtype=torch.bool), ~classes

    def objective(rows):
        values = torch.exp(torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T)
        intra, inter = (torch.log1p((values * mask).sum(1) / math.e).mean() for mask in (near, far))
        return inter + weight * intra

    candidates = []
    for seed in range(starts):
        rows = torch.randn(len(labels), width, generator=seeded(seed), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([rows], max_iter=150, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

        def closure(rows=rows, optimizer=optimizer):
            optimizer.zero_grad()
            value = objective(rows)
            value.backward()
            return value

        optimizer.step(closure)
        candidates.append((objective(rows).item(), rows.detach()))
    return min(candidates, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0, 10.0])
def test_theorem_2_holds_at_the_optimum(weight):
    labels = torch.arange(9) % 3
    measured = intra_inter_ratio(best(labels, weight), labels)
    bounds = intra_inter_bounds(weight=weight, inter_negatives=6, intra_negatives=2)
    assert bounds.lower < measured.loss_ratio < bounds.upper


def test_a_larger_weight_spreads_the_classes():
    labels = torch.arange(9) % 3
    ratios = [intra_inter_ratio(best(labels, weight), labels).loss_ratio for weight in (0.01, 1.0, 10.0)]
    assert ratios[0] > ratios[1] > ratios[2]


def test_theorem_2_is_tight_for_one_anchor():
    """Alone, an anchor has all its negatives opposite: both losses are least, whatever the weight."""
    rows = torch.tensor([[1.0, 0.0], *[[-1.0, 0.0]] * 7], dtype=torch.float64)
    values = torch.exp(rows[0] @ rows[1:].T)
    ratio = torch.log1p(values[:2].sum() / math.e) / torch.log1p(values[2:].sum() / math.e)
    bounds = intra_inter_bounds(weight=1e9, inter_negatives=5, intra_negatives=2)
    assert ratio.item() == pytest.approx(bounds.upper, rel=1e-6)
    bounds = intra_inter_bounds(weight=1e-9, inter_negatives=5, intra_negatives=2)
    assert ratio.item() == pytest.approx(bounds.lower, rel=1e-6)


def test_the_printed_upper_bound_fails_where_its_minima_are_out_of_reach():
    """Two classes, a tetrahedron's corners and their opposites; an anchor's one inter-class negative is its opposite.

    L_inter has all it can get, and by Jensen's inequality so has L_intra: four unit vectors have a mean cosine >= −1/3.
    This is the optimum for every λ.
    """
    intra, inter = math.log(1 + 3 * math.exp(-1 / 3 - 1)), math.log(1 + math.exp(-2))
    settings = {"weight": 20.0, "inter_negatives": 1, "intra_negatives": 3}
    assert intra / inter > intra_inter_bounds(**settings).upper
    mended = intra_inter_bounds(**settings, least_inter=inter, least_intra=intra)
    assert mended.lower < intra / inter < mended.upper


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"embeddings": torch.ones(3)}, "`embeddings` must be a non-empty 2-D tensor, got shape [3]."),
        ({"labels": torch.tensor([0, 1])}, "must have the same number of rows, got `embeddings` [3, 2], `labels` [2]."),
        ({"labels": torch.zeros(3).long()}, "`labels` must have a class with two samples and another class, got none."),
        ({"labels": torch.arange(3)}, "`labels` must have a class with two samples and another class, got none."),
        ({"labels": -torch.ones(3).long()}, "`labels` must have a class with two samples and another class, got none."),
        ({"positive": torch.ones(3, 1)}, "the same shape, got `embeddings` [3, 2], `positive` [3, 1]."),
        ({"chunk_size": 0}, "`chunk_size` must be an integer >= 1 or None, got 0."),
    ],
)
def test_errors(change, sentence):
    with pytest.raises(ValueError) as error:
        intra_inter_ratio(**{"embeddings": torch.ones(3, 2), "labels": torch.tensor([0, 0, 1]), **change})
    assert str(error.value).startswith("`intra_inter_ratio`: ")
    assert str(error.value).endswith(sentence)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight": 0.0}, "`weight` must be a number > 0, got 0.0."),
        ({"inter_negatives": 0}, "`inter_negatives` must be an integer >= 1, got 0."),
        ({"intra_negatives": 1.5}, "`intra_negatives` must be an integer >= 1, got 1.5."),
        ({"least_inter": 0}, "`least_inter` must be a number > 0 or None, got 0."),
        ({"least_intra": -1.0}, "`least_intra` must be a number > 0 or None, got -1.0."),
    ],
)
def test_bound_errors(change, sentence):
    with pytest.raises(ValueError) as error:
        intra_inter_bounds(**{"weight": 1.0, "inter_negatives": 1, "intra_negatives": 1, **change})
    assert str(error.value) == f"`intra_inter_bounds`: {sentence}"

import math

import pytest
import torch
from _harness.losses import seeded
from _harness.memory import peak_bytes

from congruence.losses import intra_class_contrastive_loss
from congruence.metrics import inter_class_similarity, intra_class_similarity, intra_inter_ratio, soft_label_entropy
from congruence.metrics.class_sums import class_sums


def samples(rows=30, classes=4):
    embeddings = torch.randn(rows, 5, generator=seeded(0), dtype=torch.float64)
    return embeddings, torch.randint(-1, classes, (rows,), generator=seeded(1))


def reference(embeddings, labels):
    same, other = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i == j or labels[i] < 0 or labels[j] < 0:
                continue
            cosine = torch.cosine_similarity(embeddings[i], embeddings[j], dim=0).item()
            (same if labels[i] == labels[j] else other).append(math.exp(cosine))
    return sum(same) / len(same), sum(other) / len(other)


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 30, 100])
def test_equals_the_slow_reference(chunk_size):
    embeddings, labels = samples()
    within, between = reference(embeddings, labels)
    assert intra_class_similarity(embeddings, labels, chunk_size=chunk_size) == pytest.approx(within, rel=1e-12)
    assert inter_class_similarity(embeddings, labels, chunk_size=chunk_size) == pytest.approx(between, rel=1e-12)


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("classes", [1, 4, 40])
@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_sums_of_every_sample_are_the_definition(rows, classes, chunk_size):
    embeddings, labels = samples(rows, classes)
    values = torch.cosine_similarity(embeddings[:, None], embeddings[None], dim=2).exp().fill_diagonal_(0)
    same = labels[:, None] == labels[None]
    sums = class_sums(embeddings, labels, chunk_size)
    expected = (values * same).sum(1), (values * ~same).sum(1), same.sum(1) - 1, (~same).sum(1)
    for ours, theirs in zip(sums, expected, strict=True):
        assert torch.allclose(ours, theirs.double(), rtol=1e-12, atol=0)
    assert torch.allclose(class_sums(embeddings, labels, chunk_size, between=False).near, expected[0], rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 3000])
@pytest.mark.parametrize("chunk_size", [50, 200])
def test_memory_is_as_said(classes, chunk_size):
    embeddings, labels = torch.randn(3000, 8, generator=seeded()), torch.arange(3000) % classes
    for measure in (intra_class_similarity, inter_class_similarity, intra_inter_ratio):
        if classes == 3000 and measure is not inter_class_similarity:
            continue  # no class of two
        peak = peak_bytes(lambda f=measure: f(embeddings, labels, chunk_size=chunk_size))
        assert peak <= 24 * chunk_size * 3000 + 40 * 3000 * 8


def test_theorem_1():
    """d_intra/d_inter = K (e^{L_intra} − 1)/(e^{L_inter} − 1), K = n/m, for one anchor with m and n negatives."""
    rows, m, n = torch.randn(9, 4, generator=seeded(2), dtype=torch.float64), 3, 5
    anchor, positive = rows[:1] / rows[0].norm(), rows[:1] + 0.1

    def contrast(negatives):
        count = 1 + len(negatives)
        sure = torch.tensor([[9.0, 0.0]]).double().repeat(count, 1)
        sure[1:] = 0  # only the anchor passes the gate
        pair = torch.cat([positive, negatives]), sure, torch.zeros(count).long()
        gated = {"margin_threshold": 0.5, "reduction": "gated_mean"}
        return intra_class_contrastive_loss(torch.cat([anchor, negatives]), *pair, **gated).item()

    near, far = rows[1 : 1 + m], rows[1 + m :]
    within, between = ((anchor @ (part / part.norm(dim=1, keepdim=True)).T).exp().mean().item() for part in (near, far))
    ratio = n / m * math.expm1(contrast(near)) / math.expm1(contrast(far))
    assert within / between == pytest.approx(ratio, rel=1e-12)


def test_lengths_do_not_matter_and_the_ends_are_e_and_its_inverse():
    embeddings = torch.tensor([[1.0, 0.0], [9.0, 0.0], [-2.0, 0.0], [-3.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert intra_class_similarity(embeddings, labels) == pytest.approx(math.e)
    assert inter_class_similarity(embeddings, labels) == pytest.approx(1 / math.e)


def test_entropy():
    logits = torch.tensor([[0.0, 0.0], [1e4, -1e4]])
    assert soft_label_entropy(logits) == pytest.approx(math.log(2) / 2)
    logits = torch.randn(8, 5, generator=seeded(3), dtype=torch.float64)
    expected = torch.distributions.Categorical(logits=logits / 3).entropy().mean().item()
    assert soft_label_entropy(logits, temperature=3.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: intra_class_similarity(torch.ones(2, 3), torch.tensor([0, 1])),
            "`intra_class_similarity`: `labels` must have a class with two samples, got none.",
        ),
        (
            lambda: inter_class_similarity(torch.ones(3, 3), torch.tensor([0, 0, -1])),
            "`inter_class_similarity`: `labels` must have two classes, got fewer.",
        ),
        (
            lambda: intra_class_similarity(torch.ones(2, 3), torch.tensor([0])),
            "got `embeddings` [2, 3], `labels` [1].",
        ),
        (
            lambda: inter_class_similarity(torch.ones(2, 3), torch.tensor([0, 1]), chunk_size=0),
            "`inter_class_similarity`: `chunk_size` must be an integer >= 1 or None, got 0.",
        ),
        (
            lambda: soft_label_entropy(torch.ones(2, 3), temperature=0.0),
            "`soft_label_entropy`: `temperature` must be a number > 0, got 0.0.",
        ),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).endswith(sentence)

"""Dense logits: each position that counts is a row, whatever the models, layouts, masks, ranks and micro-batches."""

from __future__ import annotations

import pytest
import torch
from _harness import dense_ranks
from _harness.runs import on_ranks
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence import Distiller, Term
from congruence.losses import cross_entropy_loss, dist_loss, distillation_loss, standardize_logits
from congruence.methods import Needs, row

CLASSES = 4


class Segmenter(nn.Module):
    """A small U-Net: down, up, and a convolution that gives the classes."""

    def __init__(self, width, *, resized=False):
        super().__init__()
        torch.manual_seed(width)
        self.down = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.classes = nn.Conv2d(width + 1, CLASSES, 1)
        self.resized = resized

    def forward(self, x):
        logits = self.classes(torch.cat([self.up(self.down(x).relu()), x], 1))
        return F.interpolate(logits, scale_factor=2.0) if self.resized else logits


class Tagger(nn.Module):
    """A model of words that gives each its class, as a mapping."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.mix, self.classes = nn.Embedding(30, width), nn.GRU(width, width, batch_first=True), None
        self.classes = nn.Linear(width, CLASSES)

    def forward(self, input_ids, attention_mask):
        return {"logits": self.classes(self.mix(self.embed(input_ids))[0])}


def images(rows=4, size=6, seed=0):
    return torch.randn(rows, 1, size, size, generator=torch.Generator().manual_seed(seed))


def classes(*shape, seed=1, unlabelled=True):
    labels = torch.randint(0, CLASSES, shape, generator=torch.Generator().manual_seed(seed))
    if unlabelled:
        labels.view(-1)[::5] = -100
    return labels


def words(length=5, seed=0):
    ids = torch.randint(0, 30, (4, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(length) < torch.tensor([length, length - 2, 1, length - 1])[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def slow_rows(logits, labels=None, mask=None):
    """Collect positions one by one."""
    rows, theirs = [], []
    last = logits.dim() == 3
    places = torch.cartesian_prod(*(torch.arange(n) for n in (logits.shape[:2] if last else (*logits.shape[2:],))))
    for b in range(1 if last else logits.shape[0]):
        for place in places.tolist():
            at = tuple(place) if last else (b, *place)
            if mask is not None and not mask[at]:
                continue
            rows.append(logits[at] if last else logits[(b, slice(None), *place)])
            if labels is not None:
                theirs.append(labels[at])
    return torch.stack(rows), torch.stack(theirs) if theirs else None


def terms(*keys, **more):
    return [Term(key, weight=1.0, **more) for key in keys]


@pytest.mark.parametrize("resized", [False, True])
def test_each_position_of_a_map_is_a_row(resized):
    teacher, student = Segmenter(8, resized=resized), Segmenter(3, resized=resized)
    x, y = images(), classes(4, *(12, 12) if resized else (6, 6))
    distiller = Distiller(teacher, student, terms("ce", "kd", "dist"), example=x[:2])
    out = distiller(x, y)
    s, labels = slow_rows(student(x), y)
    t, _ = slow_rows(teacher(x))
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(s, labels, ignore_index=-100))
    torch.testing.assert_close(out.terms["kd"], distillation_loss(s, t))
    torch.testing.assert_close(out.terms["dist"], dist_loss(s, t))
    out.loss.backward()
    got = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    (cross_entropy_loss(s, labels) + distillation_loss(s, t) + dist_loss(s, t)).backward()
    torch.testing.assert_close(got, [p.grad for p in student.parameters()])


def test_tokens_leave_out_what_the_attention_mask_says_is_padding():
    teacher, student, x = Tagger(8), Tagger(4), words()
    y = classes(4, 5)
    mask = x["attention_mask"].bool()
    out = Distiller(teacher, student, terms("ce", "kd", "dist"), example=x)(x, y)
    s, labels = slow_rows(student(**x)["logits"], y, mask)
    t, _ = slow_rows(teacher(**x)["logits"], None, mask)
    assert len(s) == int(mask.sum())
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(s, labels, ignore_index=-100))
    torch.testing.assert_close(out.terms["kd"], distillation_loss(s, t))
    torch.testing.assert_close(out.terms["dist"], dist_loss(s, t))


def test_what_padding_holds_changes_nothing():
    teacher, student, x, y = Tagger(8), Tagger(4), words(), classes(4, 5)
    distiller = Distiller(teacher, student, terms("ce", "kd", "dist"), example=x)
    before = distiller(x, y).loss
    noise = torch.randint(0, 30, (4, 5), generator=torch.Generator().manual_seed(9))
    other = {**x, "input_ids": torch.where(x["attention_mask"] == 1, x["input_ids"], noise)}
    assert torch.equal(distiller(other, torch.where(x["attention_mask"] == 1, y, 0)).loss, before)
    longer = {name: F.pad(value, (0, 3)) for name, value in x.items()}
    torch.testing.assert_close(distiller(longer, F.pad(y, (0, 3), value=1)).loss, before)


class Masked(nn.Module):
    """A segmenter of a mapping that holds which pixels are valid."""

    def __init__(self, width):
        super().__init__()
        self.inner = Segmenter(width)

    def forward(self, x, valid):
        return self.inner(x)


def test_a_mask_of_a_map_counts_pixels():
    teacher, student, x, y = Masked(8), Masked(3), images(), classes(4, 6, 6)
    valid = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(2)) > 0.4
    valid[1] = False  # a sample may have none
    given = {"x": x, "valid": valid}
    distiller = Distiller(teacher, student, terms("ce", "kd", mask="valid"), example=given)
    s, labels = slow_rows(student(**given), y, valid)
    t, _ = slow_rows(teacher(**given), None, valid)
    out = distiller(given, y)
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(s, labels, ignore_index=-100))
    torch.testing.assert_close(out.terms["kd"], distillation_loss(s, t))
    for none in (terms("ce", "kd", "dist", mask="valid"),):
        empty = {"x": x, "valid": torch.zeros_like(valid)}
        out = Distiller(teacher, student, none, example=given)(empty, y)
        out.loss.backward()
        assert out.loss.item() == 0.0
        assert all((p.grad == 0).all() for p in student.parameters())
    with pytest.raises(ValueError, match="looks like a mask of them: name the mask"):
        Distiller(teacher, student, terms("ce"), example=given)


def test_soft_labels_of_positions_and_hyperparameters_reach_the_loss():
    student, x = Segmenter(3), images()
    soft = torch.rand(4, CLASSES, 6, 6, generator=torch.Generator().manual_seed(3)).softmax(1)
    s, _ = slow_rows(student(x))
    q, _ = slow_rows(soft)
    out = Distiller(None, student, ["ce"], example=x[:2])(x, soft)
    torch.testing.assert_close(out.loss, F.cross_entropy(s, q))
    settings = {"class_weights": [0.5, 1.0, 2.0, 0.1], "label_smoothing": 0.1}
    y = classes(4, 6, 6)
    _, labels = slow_rows(student(x), y)
    out = Distiller(None, student, [Term("ce", **settings)], example=x[:2])(x, y)
    torch.testing.assert_close(
        out.loss,
        F.cross_entropy(s, labels, torch.tensor([0.5, 1.0, 2.0, 0.1]), ignore_index=-100, label_smoothing=0.1),
    )


def test_micro_batches_give_the_gradient_of_one_pass():
    x, y = images(6), classes(6, 6, 6)
    found = []
    for size in (None, 2):
        student = Segmenter(3)
        distiller = Distiller(Segmenter(8), student, terms("ce", "kd", "dist"), example=x[:2])
        distiller(x, y, micro_batch=size).loss.backward()
        found.append([p.grad for p in student.parameters()])
    torch.testing.assert_close(*found)


class ChannelsLast(nn.Module):
    """A model whose classes come last in a map, as no layer tells."""

    def __init__(self, width):
        super().__init__()
        self.inner = Segmenter(width)

    def forward(self, x):
        return self.inner(x).permute(0, 2, 3, 1).square() - 0.5


def test_a_named_layout_says_where_the_classes_are():
    teacher, student, x, y = ChannelsLast(8), ChannelsLast(3), images(size=4), classes(4, 4, 4)
    out = Distiller(teacher, student, terms("ce", "kd", layout="BHWC"), example=x[:2])(x, y)
    s, t = (model(x).flatten(0, 2) for model in (student, teacher))
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(s, y.flatten(), ignore_index=-100))
    torch.testing.assert_close(out.terms["kd"], distillation_loss(s, t))


def test_a_named_layout_says_nothing_of_rows():
    torch.manual_seed(0)
    teacher, student, x = nn.Linear(5, 3), nn.Linear(5, 3), torch.randn(4, 5)
    named, plain = (Distiller(teacher, student, terms("kd", layout=of), example=x)(x) for of in ("BHWC", None))
    assert torch.equal(named.loss, plain.loss)


def test_changed_logits_are_changed_position_by_position():
    teacher, student, x = Segmenter(8), Segmenter(3), images()
    out = Distiller(teacher, student, terms("kd", standardize=True, uncertainty=0.5), example=x[:2])(x)
    (s, _), (t, _) = slow_rows(student(x)), slow_rows(teacher(x))
    doubt = (t.softmax(1) ** 0.5).sum(1)
    z = [standardize_logits(each) for each in (s, t)]
    torch.testing.assert_close(out.loss, (doubt * distillation_loss(*z, reduction="none")).mean())


@pytest.mark.parametrize("key", ["lskd", "ttm", "abkd"])
def test_other_methods_of_one_rows_logits_read_positions(key):
    teacher, student, x = Segmenter(8), Segmenter(3), images()
    out = Distiller(teacher, student, terms(key), example=x[:2])(x)
    (s, _), (t, _) = slow_rows(student(x)), slow_rows(teacher(x))
    torch.testing.assert_close(out.loss, row(key).function(s, t))


class Encoder(nn.Module):
    """Maps behind a norm, or a ReLU: no logits."""

    def __init__(self, end):
        super().__init__()
        self.body, self.end = nn.Conv2d(1, CLASSES, 3, padding=1), end

    def forward(self, x):
        return self.end(self.body(x))


@pytest.mark.parametrize("end", [nn.ReLU(), nn.BatchNorm2d(CLASSES), nn.Softmax(1), nn.Sigmoid()])
def test_maps_that_are_no_logits_are_asked_for(end):
    with pytest.raises(ValueError, match="has no default layer for 'logits'"):
        Distiller(Encoder(end), Segmenter(3), ["kd"], example=images(2))


def test_errors_are_one_sentence():
    x = images()
    distiller = Distiller(Segmenter(8), Segmenter(3), ["ce", "kd"], example=x[:2])
    for labels, got in (
        (torch.zeros(4).long(), r"\[4\]"),
        (torch.zeros(4, 1, 6, 6).long(), r"\[4, 1, 6, 6\]"),
        (torch.zeros(4, 3, 3).long(), r"\[4, 3, 3\]"),
    ):
        with pytest.raises(
            ValueError,
            match=rf"^The term 'ce' reads logits \[4, 4, 6, 6\], whose labels must be \[4, 6, 6\] .* got {got}\.$",
        ):
            distiller(x, labels)
    with pytest.raises(ValueError, match=r"^`cross_entropy_loss`: `labels` must be class labels in \[0, 4\)"):
        distiller(x, torch.full((4, 6, 6), 7))
    with pytest.raises(ValueError, match=r"^The term 'kd' compares logits position by position, got \[2, 4, 12, 12\]"):
        Distiller(Segmenter(8), Segmenter(3, resized=True), ["kd"], example=x[:2])
    with pytest.raises(ValueError, match=r"logits must be \[batch, classes\], .* \(kd, dist, ce"):
        Distiller(Tagger(8), Tagger(4), ["dkd"], example=words())
    turned = {**words(), "attention_mask": words()["attention_mask"].T}
    with pytest.raises(ValueError, match=r"the mask 'attention_mask' \[5, 4\] does not fit"):
        Distiller(Tagger(8), Tagger(4), ["kd"], example=turned)
    with pytest.raises(ValueError, match=r"^`Needs`: `dense` must be of the logits"):
        Needs(roles=("features", "logits"), dense=True)


def test_features_of_a_dense_model_are_pooled_rows():
    teacher, student, x = Segmenter(8), Segmenter(3), images()
    out = Distiller(teacher, student, [Term("pkt", student_layer="down", teacher_layer="down")], example=x[:2])(x)
    pooled = [model.down(x).mean((2, 3)) for model in (student, teacher)]
    torch.testing.assert_close(out.terms["pkt"], cg.losses.pkt_loss(*pooled))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(dense_ranks.on_a_rank, folder)
    return folder


def test_two_ranks_with_other_numbers_of_labels_are_one_and_send_no_logits(ranks):
    for labels, *of_ranks in zip(
        dense_ranks.LABELS, *(torch.load(ranks / f"plain-{rank}.pt") for rank in (0, 1)), strict=True
    ):
        expected, _ = dense_ranks.plain_gradients(labels, slice(0, 4))
        for gradients, calls in of_ranks:
            torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)
            assert calls == {"hosts": 1, "gather": 1}


def test_two_ranks_with_other_numbers_of_positions_are_one(ranks):
    alone = [dense_ranks.gradients(key, slice(0, 4), **settings) for key, settings in dense_ranks.CASES] * 2
    for rank in (0, 1):
        for (loss, of_ranks), (whole, expected) in zip(torch.load(ranks / f"dense-{rank}.pt"), alone, strict=True):
            torch.testing.assert_close(of_ranks, expected, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(loss, whole, rtol=1e-9, atol=1e-12)

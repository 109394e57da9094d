"""`compare` on dense logits and on labels that hold independently, beside their definitions in loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import congruence as cg


class Segments(nn.Module):
    """A class for each pixel."""

    def __init__(self, seed, width, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, classes, 1)

    def forward(self, images):
        return self.head(self.body(images).relu())


class Tags(nn.Module):
    """A class for each token."""

    def __init__(self, seed, width, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(9, width), nn.Linear(width, classes)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids).tanh())


def drawn(*shape, seed=0, low=-1, high=3):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def segmented(sizes=((6, 4), (3, 4))):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(count, 2, 5, 4, generator=generator), drawn(count, 5, 4, seed=count)) for count, _ in sizes]


def by_loop(answers, others, labels, classes):
    """Accuracy, mean IoU and agreement over the labelled positions."""
    rows = [(a, b, t) for a, b, t in zip(answers, others, labels, strict=True) if t >= 0]
    ratios = []
    for each in range(classes):
        both = sum(a == each and t == each for a, _, t in rows)
        either = sum(a == each or t == each for a, _, t in rows)
        if either:
            ratios.append(both / either)
    right = sum(a == t for a, _, t in rows) / len(rows)
    return right, sum(ratios) / len(ratios), sum(a == b for a, b, _ in rows) / len(rows)


def flat(model, batches, dimension):
    with torch.no_grad():
        return [c for inputs, *_ in batches for c in model(inputs).argmax(dimension).flatten().tolist()]


def check_positions(teacher, student, batches, dimension):
    found = cg.compare(teacher, student, batches)
    sides = [flat(model, batches, dimension) for model in (student, teacher)]
    labels = [label for _, of_batch in batches for label in of_batch.flatten().tolist()]
    for side, answers, others in (("student", *sides), ("teacher", *sides[::-1])):
        right, iou, agreed = by_loop(answers, others, labels, 3)
        assert getattr(found, f"{side}_position_accuracy") == pytest.approx(right, abs=1e-12)
        assert getattr(found, f"{side}_mean_iou") == pytest.approx(iou, abs=1e-12)
        assert found.position_agreement == pytest.approx(agreed, abs=1e-12)
    assert found.teacher_accuracy is None
    return found


def test_pixels(caplog):
    found = check_positions(Segments(0, 8), Segments(1, 4), segmented(), 1)
    assert "mean IoU (%)" in found.table()
    assert "positions agreed on (%)" in found.table()
    assert not caplog.messages


def test_tokens_of_batches_of_several_lengths():
    batches = [(drawn(4, length, seed=length, low=0, high=9), drawn(4, length, seed=9 + length)) for length in (5, 7)]
    for _, labels in batches:
        labels[0, 3:] = -100  # padding
    check_positions(Tags(0, 8), Tags(1, 4), batches, 2)


def test_a_single_logit_a_pixel_says_yes_or_no():
    teacher, student = Segments(0, 8, classes=1), Segments(1, 4, classes=1)
    batches = [(images, labels.clamp(max=1)) for images, labels in segmented()]
    found = cg.compare(teacher, student, batches)
    with torch.no_grad():
        answers = torch.cat([(student(images) > 0).flatten() for images, _ in batches])
    labels = torch.cat([labels.flatten() for _, labels in batches])
    right = (answers.long() == labels)[labels >= 0].double().mean()
    assert found.student_position_accuracy == pytest.approx(right.item())


def test_positions_without_any_label():
    batches = [(images, torch.full_like(labels, -1)) for images, labels in segmented()]
    found = cg.compare(Segments(0, 8), Segments(1, 4), batches)
    assert found.student_mean_iou is None
    assert found.position_agreement is None
    assert "too few, without labels" in found.left_out["position_agreement"]


def test_sides_of_other_resolutions_share_no_positions():
    class Half(Segments):
        def forward(self, images):
            return super().forward(images)[:, :, ::2, ::2]

    found = cg.compare(Segments(0, 8), Half(1, 4), segmented())
    assert found.teacher_mean_iou is not None
    assert found.student_mean_iou is None
    assert found.position_agreement is None
    assert found.left_out["position_agreement"] == "needs dense logits of both sides for the same positions"


def test_a_model_of_positions_on_data_with_classes_is_kept(tmp_path):
    """A text encoder's states look like dense logits; nothing asks for their classes here."""
    pixels, classes = drawn(12, 2, 5, 4, low=0, high=256).byte(), torch.arange(12) % 3
    dataset = cg.data.ArrayDataset(pixels, classes, classes=3, mean=(0.5, 0.5), std=(0.2, 0.2))
    loader = cg.data.loader(dataset, batch_size=4, shuffle=False)
    found = [cg.compare(Segments(0, 8), Segments(1, 4), loader, keep=tmp_path).to_dict() for _ in range(2)]
    assert found[0] == found[1]
    assert found[0]["position_agreement"] is None
    assert any(tmp_path.rglob("*"))


def labelled(kind):
    labels = drawn(24, 4, seed=3, high=2).to(kind)
    return [(torch.randn(24, 6, generator=torch.Generator().manual_seed(2)), labels)]


@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_independent_labels(kind):
    pair = [nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 4)) for width in (8, 3)]
    batches = labelled(kind)
    found = cg.compare(*pair, batches)
    points, labels = batches[0]
    with torch.no_grad():
        theirs, ours = (model(points) for model in pair)
    assert found.student_mean_average_precision == pytest.approx(cg.metrics.mean_average_precision(ours, labels))
    assert found.teacher_macro_f1 == pytest.approx(cg.metrics.macro_f1(theirs, labels))
    pairs = [(a > 0, b > 0) for a, b, t in zip(*(x.flatten() for x in (ours, theirs, labels)), strict=True) if t >= 0]
    assert found.label_agreement == pytest.approx(sum(bool(a == b) for a, b in pairs) / len(pairs))
    # These logits are of no classes: neither the largest nor a softmax means anything.
    assert (found.agreement, found.kl, found.student_accuracy) == (None, None, None)


def test_probabilities_count_as_their_largest():
    pair = [nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 4)) for width in (8, 3)]
    points = labelled(torch.int64)[0][0]
    soft = torch.rand(24, 4, generator=torch.Generator().manual_seed(5)).softmax(1)
    found, hard = (cg.compare(*pair, [(points, labels)]) for labels in (soft, soft.argmax(1)))
    assert found.to_dict() == hard.to_dict()
    assert found.student_accuracy is not None

"""`Inputs`: each model runs on its own part, wherever a batch goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import congruence as cg
from congruence import Distiller, Inputs, Term
from congruence.evaluation.embed import embed_all


class Bag(nn.Module):
    """A vocabulary of its own, the mean over real tokens, and a head."""

    def __init__(self, words, width, classes=3):
        super().__init__()
        self.table, self.head = nn.Embedding(words, width), nn.Linear(width, classes)

    def forward(self, input_ids, attention_mask):
        real = attention_mask[..., None].float()
        return self.head((self.table(input_ids) * real).sum(1) / real.sum(1).clamp(min=1))


def tokens(words, length, rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(words, (rows, length), generator=generator)
    mask = (torch.arange(length) < 1 + torch.arange(rows)[:, None] % length).long()
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Bag(50, 8), Bag(20, 4)


@pytest.fixture
def batch():
    return Inputs(teacher=tokens(50, 9), student=tokens(20, 5, seed=1)), torch.arange(8) % 3


TERMS = [Term("ce"), Term("kd"), Term("pkt"), Term("rkd")]


def test_each_model_gets_its_own(pair, batch):
    teacher, student = pair
    inputs, labels = batch
    distiller = Distiller(teacher, student, TERMS, example=inputs)
    out = distiller(inputs, labels)
    with torch.no_grad():
        torch.testing.assert_close(out.teacher, teacher(**inputs["teacher"]))
        torch.testing.assert_close(out.student, student(**inputs["student"]))
    distiller.eval()
    torch.testing.assert_close(distiller.logits("student", inputs), out.student, rtol=1e-6, atol=1e-6)
    out.loss.backward()
    assert student.table.weight.grad.norm() > 0


def test_micro_batches_are_exact(pair, batch):
    teacher, student = (model.double() for model in pair)
    inputs, labels = batch
    distiller = Distiller(teacher, student, TERMS, example=inputs)
    whole = torch.autograd.grad(distiller(inputs, labels).loss, list(student.parameters()))
    parts = torch.autograd.grad(distiller(inputs, labels, micro_batch=3).loss, list(student.parameters()))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Pairs(Dataset):
    """Texts under two vocabularies, as items of a dataset of anybody."""

    def __init__(self, rows=24):
        self.teacher, self.student = tokens(50, 9, rows), tokens(20, 5, rows, seed=1)
        self.labels = torch.arange(rows) % 3

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, at):
        def of(side):
            return {name: rows[at] for name, rows in side.items()}

        return Inputs(teacher=of(self.teacher), student=of(self.student)), self.labels[at]


@pytest.mark.parametrize("stock", [False, True])
def test_a_run_from_any_loader(pair, stock, tmp_path):
    teacher, student = pair
    data = Pairs()
    if stock:
        loader = DataLoader(data, batch_size=8)
    else:
        loader = cg.data.loader(data, batch_size=8)
    first = next(iter(loader))[0]
    assert isinstance(first, Inputs)
    assert first["teacher"]["input_ids"].shape == (8, 9)
    distiller = Distiller(teacher, student, TERMS, example=first)
    result = cg.fit(distiller, loader, DataLoader(data, batch_size=8), cg.FitOptions(epochs=2, out=tmp_path / "run"))
    assert result.last["loss"] > 0
    report = cg.compare(teacher, student, DataLoader(data, batch_size=8))
    assert report.samples == 24
    with torch.no_grad():
        right = teacher.eval()(**data.teacher).argmax(1) == data.labels
    assert report.teacher_accuracy == pytest.approx(right.float().mean().item())


def test_a_float32_cache_gives_the_live_bits(pair, tmp_path):
    data = Pairs()
    weights = []
    for stored in (False, True):
        teacher, student = (copy.deepcopy(model) for model in pair)
        loader = cg.data.loader(data, batch_size=8, view_cycle=1)
        taught = cg.TeacherCache(teacher, loader, tmp_path / "cache", dtype="float32") if stored else teacher
        distiller = Distiller(taught, student, TERMS, example=next(iter(loader))[0])
        cg.fit(distiller, loader, None, cg.FitOptions(epochs=2))
        weights.append(student.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_queues_run_the_students_part_again():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    inputs, labels = Inputs(teacher=torch.randn(8, 3, 8, 8), student=torch.randn(8, 6)), torch.arange(8) % 3
    losses = []
    for given in (inputs, inputs["student"]):
        mine = copy.deepcopy(student)
        distiller = Distiller(None, mine, [Term("ce"), Term("intra_class", pipeline_size=3)], example=given)
        distiller.begin_epoch(0)
        for _ in range(3):
            out = distiller(given, labels, views={"clean": given, "augmented": given})
        losses.append(out.loss.item())
    assert losses[0] == losses[1]


def test_a_tensor_and_a_mapping_side_by_side():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    student = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3))
    inputs = Inputs(teacher=torch.randn(4, 3, 16, 16), student=torch.randn(4, 3, 4, 4))
    out = Distiller(teacher, student, ["kd", "pkt"], example=inputs)(inputs)
    assert out.loss.isfinite()


def test_a_mismatch_is_told(pair, batch):
    teacher, student = pair
    inputs, labels = batch
    with pytest.raises(ValueError, match="the teacher has none: expected an entry teacher, got student"):
        Distiller(teacher, student, TERMS, example=Inputs(student=inputs["student"]))
    distiller = Distiller(teacher, student, TERMS, example=inputs)
    short = {name: rows[:5] for name, rows in inputs["teacher"].items()}
    with pytest.raises(ValueError, match="the same samples for each model, got 5 of the teacher, 8 of the student"):
        distiller(Inputs(teacher=short, student=inputs["student"]), labels)
    with pytest.raises(ValueError, match="expected what each model takes"):
        Inputs()
    wide = {name: rows[:, :, None] for name, rows in inputs["student"].items()}
    with pytest.raises(ValueError, match=r"The student cannot take this batch: its samples are .*those of the example"):
        distiller(Inputs(teacher=inputs["teacher"], student=wide | {"more": labels}), labels)


def test_embeddings_of_each(pair, batch):
    inputs, labels = batch
    teacher, student = pair
    rows = embed_all(
        {"teacher": teacher, "student": student}, [(inputs, labels)], layers={"teacher": None, "student": None}
    )
    assert rows["teacher"].features.shape == (8, 8)
    assert rows["student"].features.shape == (8, 4)

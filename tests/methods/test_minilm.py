"""Queries, keys and values of one layer: three layers, or one that holds them, with padding of any length."""

import math
import re

import pytest
import torch
from _harness import golden
from _harness.vits import vit
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import congruence as cg
from congruence.losses import attention_relation_loss
from congruence.methods import Probe, Signals
from congruence.methods.minilm import MiniLM

NAMES = ["query", "key", "value"]
REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
NAMED = {"student_layer": NAMES, "teacher_layer": NAMES}
FUSED = {"student_layer": "qkv", "teacher_layer": "qkv"}


class Text(nn.Module):
    """One layer of attention with one head; its padded positions hold `padding`."""

    def __init__(self, width, seed=0, fused=False):
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(20, width)
        parts = [nn.Linear(width, width) for _ in NAMES]
        self.head = nn.Linear(width, 3)
        self.padding, self.fused = 0.0, fused
        if not fused:
            self.query, self.key, self.value = parts
            return
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight.data = torch.cat([part.weight.data for part in parts])
        self.qkv.bias.data = torch.cat([part.bias.data for part in parts])

    def forward(self, ids, attention_mask):
        real = attention_mask.bool().unsqueeze(2)
        words = self.words(ids).masked_fill(~real, self.padding)
        three = self.qkv(words).chunk(3, 2) if self.fused else (self.query(words), self.key(words), self.value(words))
        queries, keys, values = (each.masked_fill(~real, 0) for each in three)
        shares = (queries @ keys.mT).masked_fill(~real.mT, -1e9).softmax(2)
        return self.head(((shares @ values) * real).sum(1))


def batch(length=5):
    pad = length - REAL.shape[1]
    ids = torch.arange(15).view(3, 5) * REAL
    return {"ids": nn.functional.pad(ids, (0, pad)), "attention_mask": nn.functional.pad(REAL, (0, pad))}


def distiller(student=None, teacher=None, layers=NAMED, **hyperparameters):
    teacher, student = teacher or Text(12), student or Text(6, seed=1)
    return cg.Distiller(teacher, student, [cg.Term("minilm", **layers, **hyperparameters)], example=batch())


def test_the_three_are_added():
    made = distiller(relation_heads=2)
    expected = 0
    for name in NAMES:
        sides = [getattr(model, name)(model.words(batch()["ids"])) for model in (made.student, made.teacher.module)]
        expected = expected + attention_relation_loss(*sides, relation_heads=2, mask=REAL.bool())
    found = made(batch())
    torch.testing.assert_close(found.terms["minilm"], expected)
    assert torch.equal(found.loss, found.terms["minilm"])
    found.loss.backward()
    moved = {name for name, p in made.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert {f"{name}.weight" for name in NAMES} <= moved


def test_equals_the_golden_of_the_whole_method():
    stored = golden.arrays("minilmv2_A")
    tensors = {
        (side, "main", "tokens"): tuple(stored[f"in_{side[0]}_{kind}"].double() for kind in "qkv")
        for side in ("student", "teacher")
    }
    keys = [(side, role) for side, _, role in tensors]
    shapes = {key: tuple(t.shape for t in each) for key, each in zip(keys, tensors.values(), strict=True)}
    method = MiniLM(relation_heads=4)
    method.build(
        Probe(shapes, dict.fromkeys(keys, tuple("qkv")), {}, ("student",), None, dict.fromkeys(keys, (None,) * 3))
    )
    torch.testing.assert_close(method.loss(Signals(tensors, ("student",)))["loss"], stored["loss"], rtol=1e-10, atol=0)


@pytest.mark.parametrize("sides", [("student", "teacher"), ("student",), ("teacher",)])
def test_one_layer_that_holds_the_three(sides):
    models = {"student": Text(6, 1, fused="student" in sides), "teacher": Text(12, fused="teacher" in sides)}
    layers = {f"{name}_layer": "qkv" if name in sides else NAMES for name in models}
    made = distiller(**models, layers=layers)
    expected = distiller()
    torch.testing.assert_close(made(batch()).loss, expected(batch()).loss)


@pytest.mark.parametrize("layers", [NAMED, FUSED], ids=["three", "one"])
def test_padding_of_any_length_and_content_changes_nothing(layers):
    made = distiller(*(Text(width, width, fused=layers is FUSED) for width in (6, 12)), layers=layers)
    losses = []
    for length in (5, 6, 9, 40):
        for padding in (0.0, math.nan, math.inf, 1e30):
            made.student.padding = made.teacher.module.padding = padding
            losses.append(made(batch(length)).loss.item())
    assert max(losses) - min(losses) <= 1e-6
    assert losses[0] > 0


@pytest.mark.parametrize(("widths", "heads"), [((6, 12), 6), ((5, 8), 1), ((96, 192), 48), ((64, 96), 32)])
def test_as_many_heads_as_both_widths_have_up_to_48(widths, heads):
    made = distiller(*(Text(width) for width in widths))
    assert made.methods["minilm"].criterion.relation_heads == heads


@pytest.mark.parametrize(
    ("layers", "side"), [({}, "student"), ({"student_layer": NAMES}, "teacher"), ({"teacher_layer": NAMES}, "student")]
)
def test_layers_must_be_named(layers, side):
    sentence = f"The term 'minilm': name what is read of the {side} with {side}_layer=: the queries, keys and values of"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        distiller(layers=layers)


@pytest.mark.parametrize(
    ("layers", "given", "sentence"),
    [
        ({**NAMED, "student_layer": "value"}, {}, "which 'value' of the student is not: name the three layers."),
        (
            {**NAMED, "teacher_layer": "input:key"},
            {},
            "which 'input:key' of the teacher is not: name the three layers.",
        ),
        (
            {**NAMED, "teacher_layer": NAMES[:2]},
            {},
            "reads queries, keys and values of one layer, got 2 of the teacher.",
        ),
        (
            NAMED,
            {"relation_heads": 4},
            "`relation_heads` must be a divisor of both widths, got 4 for `student` [3, 5, 6]",
        ),
    ],
)
def test_what_does_not_fit_is_said(layers, given, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        distiller(layers=layers, **given)


@pytest.mark.parametrize("heads", [0, 2.5, "4"])
def test_heads_are_a_whole_number(heads):
    with pytest.raises(ValueError, match="`relation_heads` must be an integer >= 1 or None, got"):
        MiniLM(relation_heads=heads)


def test_of_an_image_the_patches_alone():
    """What lies before them differs between the two: the numbers of tokens would not fit."""
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    teacher, student = vit(before=5), vit(1, width=6)
    layers = {f"{side}_layer": [f"blocks.1.norm{n}" for n in (1, 2)] + ["norm"] for side in ("student", "teacher")}
    made = cg.Distiller(teacher, student, [cg.Term("minilm", **layers)], example=images)
    captured = made.capture(images)
    expected = sum(
        attention_relation_loss(
            captured.tensors["student", "main", path][:, 1:],
            captured.tensors["teacher", "main", path][:, 5:],
            relation_heads=2,
        )
        for path in layers["student_layer"]
    )
    torch.testing.assert_close(made.score(captured).loss, expected)


def test_a_wrapped_layer_is_the_layer_in_it():
    student = Text(6, 1, fused=True)
    student.qkv = checkpoint_wrapper(student.qkv)
    made = distiller(student, layers={**NAMED, "student_layer": "qkv"})
    torch.testing.assert_close(made(batch()).loss, distiller()(batch()).loss)

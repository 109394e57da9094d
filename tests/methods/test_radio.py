"""AM-RADIO's two parts around the loss: heads of one teacher's own, and features standardised by PHI-S."""

import math

import pytest
import torch
from _harness.vits import vit
from torch import nn

import congruence as cg
from congruence.geometry import phi_s_transform
from congruence.losses import agglomerative_loss
from congruence.methods.radio import Agglomerative

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def distiller(teacher=None, **given):
    teacher, student = teacher or vit(before=5), vit(1, width=6)
    torch.manual_seed(3)
    return cg.Distiller(teacher, student, [cg.Term("radio", **given)], example=IMAGES[:2])


def of_layers(made, images=IMAGES):
    """What heads make of the student's summary and patches, and the teacher's."""
    captured, heads = made.capture(images), made.methods["radio"].heads
    student, teacher = (
        {
            "features": captured.tensors[side, "main", "input:head"],
            "tokens": captured.tensors[side, "main", "norm"][:, before:],
        }
        for side, before in (("student", 1), ("teacher", 5))
    )
    return captured, {role: heads[role](student[role]) for role in student}, teacher


@pytest.mark.parametrize("weight", [0.9, 0.0])
def test_the_parts(weight):
    made = distiller(cosine_weight=weight)
    captured, student, teacher = of_layers(made)
    out = made.score(captured)
    summary = agglomerative_loss(student["features"], teacher["features"], cosine_weight=1)
    tokens = agglomerative_loss(student["tokens"], teacher["tokens"], cosine_weight=weight)
    torch.testing.assert_close(out.terms["radio.summary"], summary)
    torch.testing.assert_close(out.terms["radio.tokens"], tokens)
    torch.testing.assert_close(out.loss, summary + tokens)


def test_a_term_is_of_one_teacher():
    teachers = {"wide": vit(2, width=8), "wider": vit(3, width=12)}
    made = cg.Distiller(teachers, vit(1, width=6), ["radio"], example=IMAGES[:2])
    out = made(IMAGES)
    assert set(out.terms) == {f"radio:{name}.{part}" for name in teachers for part in ("summary", "tokens")}
    widths = {name: made.methods[f"radio:{name}"].heads["tokens"][-1].out_features for name in teachers}
    assert widths == {"wide": 8, "wider": 12}


def test_layers_are_named_by_role():
    layers = {"features": "blocks.1", "tokens": "blocks.0"}
    made = distiller(student_layer=layers, teacher_layer=layers, pool="cls", hidden=10)
    assert made.layers()["radio"]["student tokens"] == ("blocks.0",)
    assert made.methods["radio"].heads["features"][0].out_features == 10
    assert torch.isfinite(made(IMAGES).loss)
    both = {"tokens": ["blocks.0", "norm"]}
    with pytest.raises(ValueError, match="`Agglomerative` reads one layer of 'tokens' a side, got 2"):
        distiller(student_layer=both, teacher_layer=both)


def test_phi_s_is_fitted_on_the_first_features_and_kept():
    made = distiller(phi_s=20)
    method = made.methods["radio"]
    seen = {"features": [], "tokens": []}
    for step in range(5):
        images = IMAGES + step / 10
        captured, student, teacher = of_layers(made, images)
        for role in seen:
            before = torch.cat([torch.empty(0), *seen[role]])
            if len(before) >= 20:
                mean, matrix = phi_s_transform(before[:20])
                torch.testing.assert_close(method.get_buffer(f"{role}_matrix"), matrix, rtol=1e-4, atol=1e-5)
                teacher[role] = (teacher[role] - mean) @ matrix.T
        out = made.score(captured)
        expected = agglomerative_loss(student["tokens"], teacher["tokens"])
        torch.testing.assert_close(out.terms["radio.tokens"], expected, rtol=1e-4, atol=1e-5)
        for role in seen:
            seen[role].append(captured_rows(captured, role))
        again = distiller(phi_s=20)
        again.load_state_dict(made.state_dict())
        assert torch.equal(again(images).loss, made.eval()(images).loss)
        made.train()
    assert method.features_matrix.shape == (8, 8)
    assert not method.features_rows.numel()


def captured_rows(captured, role):
    if role == "features":
        return captured.tensors["teacher", "main", "input:head"]
    return captured.tensors["teacher", "main", "norm"][:, 5:].flatten(0, 1)


class Text(nn.Module):
    """Its padded positions hold `padding`."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(width)
        self.words, self.mix, self.head = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.padding = 0.0

    def forward(self, ids, attention_mask):
        real = attention_mask.bool().unsqueeze(2)
        mixed = self.mix(self.words(ids).masked_fill(~real, self.padding))
        return self.head(mixed.masked_fill(~real, 0).sum(1))


def test_padding_of_any_length_and_content_changes_nothing():
    real = torch.tensor([[1, 1, 1], [1, 1, 0]])

    def batch(length):
        ids, mask = (nn.functional.pad(each, (0, length - 3)) for each in (torch.tensor([[4, 2, 3], [7, 5, 0]]), real))
        return {"ids": ids, "attention_mask": mask}

    made = cg.Distiller(Text(8), Text(6), [cg.Term("radio", phi_s=4)], example=batch(3))
    made(batch(3))
    torch.testing.assert_close(
        made.methods["radio"].tokens_mean,
        made.teacher.module.mix(made.teacher.module.words(torch.tensor([4, 2, 3, 7]))).mean(0),
    )
    losses = []
    for length in (3, 4, 9, 30):
        for padding in (0.0, math.nan, math.inf):
            made.student.padding = made.teacher.module.padding = padding
            losses.append(made.eval()(batch(length)).loss.item())
    assert max(losses) - min(losses) <= 1e-6


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cosine_weight": 1.5}, "`cosine_weight` must be a number >= 0 and <= 1, got 1.5"),
        ({"hidden": 0}, "`hidden` must be an integer >= 1 or None, got 0"),
        ({"phi_s": 1}, "`phi_s` must be an integer >= 2 or None, got 1"),
    ],
)
def test_what_is_wrong_is_said(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        Agglomerative(**given)

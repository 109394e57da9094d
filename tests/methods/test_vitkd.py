"""ViTKD's two parts around the losses: linear maps, a generator, and draws that a resumed run repeats."""

import math

import pytest
import torch
from _harness import golden
from _harness.vits import vit
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence.core.rng import keyed_uniform
from congruence.methods import Probe, Signals, vitkd
from congruence.methods.vitkd import ViTKD

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LAYERS = ["blocks.0", "blocks.1", "norm"]


def distiller(layers=LAYERS, **hyperparameters):
    teacher, student = vit(before=5), vit(1, width=6)
    torch.manual_seed(3)
    term = cg.Term("vitkd", student_layer=layers, teacher_layer=layers, **hyperparameters)
    return cg.Distiller(teacher, student, [term], example=IMAGES[:2])


@pytest.mark.parametrize("ratio", [0.5, 0.3, 1.0])
def test_the_parts(ratio):
    made, index = distiller(mask_ratio=ratio, seed=7), torch.tensor([3, 9, 4, 0, 5, 8])
    method = made.methods["vitkd"]
    nn.init.normal_(method.hidden)
    for batch in range(2):
        captured = made.capture(IMAGES, index=index)
        student, teacher = (
            [captured.tensors[side, "main", path][:, before:] for path in LAYERS]
            for side, before in (("student", 1), ("teacher", 5))
        )
        mimic = sum(
            (part(s) - t).square().sum() / 6 for part, s, t in zip(method.maps, student[:2], teacher, strict=False)
        )
        noise = keyed_uniform(7, batch, index, 16)
        generated = 0
        for tokens, wanted, numbers in zip(method.maps[2](student[2]), teacher[2], noise.tolist(), strict=True):
            least = sorted(range(16), key=numbers.__getitem__)
            hidden = least[math.floor(16 * (1 - ratio)) :]
            seen = torch.stack([method.hidden if n in hidden else tokens[n] for n in range(16)])
            made_of = method.generator(seen.T.reshape(1, 8, 4, 4)).flatten(2)[0].T
            generated = generated + sum((made_of[n] - wanted[n]).square().sum() for n in hidden) / ratio / 6
        out = made.score(captured)
        torch.testing.assert_close(out.terms["vitkd.mimic"], mimic, rtol=1e-5, atol=0)
        torch.testing.assert_close(out.terms["vitkd.generation"], generated, rtol=1e-5, atol=0)
        torch.testing.assert_close(out.loss, 3e-5 * mimic + 3e-6 * generated, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_golden_of_the_whole_method(dtype, monkeypatch):
    stored = {key: value.to(dtype) for key, value in golden.arrays("vitkd_A").items()}
    monkeypatch.setattr(vitkd, "keyed_uniform", lambda *key: stored["in_noise"])
    tensors = {
        (side, "main", "tokens"): (*stored[f"in_low_{side[0]}"].unbind(1), stored[f"in_high_{side[0]}"])
        for side in ("student", "teacher")
    }
    keys = [(side, role) for side, _, role in tensors]
    shapes = {key: tuple(t.shape for t in each) for key, each in zip(keys, tensors.values(), strict=True)}
    grids = dict.fromkeys(keys, ((4, 4),) * 3)
    method = ViTKD()
    method.build(Probe(shapes, {}, {}, ("student",), None, grids))
    names = {"align2.0": "maps.0", "align2.1": "maps.1", "align": "maps.2", "mask_token": "hidden"}
    state = {"draws": method.draws}
    for name, value in stored.items():
        layer, dot, kind = name.removeprefix("param_").replace("generation", "generator").rpartition(".")
        if name.startswith("param_"):
            state[names.get(layer, layer) + dot + kind if dot else names[kind]] = value
    state["hidden"] = state["hidden"].flatten()
    method.to(dtype).load_state_dict(state)
    given = {(side, "main", role): grids[side, role] for side, role in keys}
    parts = method.loss(Signals(tensors, ("student",), grids=given))
    rtol = 1e-10 if dtype == torch.float64 else 2e-5
    total = 3e-5 * parts["mimic"] + 3e-6 * parts["generation"]
    torch.testing.assert_close(total, stored["loss" if dtype == torch.float64 else "loss_f32"], rtol=rtol, atol=0)


def test_draws_move_with_the_batches_that_train_alone():
    made = distiller()
    first = made(IMAGES).terms["vitkd.generation"]
    second = made(IMAGES).terms["vitkd.generation"]
    assert not torch.equal(first, second)
    made.eval()
    assert torch.equal(made(IMAGES).loss, made(IMAGES).loss)
    again = distiller()
    again.load_state_dict(made.state_dict())
    assert again.methods["vitkd"].draws.item() == 2
    assert torch.equal(again.train()(IMAGES).loss, made.train()(IMAGES).loss)


def test_widths_that_are_equal_have_no_linear_map():
    teacher, student = vit(), vit(1)
    term = cg.Term("vitkd", student_layer=LAYERS, teacher_layer=LAYERS)
    made = cg.Distiller(teacher, student, [term], example=IMAGES[:2])
    assert all(isinstance(part, nn.Identity) for part in made.methods["vitkd"].maps)
    captured = made.capture(IMAGES)
    sides = [captured.tensors[side, "main", "blocks.0"][:, 1:] for side in ("student", "teacher")]
    rest = [captured.tensors[side, "main", "blocks.1"][:, 1:] for side in ("student", "teacher")]
    expected = (F.mse_loss(*sides, reduction="sum") + F.mse_loss(*rest, reduction="sum")) / 6
    torch.testing.assert_close(made.score(captured).terms["vitkd.mimic"], expected)


def test_grids_of_two_sizes():
    term = cg.Term("vitkd", student_layer=LAYERS, teacher_layer=LAYERS)
    made = cg.Distiller(vit(patch=2, before=5), vit(1, width=6), [term], example=IMAGES[:2])
    assert torch.isfinite(made(IMAGES).loss)


class Words(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, ids):
        return self.head(self.mix(self.words(ids)).mean(1))


def test_what_does_not_fit_is_said():
    with pytest.raises(
        ValueError, match="name what is read of the student with student_layer=: the layers whose token"
    ):
        cg.Distiller(vit(), vit(1), ["vitkd"], example=IMAGES[:2])
    with pytest.raises(
        ValueError,
        match="copies the tokens of one or more layers and generates those of a last one, got a single layer",
    ):
        distiller(layers=["norm"])
    term = cg.Term("vitkd", student_layer=["words", "mix"], teacher_layer=["words", "mix"])
    with pytest.raises(
        ValueError, match="generates tokens on the grid of an image, which is not known for the last laye"
    ):
        cg.Distiller(Words(4), Words(6), [term], example=torch.arange(12).view(2, 6))
    with pytest.raises(ValueError, match=r"`mask_ratio` must be a number > 0 and <= 1, got 0\.0"):
        ViTKD(mask_ratio=0.0)
    with pytest.raises(ValueError, match=r"`seed` must be an integer, got 1\.5"):
        ViTKD(seed=1.5)


def test_padded_tokens_are_refused():
    method = ViTKD()
    keys = [(side, "tokens") for side in ("student", "teacher")]
    grids = dict.fromkeys(keys, ((2, 2),) * 2)
    method.build(Probe(dict.fromkeys(keys, (torch.Size([2, 4, 3]),) * 2), {}, {}, ("student",), None, grids))
    given = {(side, "main", "tokens"): (torch.ones(2, 4, 3),) * 2 for side, _ in keys}
    masks = {("student", "main", "tokens"): (torch.ones(2, 4, dtype=torch.bool),) * 2}
    with pytest.raises(ValueError, match="the patches of images, which fill a grid, got tokens with padding"):
        method.loss(Signals(given, ("student",), masks=masks))

"""The adversarial game: one backward is two, and the discriminator's statistics move once a batch."""

import copy
import json
import math
import tomllib

import pytest
import torch
from _harness import fits
from torch import nn
from torch.utils.data import DataLoader

import congruence as cg
from congruence.config import from_values, load_config
from congruence.config.save import resolved_toml
from congruence.config.tables import TermConfig
from congruence.methods.adv import Adversarial


def net(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))


def made(student=5, teacher=8, **settings):
    term = cg.Term("adv", name="game", **settings)
    return cg.Distiller(net(1, teacher), net(2, student), [term], example=torch.zeros(2, 6)).double()


def points(rows=8, seed=0):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(distiller, inputs):
    """Both networks' embeddings as a discriminator sees them, the student's first."""
    method = distiller.methods["game"]
    student = method.projector(distiller.student[:2](inputs))
    rows = torch.cat([student, distiller.teacher.module[:2](inputs).detach()])
    return rows / rows.norm(dim=1, keepdim=True) if method.normalize else rows


def outputs(distiller, inputs, discriminator=None):
    """What a discriminator makes of both networks' embeddings."""
    return (discriminator or distiller.methods["game"].discriminator)(both(distiller, inputs))


def test_the_discriminator_is_the_papers_for_the_teachers_width():
    method = made(student=5, teacher=128).methods["game"]
    shapes = [tuple(p.shape) for p in method.discriminator.parameters()]
    assert shapes == [(64, 128), (64,), (64,), (64,), (2, 64), (2,)]
    assert [type(part).__name__ for part in method.discriminator] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert method.projector.weight.shape == (128, 5)
    assert isinstance(made(student=8, teacher=8).methods["game"].projector, nn.Identity)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_losses_are_binary_cross_entropies_of_the_sigmoid(normalize):
    distiller, inputs = made(normalize=normalize), points()
    out = distiller.score(distiller.capture(inputs), update=False)
    scores = outputs(distiller, inputs, copy.deepcopy(distiller.methods["game"].discriminator)).sigmoid().tolist()
    student, teacher = scores[:8], scores[8:]
    discriminator = sum(-math.log(1 - a) - math.log(b) for a, b in student) + sum(
        -math.log(a) - math.log(1 - b) for a, b in teacher
    )
    adversarial = sum(-math.log(a) - math.log(1 - b) for a, b in student)
    assert out.terms["game.discriminator"].item() == pytest.approx(discriminator / 32, rel=1e-10)
    assert out.terms["game.adversarial"].item() == pytest.approx(adversarial / 16, rel=1e-10)


def test_one_backward_is_two():
    distiller, inputs = made(), points()
    method = distiller.methods["game"]
    distiller.score(distiller.capture(inputs), update=False).loss.backward()
    together = {name: p.grad.clone() for name, p in distiller.named_parameters() if p.grad is not None}
    real = torch.tensor([1.0, 0.0], dtype=torch.float64)
    false = torch.tensor([0.0, 1.0], dtype=torch.float64)
    entropy = nn.functional.binary_cross_entropy

    scores = outputs(distiller, inputs, method.discriminator).sigmoid()
    targets = torch.cat([false.expand(8, 2), real.expand(8, 2)])
    for name, gradient in zip(
        [f"methods.game.discriminator.{name}" for name, _ in method.discriminator.named_parameters()],
        torch.autograd.grad(entropy(scores, targets), list(method.discriminator.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(together.pop(name), gradient, rtol=1e-9, atol=1e-12)
    scores = outputs(distiller, inputs, method.discriminator).sigmoid()[:8]
    moved = {f"students.student.{name}": p for name, p in distiller.student[:2].named_parameters()}
    moved |= {f"methods.game.projector.{name}": p for name, p in method.projector.named_parameters()}
    gradients = torch.autograd.grad(entropy(scores, real.expand(8, 2)), list(moved.values()))
    for name, gradient in zip(moved, gradients, strict=True):
        torch.testing.assert_close(together.pop(name), gradient, rtol=1e-9, atol=1e-12)
    assert not together  # and nothing else, the teacher least of all
    assert all(p.grad is None for p in distiller.teacher.module.parameters())


def test_running_statistics_move_once_a_batch_and_not_in_evaluation():
    distiller = made()
    norm = distiller.methods["game"].discriminator[1]
    alone = nn.BatchNorm1d(64).double()
    linear = copy.deepcopy(distiller.methods["game"].discriminator[0])
    for seed in (0, 1):
        inputs = points(seed=seed)
        alone(linear(both(distiller, inputs)))
        distiller(inputs)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(norm, name), getattr(alone, name), rtol=1e-12, atol=1e-14)
        assert norm.num_batches_tracked.item() == alone.num_batches_tracked.item() == seed + 1
    distiller.eval()
    distiller(points())
    distiller.score(distiller.capture(points()))
    assert norm.num_batches_tracked.item() == 2


def test_lengths_count_only_as_the_paper_has_it():
    for normalize in (True, False):
        distiller, inputs = made(normalize=normalize), points()
        losses = [distiller.score(distiller.capture(inputs), update=False).loss.item()]
        distiller.methods["game"].projector.weight.data *= 10
        distiller.methods["game"].projector.bias.data *= 10
        losses.append(distiller.score(distiller.capture(inputs), update=False).loss.item())
        assert (losses[0] == pytest.approx(losses[1], rel=1e-12)) is normalize


def test_the_game_is_played():
    # A discriminator by itself learns to tell the two apart, and a student against a frozen one to deceive.
    for plays, part in (("discriminator", "game.discriminator"), ("student", "game.adversarial")):
        distiller, inputs = made(), points(32)
        learning = (
            distiller.methods["game"].discriminator.parameters()
            if plays == "discriminator"
            else [*distiller.student.parameters(), *distiller.methods["game"].projector.parameters()]
        )
        optimizer = torch.optim.Adam(learning, lr=0.01)
        before = distiller(inputs).terms[part].item()
        for _ in range(60):
            optimizer.zero_grad()
            distiller(inputs).loss.backward()
            optimizer.step()
        assert distiller(inputs).terms[part].item() < 0.7 * before


def test_one_sample_and_far_embeddings_are_finite():
    for inputs in (points(1), 1e6 * points(4)):
        distiller = made()
        out = distiller(inputs)
        out.loss.backward()
        assert torch.isfinite(out.loss)
        assert all(torch.isfinite(p.grad).all() for p in distiller.parameters() if p.grad is not None)


@pytest.mark.parametrize(("student", "teacher"), [(torch.float32, torch.float64), (torch.bfloat16, torch.float32)])
def test_networks_of_two_types(student, teacher):
    class Typed(nn.Module):
        def __init__(self, seed, dtype):
            super().__init__()
            self.inner, self.dtype = net(seed, 6).to(dtype), dtype

        def forward(self, x):
            return self.inner(x.to(self.dtype))

    distiller = cg.Distiller(Typed(1, teacher), Typed(2, student), ["adv"], example=torch.zeros(2, 6)).train()
    out = distiller(points().float())
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert all(p.grad is not None for p in distiller.student.inner[0].parameters())


def test_several_layers_are_refused():
    term = cg.Term(Adversarial(), student_layer=["0", "1"], teacher_layer=["0", "1"])
    with pytest.raises(ValueError, match="`Adversarial` needs one layer on each side, got 2 of the student"):
        cg.Distiller(net(1, 5), net(0, 5), [term], example=torch.ones(2, 6))


OLD, NEW = {"tell": 1.0, "deceive": 0.1}, {"discriminator": 1.0, "adversarial": 0.1}


def test_parts_by_their_old_names_are_those_by_the_new():
    term = cg.Term("adv", weight=OLD)
    assert term.weight == NEW
    assert OLD == {"tell": 1.0, "deceive": 0.1}  # the caller's mapping is as it was
    assert term.describe() == cg.Term("adv", weight=NEW).describe()
    inputs = points()
    with_old, with_new = (
        cg.Distiller(net(1, 8), net(2, 5), [cg.Term("adv", weight=weight)], example=torch.zeros(2, 6)).double()(inputs)
        for weight in (OLD, NEW)
    )
    assert with_old.loss.isfinite()
    assert with_old.terms.keys() == with_new.terms.keys() == {"adv.discriminator", "adv.adversarial"}


@pytest.mark.parametrize(
    "weight", [{"tell": 1.0}, {"tell": 1.0, "discriminator": 1.0}, {**OLD, **NEW}, {"tel": 1.0, "deceive": 1.0}]
)
def test_parts_that_do_not_fit_are_refused_under_the_new_names(weight):
    with pytest.raises(ValueError, match=r"one for each part of 'adv' \('adversarial' and 'discriminator'\), got"):
        cg.Term("adv", weight=weight)


def test_a_configuration_with_the_old_names_is_one_with_the_new():
    term = {"key": "adv", "weight": OLD}
    assert TermConfig.model_validate(term) == TermConfig.model_validate({"key": "adv", "weight": NEW})
    assert TermConfig.model_validate({"key": "adv"}).weight == {"discriminator": 1.0, "adversarial": 1.0}
    now = resolved_toml(load_config("digits/adv"))
    old = now.replace("discriminator =", "tell =").replace("adversarial =", "deceive =")
    assert old != now
    assert from_values(tomllib.loads(old), "old").stages["student"].terms[1].weight == NEW


def test_a_run_of_the_old_names_is_resumed(tmp_path):
    def run(weight, **options):
        distiller = fits.distiller(cg.Term("adv", weight=weight))
        return cg.fit(distiller, DataLoader(fits.data(), 8), options=fits.constant(out=tmp_path / "run", **options))

    class Stop(Exception):
        pass

    def stop(event):
        if event.kind == "epoch":
            raise Stop

    with pytest.raises(Stop):
        run(NEW, callbacks=(stop,))
    path = tmp_path / "run" / "run.json"
    description = json.loads(path.read_text())
    assert description["terms"][0]["weight"] == NEW
    description["terms"][0]["weight"] = OLD
    path.write_text(json.dumps(description))
    assert len(run(OLD, resume=True).history) == 2
    with pytest.raises(ValueError, match=r"\(its terms.0.weight.adversarial is 0.1, this one's 0.2\)"):
        run({"tell": 1.0, "deceive": 0.2}, resume=True)

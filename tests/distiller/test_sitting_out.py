"""Layers that drop out at random: the terms that read them sit those steps out, and say so once."""

import logging

import pytest
import torch
from _harness.dropping import MIDDLE, made
from _harness.fits import constant, data
from torch import nn

import congruence as cg
from congruence.core.files import read_lines


def test_a_step_without_the_layer_is_the_other_terms_alone(caplog):
    points, labels = data().tensors
    distiller = made("kd", cg.Term("pkt", **MIDDLE), cg.Term("ce"))
    torch.manual_seed(3)
    with caplog.at_level(logging.WARNING, "congruence"):
        outs = [distiller(points, labels) for _ in range(20)]
    ran = [1 in layers for layers in distiller.student.ran]
    assert ["pkt" in out.terms for out in outs] == ran
    assert 0 < sum(ran) < 20
    for out in outs:
        expected = sum(out.weights[name] * value for name, value in out.terms.items())
        torch.testing.assert_close(out.loss, expected)
    sentence = (
        "The term 'pkt' sits out the steps in which 'layers.1' does not run (as with layers that drop out at random)."
    )
    assert caplog.messages == [sentence]


def test_the_only_term_sits_out_with_a_loss_of_zero():
    distiller = made(cg.Term("pkt", **MIDDLE), chance=0.7)
    torch.manual_seed(3)
    outs = [distiller(data().tensors[0]) for _ in range(10)]
    idle = next(out for out in outs if not out.terms)
    idle.loss.backward()
    assert not idle.loss.detach()
    assert all(not parameter.grad.any() for parameter in distiller.students.parameters())


def test_a_numbered_call_is_not_another_layer_s():
    """With a layer gone, the second call of the shared activation is the third layer's."""
    distiller = made("kd", cg.Term("pkt", student_layer="act#2", teacher_layer="act#2"), chance=0.3)
    torch.manual_seed(3)
    outs = [distiller(data().tensors[0]) for _ in range(20)]
    assert ["pkt" in out.terms for out in outs] == [len(layers) == 3 for layers in distiller.student.ran]


def test_layers_that_the_dry_run_s_own_draw_leaves_out_are_found():
    for seed in range(8):  # the dry run draws from the generator as it finds it
        assert made(cg.Term("pkt", **MIDDLE), chance=0.7, seed=seed).built
    with pytest.raises(ValueError, match=r"layer 'layers.1' .* does not run in the model's forward"):
        made(cg.Term("pkt", **MIDDLE), chance=1.0)


def test_in_evaluation_and_of_a_teacher_it_is_an_error():
    distiller = made(cg.Term("pkt", **MIDDLE))
    distiller.student.eval()
    assert "pkt" in distiller(data().tensors[0]).terms
    distiller.student.layers = nn.ModuleList()
    with pytest.raises(RuntimeError, match="ran 0 times"):
        distiller(data().tensors[0])


@pytest.mark.parametrize("options", [{}, {"micro_batch": 3}, {"accumulate": 2}])
def test_fit(options, tmp_path, caplog):
    distiller = made("kd", cg.Term("pkt", **MIDDLE), chance=0.3)
    with caplog.at_level(logging.WARNING, "congruence"), torch.random.fork_rng():
        loader = cg.data.loader(data(), batch_size=6)
        given = constant(epochs=4, log_every=1, out=tmp_path / "run", **options)
        if "accumulate" in options:
            with pytest.warns(UserWarning, match="does not enlarge"):
                cg.fit(distiller, loader, None, given)
        else:
            cg.fit(distiller, loader, None, given)
    assert sum("sits out" in text for text in caplog.messages) == 1
    rows = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert 0 < sum("pkt" in row for row in rows) <= len(rows)
    for row in rows:
        expected = 0.9 * row["kd"] + 30_000 * row.get("pkt", 0.0)
        assert row["loss"] == pytest.approx(expected, rel=1e-4) or "accumulate" in options


def test_micro_batches_give_the_gradient_of_what_ran():
    """With the same draws, a step in chunks is the step at once: here all layers run, or the first alone."""
    points = data().tensors[0]
    for chance in (0.0, 0.4):
        distiller = made("kd", cg.Term("pkt", **MIDDLE), chance=chance)
        torch.manual_seed(3)
        for _ in range(6):
            distiller.zero_grad()
            out = distiller(points, micro_batch=8)
            out.loss.backward()
            chunks = distiller.student.ran[:3]
            distiller.student.ran.clear()
            assert ("pkt" in out.terms) == all(1 in layers for layers in chunks)
            assert torch.isfinite(distiller.student.head.weight.grad).all()

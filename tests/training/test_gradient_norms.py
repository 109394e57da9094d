"""Measuring the terms' gradients stops no run and changes nothing that is learnt, whatever the student's layers do."""

import logging

import pytest
import torch
from _harness.fits import constant, data, same_state
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import congruence as cg
from congruence.core.files import read_lines


class Block(nn.Module):
    """A part that a subclass runs in its own way."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh())

    def forward(self, inputs):
        return self.body(inputs)


class Reentrant(Block):
    def forward(self, inputs):
        return checkpoint(self.body, inputs, use_reentrant=True)


class Checkpointed(Block):
    def forward(self, inputs):
        return checkpoint(self.body, inputs, use_reentrant=False)


class Undrawn(Block):
    """Draws anew when it runs again."""

    def forward(self, inputs):
        return checkpoint(self.body, inputs, use_reentrant=False, preserve_rng_state=False)


class Counting(Block):
    """Keeps a count in Python, and goes by it."""

    calls = 0

    def body_(self, inputs):
        self.calls += 1
        return self.body(inputs) * (1 + 0.1 * self.calls)

    def forward(self, inputs):
        return checkpoint(self.body_, inputs, use_reentrant=False)


class _Frees(Function):
    @staticmethod
    def forward(ctx, inputs):
        ctx.factor = torch.full_like(inputs, 2.0)
        return inputs * 2

    @staticmethod
    def backward(ctx, gradient):
        factor, ctx.factor = ctx.factor, None
        return gradient * factor


class Frees(Block):
    def forward(self, inputs):
        return _Frees.apply(self.body(inputs))


class _InPlace(Function):
    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(torch.full_like(inputs, 2.0))
        return inputs * 2

    @staticmethod
    def backward(ctx, gradient):
        (factor,) = ctx.saved_tensors
        return factor.mul_(gradient)


class InPlace(Block):
    def forward(self, inputs):
        return _InPlace.apply(self.body(inputs))


class _Draws(Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + 0.1 * torch.randn_like(gradient)


class Draws(Block):
    def forward(self, inputs):
        return _Draws.apply(self.body(inputs))


class Hooked(Block):
    """A gradient that shrinks with every backward, by a module's hook."""

    def __init__(self):
        super().__init__()
        self.seen = 0
        self.body.register_full_backward_hook(self.shrink)

    def shrink(self, module, gradients, _):
        self.seen += 1
        return tuple(gradient / self.seen for gradient in gradients)


class HookedParameter(Block):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.body[0].weight.register_hook(self.shrink)

    def shrink(self, gradient):
        self.seen.append(1)
        return gradient / len(self.seen)


class Spectral(Block):
    def __init__(self):
        super().__init__()
        self.body[0] = nn.utils.parametrizations.spectral_norm(self.body[0])

    def forward(self, inputs):
        return checkpoint(self.body, inputs, use_reentrant=False)


LEFT_OUT = {
    Reentrant: "use_reentrant=True",
    Frees: "the autograd function _Frees",
    InPlace: "the autograd function _InPlace",
    Draws: "the autograd function _Draws",
    Hooked: "the backward hook of a module",
    HookedParameter: "the hook of a parameter",
}


def trained(kind, out=None, **options):
    torch.manual_seed(1)
    student, teacher = nn.Sequential(nn.Linear(6, 5), kind(), nn.Linear(5, 3)), nn.Linear(6, 3)
    made = cg.Distiller(teacher, student, ["ce", "kd", "pkt"], example=data().tensors[0][:4])
    loader = cg.data.loader(data(), batch_size=8)
    cg.fit(made, loader, None, constant(epochs=1, out=out, log_every=1, **options))
    return made


@pytest.mark.parametrize("kind", [*LEFT_OUT, Block, Checkpointed, Undrawn, Counting, Spectral])
def test_what_is_learnt_is_the_same_with_the_norms_and_without(kind, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "congruence"):
        with_norms = trained(kind, tmp_path / "run")
    generators = torch.get_rng_state()
    same_state(trained(kind, gradient_norms=False), with_norms)
    assert torch.equal(torch.get_rng_state(), generators)
    row = next(row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row)
    told = [text for text in caplog.messages if "No gradient norms of" in text]
    if kind in LEFT_OUT:
        assert "gradient_norms" not in row
        assert len(told) == 1
        assert "of 'ce', 'kd', 'pkt' in" in told[0]
        assert LEFT_OUT[kind] in told[0]
    else:
        assert set(row["gradient_norms"]) == {"ce", "kd", "pkt"}
        assert not told


def test_a_term_that_does_not_reach_the_special_layer_is_measured(tmp_path):
    torch.manual_seed(1)
    student, teacher = nn.Sequential(nn.Linear(6, 5), Reentrant(), nn.Linear(5, 3)), nn.Linear(6, 3)
    terms = ["kd", cg.Term("pkt", student_layer="0", teacher_layer="output")]
    made = cg.Distiller(teacher, student, terms, example=data().tensors[0][:4])
    options = constant(epochs=1, out=tmp_path / "run", log_every=1)
    cg.fit(made, cg.data.loader(data(), batch_size=8), None, options)
    row = next(row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row)
    assert set(row["gradient_norms"]) == {"pkt"}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # in the pass without gradient
@pytest.mark.parametrize("kind", [Reentrant, Hooked])
def test_micro_batches(kind):
    """Re-entrant checkpointing takes no backward that names its inputs, which the second pass would be."""
    with_norms = trained(kind, micro_batch=4)
    same_state(trained(kind, micro_batch=4, gradient_norms=False), with_norms)
    if kind is Reentrant:
        plain = trained(Checkpointed, micro_batch=4)
        for mine, theirs in zip(with_norms.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_backward_that_raises_is_told_once(monkeypatch, caplog):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    plain = trained(Block)
    monkeypatch.setattr(torch.autograd, "grad", full)
    with caplog.at_level(logging.WARNING, "congruence"):
        same_state(plain, trained(Block))
    told = [text for text in caplog.messages if "No gradient norms of" in text]
    assert told[0] == (
        "No gradient norms of 'ce' in the log, since a separate backward raised OutOfMemoryError: CUDA out of "
        "memory. This does not affect the training."
    )
    assert len(told) == 3


def test_nothing_that_fails_stops_a_run(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no such graph")

    plain = trained(Block)
    monkeypatch.setattr("congruence.distiller.own_backward.nodes", broken)
    with caplog.at_level(logging.WARNING, "congruence"):
        same_state(plain, trained(Block))
    assert "No gradient norms in the log: RuntimeError: no such graph." in caplog.messages


def test_the_option_is_no_part_of_a_run_s_identity(tmp_path):
    assert "gradient_norms" not in constant().describe()
    with pytest.raises(ValueError, match="`gradient_norms` must be"):
        constant(gradient_norms=3)

"""Each model gets inputs that no other has changed, and what the user gave is as it was."""

from __future__ import annotations

import copy
from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import congruence as cg
from congruence import Distiller, Term
from congruence.core.batch import parse
from congruence.models.compiled import Compiled


class Own(nn.Module):
    """A small network behind something that is done to the inputs first."""

    def __init__(self, first, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = first
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, inputs):
        return self.body(self.first(inputs))


def now_and_then():
    """Write into the inputs in every third call, which a dry run does not show."""
    calls = []

    def first(inputs):
        calls.append(1)
        return inputs.sub_(5) if len(calls) % 3 == 0 else inputs - 5

    return first


def by_range(inputs):
    """Write into the inputs where they look like a batch, not like zeros."""
    return inputs.mul_(0.5) if inputs.abs().max() > 0 else inputs * 0.5


WRITERS = {
    "relu": (lambda: nn.ReLU(inplace=True), lambda: nn.ReLU()),
    "sub": (lambda: lambda x: x.sub_(5), lambda: lambda x: x - 5),
    "data": (lambda: lambda x: setattr(x, "data", x.data - 5) or x, lambda: lambda x: x - 5),
    "now and then": (now_and_then, lambda: lambda x: x - 5),
    "by its numbers": (lambda: by_range, lambda: lambda x: x * 0.5),
}


@pytest.fixture
def points():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(8) % 3


def losses(first, points, *, teacher_first=None, steps=3, example=None, **options):
    student = Own(first(), seed=1)
    teacher = Own((teacher_first or (lambda: nn.Identity()))(), seed=2)
    made = Distiller(teacher, student, ["ce", "kd", "pkt"], example=points[:2] if example is None else example)
    found = []
    for _ in range(steps):
        out = made(points, LABELS, **options)
        out.loss.backward()
        found.append(out.loss.detach())
    return torch.stack([*found, *(p.grad.square().sum() for p in student.parameters())])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_model_that_writes_into_its_inputs_is_one_that_does_not(kind, points):
    writes, keeps = WRITERS[kind]
    before, expected = points.clone(), losses(keeps, points)
    torch.testing.assert_close(losses(writes, points), expected, rtol=0, atol=0)
    torch.testing.assert_close(losses(writes, points, micro_batch=8), expected)
    torch.testing.assert_close(losses(writes, points, micro_batch=3), losses(keeps, points, micro_batch=3))
    both = losses(keeps, points, teacher_first=keeps)
    torch.testing.assert_close(losses(writes, points, teacher_first=writes), both, rtol=0, atol=0)
    example = torch.zeros(2, 6)
    losses(writes, points, example=example)
    assert torch.equal(example, torch.zeros(2, 6))
    assert torch.equal(points, before)


def test_two_students_two_views_and_validation(points):
    class Views(cg.Method):
        needs = cg.Needs(roles=("logits",), views=("main", "clean"), teacher=False)

        def loss(self, signals):
            return {"loss": sum(signals.one("student", "logits", view).square().mean() for view in self.needs.views)}

    found = {}
    for kind, first in zip(("writes", "keeps"), WRITERS["sub"], strict=True):
        students = {"anna": Own(first(), 1), "ben": Own(first(), 2)}
        made = Distiller(None, students, ["ce", Term(Views())], example=points[:2])
        given = points.clone()
        out = made(given, LABELS, views={"clean": given})
        logits = [made.eval().logits(name, given) for name in students]
        found[kind] = torch.stack([*out.terms.values(), *(each.square().sum() for each in logits)])
        assert torch.equal(given, points)
    torch.testing.assert_close(found["writes"], found["keeps"], rtol=0, atol=0)


def test_kept_inputs_are_those_of_the_batch(points):
    found = {}
    for kind, first in zip(("writes", "keeps"), WRITERS["sub"], strict=True):
        made = Distiller(
            None, Own(first(), 1), [Term("intra_class", margin_threshold=-1.0, pipeline_size=2)], example=points[:2]
        )
        given = points.clone()
        found[kind] = [made(given, LABELS, views={"clean": given}).loss for _ in range(3)][-1]
    assert found["keeps"] > 0
    torch.testing.assert_close(found["writes"], found["keeps"], rtol=0, atol=0)


def test_compare_and_the_cache_s_teacher(points):
    loader = [(points.clone(), LABELS)]
    found = {}
    for kind, first in zip(("writes", "keeps"), WRITERS["sub"], strict=True):
        found[kind] = cg.compare(Own(first(), 1), Own(first(), 2), loader).to_dict()
        assert torch.equal(loader[0][0], points)
    assert found["writes"] == found["keeps"]


def test_inference_tensors_and_compiled_forwards(points):
    writes, keeps = WRITERS["sub"]
    expected = losses(keeps, points)
    with torch.inference_mode():
        untouchable = points.clone()
    torch.testing.assert_close(losses(writes, untouchable, example=points[:2]), expected, rtol=0, atol=0)
    assert torch.equal(untouchable, points)
    made = Distiller(Own(nn.Identity(), 2), Own(nn.ReLU(inplace=True), 1), ["kd"], example=points[:2])
    plain = Distiller(Own(nn.Identity(), 2), Own(nn.ReLU(), 1), ["kd"], example=points[:2])
    for taps in made._taps.values():
        taps.compiled = Compiled(aot_eager)
    before = points.clone()
    for _ in range(2):
        torch.testing.assert_close(made(points).loss, plain(points).loss)
    assert torch.equal(points, before)


# Inputs that are no tensor


class Encoding(UserDict):
    """Has its items as attributes, as tokenizers' results have."""

    def __getattr__(self, name):
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


class Sentences(nn.Module):
    """Takes a mapping, writes into it and takes things out of it."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(6, 3)

    def forward(self, features):
        mask = features.pop("mask") if isinstance(features, dict) else features.mask
        features.update(embedding=self.body(features["tokens"].sub_(1) * mask))
        return features["embedding"]


@pytest.mark.parametrize("kind", [dict, Encoding])
def test_a_mapping_that_models_write_into(kind, points):
    features = kind({"tokens": points.clone(), "mask": torch.ones(8, 1)})
    example = kind({"tokens": points[:2].clone(), "mask": torch.ones(2, 1)})
    made = Distiller(Sentences(0), Sentences(1), ["kd"], example=(example,))
    expected = [
        nn.functional.linear(points - 1, m.body.weight, m.body.bias) for m in (made.student, made.teacher.module)
    ]
    for size in (None, 3):
        out = made((features,), micro_batch=size)
        torch.testing.assert_close(out.student, expected[0])
        torch.testing.assert_close(out.teacher, expected[1])
    for given, rows in ((features, points), (example, points[:2])):
        assert set(given) == {"tokens", "mask"}
        assert torch.equal(given["tokens"], rows)


Pair = namedtuple("Pair", "left right")


class Named(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(6, 3)

    def forward(self, pair, extra):
        return self.body(pair.left * pair.right + extra["more"][0])


def test_named_tuples_stay(points):
    def inputs(rows):
        return Pair(rows, rows + 1), {"more": [rows]}

    made = Distiller(Named(0), Named(1), ["kd"], example=inputs(points[:2]))
    out = made(inputs(points), micro_batch=3)
    torch.testing.assert_close(out.student, made.student(*inputs(points)))


class Reads(nn.Module):
    """A recurrent network over packed sequences."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.recurrent, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, packed):
        return self.head(self.recurrent(packed)[1][0])


def test_packed_sequences_are_one_input_and_have_rows():
    sequences, lengths = torch.randn(7, 5, 2), torch.tensor([5, 2, 4, 1, 3, 5, 2])

    def packed(rows):
        return pack_padded_sequence(sequences[:rows], lengths[:rows], batch_first=True, enforce_sorted=False)

    made = Distiller(Reads(0), Reads(1), ["kd", "pkt"], example=packed(2))
    twin = copy.deepcopy(made)
    out, chunked = made(packed(7)), twin(packed(7), micro_batch=3)
    torch.testing.assert_close(out.student, made.student(packed(7)))
    torch.testing.assert_close(chunked.loss, out.loss)
    out.loss.backward()
    chunked.loss.backward()
    for mine, theirs in zip(made.student.parameters(), twin.student.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad)
    assert torch.equal(pad_packed_sequence(parse(packed(3)).inputs)[1], lengths[:3])
    assert parse((packed(3), LABELS[:3])).labels is not None

"""The distiller: one forward a model, a frozen teacher, capture and score apart, arguments refused before any step."""

from __future__ import annotations

import copy
import pickle
import re
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from _harness.toys import Bank, MinMax, Mutual, Queue
from torch import nn

import congruence as cg
from congruence import Distiller, Method, Needs, Term
from congruence.losses import PktLoss
from congruence.methods import LossMethod


def conv(seed, width=4, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def net(seed, width=5, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, classes))


@pytest.fixture
def points():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.arange(8) % 3


def counted(model):
    """Count a model's forwards."""
    model.calls = 0

    def hook(*_):
        model.calls += 1

    model.register_forward_pre_hook(hook)
    return model


# What it gives


def test_output(points, labels):
    teacher, student = net(0, 7), net(1)
    distiller = Distiller(teacher, student, [Term("ce", weight=0.1), Term("kd", weight=2.0)], example=points[:2])
    out = distiller(points, labels)
    assert out[0] is out.loss
    assert out.weights == {"ce": 0.1, "kd": 2.0}
    torch.testing.assert_close(out.loss, 0.1 * out.terms["ce"] + 2.0 * out.terms["kd"], rtol=0, atol=1e-7)
    torch.testing.assert_close(out.terms["ce"], nn.functional.cross_entropy(student(points), labels))
    assert torch.equal(out.student, student(points))
    assert torch.equal(out.teacher, teacher(points))
    assert not out.teacher.requires_grad


def test_terms_that_share_taps_run_each_model_once(points, labels):
    teacher, student = counted(net(0, 7)), counted(net(1))
    terms = ["ce", "kd", "mimic", "pkt", Term("pkt", name="again"), Term("pkt", name="hidden", student_layer="0")]
    distiller = Distiller(teacher, student, terms, example=points[:2])
    teacher.calls = student.calls = 0
    distiller(points, labels)
    assert (teacher.calls, student.calls) == (1, 1)


def test_a_teacher_that_no_active_term_reads_does_not_run(points, labels):
    teacher = counted(net(0))
    distiller = Distiller(teacher, net(1), ["ce", Term("kd", start_epoch=1)], example=points[:2])
    teacher.calls = 0
    out = distiller(points, labels)
    assert teacher.calls == 0
    assert out.teacher is None
    assert list(out.terms) == ["ce"]
    distiller.begin_epoch(1)
    assert list(distiller(points, labels).terms) == ["ce", "kd"]
    assert teacher.calls == 1


def test_maps_of_shared_taps_are_pooled_once(monkeypatch):
    from congruence.distiller import signals

    images, calls = torch.randn(4, 2, 5, 5), []
    whole = signals.rows
    terms = [Term("pkt", name=n, student_layer="2", teacher_layer="2") for n in ("a", "b")]
    distiller = Distiller(conv(0), conv(1), terms, example=images[:2])
    monkeypatch.setattr(signals, "rows", lambda tensor: calls.append(1) or whole(tensor))
    distiller(images)
    assert len(calls) == 2  # one of the student, one of the teacher


def test_without_teacher_and_with_two_students(points, labels):
    alone = Distiller(None, net(1), ["ce"], example=points[:2])
    assert alone(points, labels).teacher is None
    both = Distiller(None, {"anna": net(1), "ben": net(2)}, ["ce", Term(Mutual())], example=points[:2])
    out = both(points, labels)
    assert list(out.terms) == ["ce:anna", "ce:ben", "Mutual.first", "Mutual.second"]
    assert torch.equal(out.student["ben"], both.students["ben"](points))
    with pytest.raises(ValueError, match="there are 2 students"):
        _ = both.student
    assert list(both.student_state_dict("ben")) == list(net(2).state_dict())
    with pytest.raises(ValueError, match="`name` must be one of anna, ben, got 'bne'"):
        both.student_state_dict("bne")


def test_a_term_for_one_student(points, labels):
    terms = [Term("ce"), Term("kd", student="ben")]
    distiller = Distiller(net(0), {"anna": net(1), "ben": net(2)}, terms, example=points[:2])
    assert list(distiller(points, labels).terms) == ["ce:anna", "ce:ben", "kd"]


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "named", "mapping"])
def test_inputs_of_any_kind(kind, points):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, left, right=None):
            return self.fc(left if right is None else left + right)

    torch.manual_seed(0)
    pair = namedtuple("pair", ["left", "right"])
    inputs = {
        "tensor": points,
        "tuple": (points, points),
        "list": [points, points],
        "named": pair(points, points),
        "mapping": {"left": points, "right": points},
    }[kind]
    student = Sum()
    distiller = Distiller(Sum(), student, ["kd"], example=inputs)
    assert torch.equal(distiller(inputs).student, student(points) if kind == "tensor" else student(points, points))


def test_text_models(labels):
    class Text(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embedding, self.classifier = nn.Embedding(20, width), nn.Linear(width, 3)

        def forward(self, input_ids, attention_mask):
            mask = attention_mask[..., None].float()
            mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
            return {"logits": self.classifier(mean)}

    batch = {"input_ids": torch.arange(40).reshape(8, 5) % 20, "attention_mask": torch.ones(8, 5, dtype=torch.long)}
    terms = ["ce", "kd", "pkt", Term("pkt", name="tokens", student_layer="embedding", teacher_layer="embedding")]
    distiller = Distiller(Text(6), Text(4), terms, example=batch)
    out = distiller(batch, labels)
    assert out.student["logits"].shape == (8, 3)
    result = cg.fit(distiller, [{**batch, "labels": labels}], [{**batch, "label": labels}], cg.FitOptions(epochs=2))
    assert set(result.last) == {"accuracy", "loss"}


# The teacher


def test_teacher_is_frozen_and_no_state(points, labels):
    images = torch.randn(8, 2, 5, 5)
    teacher = conv(0)
    distiller = Distiller(teacher, conv(1), ["ce", "kd"], example=images[:2])
    distiller.train()
    teacher.train()
    statistics = {name: buffer.clone() for name, buffer in teacher.named_buffers()}
    distiller(images, labels)[0].backward()
    assert not teacher.training
    assert all(torch.equal(statistics[name], buffer) for name, buffer in teacher.named_buffers())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(name.startswith("teacher") for name in distiller.state_dict())
    own = {id(parameter) for parameter in distiller.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in teacher.parameters())
    grouped = {id(p) for group in distiller.parameter_groups() for p in group["params"]}
    assert grouped == own


def test_the_teacher_moves_along(points):
    teacher = net(0)
    distiller = Distiller(teacher, net(1), ["mimic"], example=points[:2])
    distiller.to(torch.float64)
    assert {p.dtype for p in teacher.parameters()} == {p.dtype for p in distiller.parameters()} == {torch.float64}
    assert distiller(points.double()).loss.dtype == torch.float64
    nn.Sequential(distiller).float()
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert next(distiller.to("meta").teacher.module.parameters()).is_meta


# Building


def test_parts_follow_the_student_s_type(points):
    distiller = Distiller(net(0, 7).double(), net(1).double(), ["mimic"], example=points[:2].double())
    assert {p.dtype for p in distiller.methods.parameters()} == {torch.float64}
    assert distiller(points.double()).loss.dtype == torch.float64


def test_without_example_the_first_batch_serves(points, labels):
    distiller = Distiller(net(0, 7), net(1), ["ce", "mimic"])
    assert not distiller.built
    with pytest.raises(ValueError, match="give `example=`"):
        distiller.parameter_groups()
    distiller(points, labels)
    assert [group["name"] for group in distiller.parameter_groups()] == ["students", "terms"]
    with pytest.raises(ValueError, match="already been found"):
        distiller.build(points)


def test_a_refused_example_leaves_no_trace(points):
    bank = LossMethod(PktLoss(), Needs())
    distiller = Distiller(net(0), net(1), [Term(bank), Term("kd", student_layer="1")])
    for _ in range(2):
        with pytest.raises(ValueError, match="The term 'kd' does not fit"):
            distiller(points)
        assert not distiller.built
        assert list(distiller.methods) == []


def test_no_student_to_train(points):
    student = net(1).requires_grad_(False)
    distiller = Distiller(net(0), student, ["kd"], example=points[:2])
    with pytest.raises(ValueError, match="no parameter of the student requires a gradient"):
        distiller.parameter_groups()
    with torch.no_grad():
        distiller(points)  # measuring is no training
    again = Distiller(net(0), student, ["kd"], example=points[:2])
    with pytest.raises(ValueError, match=r"nothing to train .*call student.requires_grad_\(\) first"):
        again(points)


def test_frozen_layers_stay_frozen(points, labels):
    student = net(1)
    student[0].requires_grad_(False)
    distiller = Distiller(net(0), student, ["ce", "kd"], example=points[:2])
    assert [p.shape for p in distiller.parameter_groups()[0]["params"]] == [p.shape for p in student[2].parameters()]
    before = student[0].weight.clone()
    cg.fit(distiller, [(points, labels)], options=cg.FitOptions(epochs=2))
    assert torch.equal(before, student[0].weight)


class Loud(Method):
    """Gives what it is told."""

    needs = Needs(roles=("logits",), scope="sample")

    def __init__(self, give):
        super().__init__()
        self.give = give

    def loss(self, signals):
        return self.give(signals.one("student", "logits"))


class Greedy(Loud):
    def build(self, probe):
        self.head = probe.modules["teacher"]


one_bank = Bank()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"student": 3}, r"`student` must be a torch module, got int"),
        ({"student": {}}, r"`student` must be a module, or modules by name, got none"),
        ({"student": {"teacher": net(1)}}, r"under names that are identifiers and not reserved, got 'teacher'"),
        ({"student": {"a.b": net(1)}}, r"not reserved, got 'a.b'"),
        ({"student": {"keys": net(1)}}, r"not reserved, got 'keys'"),
        ({"student": {"my-last": net(1)}}, r"not reserved, got 'my-last'"),
        (
            {"teacher": "resnet"},
            r"`teacher` must be a torch module, a TeacherCache, several .* or None, got str",
        ),
        ({"teacher": None}, r"The term 'kd' needs a teacher, got none"),
        ({"teacher": None, "example": None}, r"The term 'kd' needs a teacher, got none"),
        ({"terms": []}, r"`terms` must be at least one Term, got none"),
        ({"terms": "kd"}, r"`terms` must be a list of Terms or keys, got 'kd'"),
        ({"terms": Term("kd")}, r"`terms` must be a list of Terms or keys"),
        ({"terms": [Bank()]}, r"`terms` must be Terms or keys \(a Method goes into a Term\), got Bank"),
        ({"terms": ["kdd"]}, r"Unknown method 'kdd'\. Did you mean 'kd'"),
        ({"terms": ["kd", "kd"]}, r"Two terms are called 'kd': give one of them another name"),
        ({"terms": [Term(one_bank), Term(one_bank, name="b")]}, r"two terms hold the same Method"),
        ({"terms": [Term(Bank())]}, r"The term 'Bank' needs facts of the dataset: give facts="),
        ({"terms": [Term("kd", student="ann")]}, r"The term 'kd' names a student 'ann' that does not exist"),
        ({"terms": [Term(Mutual(), student="student")]}, r"The term 'Mutual' sees all students"),
        ({"terms": [Term("pkt", student_layer="3")]}, r"The term 'pkt': The student's layer '3'|The term 'pkt': .*'3'"),
        ({"terms": [Term("pkt", teacher_layer="input:2x")]}, r"The term 'pkt': .*2x"),
        ({"terms": [Term("pkt", student_layer={"logits": "2"})]}, r"keyed by 'features', got 'logits'"),
        (
            {"terms": [Term("kd", reduction="none")]},
            r"The term 'kd' does not fit.*must return one number for a batch, got shape",
        ),
        ({"terms": [Term("mimic", student_layer=["0", "1"])]}, r"got 2 of the student and 1 of the teacher"),
        (
            {"terms": [Term("kd", student_layer="0")]},
            r"The term 'kd' does not fit these layers \(student logits '0' \[2, 5\]",
        ),
        ({"student": net(1, classes=4)}, r"The term 'kd' does not fit these layers .*\[2, 4\].*\[2, 3\]"),
        ({"example": torch.zeros(2, 5)}, r"forward on the example \[2, 5\] failed"),
        ({"terms": [Term(Greedy(None))]}, r"The term 'Greedy' holds a module of the teacher as its own part"),
    ],
)
def test_refused_before_the_first_step(change, sentence):
    arguments = {"teacher": net(0), "student": net(1), "terms": ["kd"], "example": torch.zeros(2, 6)} | change
    with pytest.raises(ValueError, match=sentence) as error:
        Distiller(**arguments)
    assert "\n" not in str(error.value)


def test_logits_must_be_two_dimensional_where_a_method_has_no_rows_of_positions():
    images = torch.zeros(2, 2, 5, 5)
    with pytest.raises(
        ValueError, match=r"logits must be \[batch, classes\], got \[2, 4, 3, 3\] from the tapped layer"
    ):
        Distiller(conv(0), conv(1), [Term("dkd", student_layer="0", teacher_layer="0")], example=images)


def test_a_shared_parameter_is_refused_before_anything_is_frozen(points):
    student = net(1)
    for teacher in (student, nn.Sequential(student[0], nn.Linear(5, 3))):
        with pytest.raises(ValueError, match="the teacher shares parameters with a student"):
            Distiller(teacher, student, ["kd"], example=points[:2])
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_built_method_is_not_built_again(points):
    bank = Bank()
    facts = cg.data.facts(torch.utils.data.TensorDataset(points))
    Distiller(net(0), net(1), [Term(bank)], example=points[:2], facts=facts)
    with pytest.raises(ValueError, match="The term 'Bank' holds a Bank that another distiller has built"):
        Distiller(net(0), net(2), [Term(bank)], example=points[:2], facts=facts)


# Bad batches


def test_what_a_batch_lacks(points, labels):
    facts = cg.data.facts(torch.utils.data.TensorDataset(points))
    with pytest.raises(ValueError, match=r"The term 'ce' needs labels, the batch has none"):
        Distiller(None, net(1), ["ce"], example=points[:2])(points)
    with pytest.raises(ValueError, match=r"The term 'Bank' needs index, the batch has none: wrap .*indexed"):
        Distiller(net(0), net(1), [Term(Bank())], example=points[:2], facts=facts)(points, labels)
    with pytest.raises(ValueError, match=r"The term 'Queue' needs the views main, strong, the batch has main"):
        Distiller(None, net(1), [Term(Queue())], example=points[:2])(points)
    with pytest.raises(ValueError, match=r"The term 'MinMax' works by epochs: call distiller.begin_epoch"):
        Distiller(net(0), net(1), [Term(MinMax())], example=points[:2])(points)
    with pytest.raises(ValueError, match=r"`labels` must be class labels in \[0, 3\).*got 3"):
        Distiller(None, net(1), ["ce"], example=points[:2])(points, labels + 1)
    with pytest.raises(ValueError, match=r"same number of rows, got .*\[8, 3\].*\[7\]"):
        Distiller(None, net(1), ["ce"], example=points[:2])(points, labels[:7])
    with pytest.raises(ValueError, match=r"no term trains a student in epoch 0"):
        Distiller(net(0), net(1), [Term("kd", start_epoch=1)], example=points[:2])(points)


@pytest.mark.parametrize(
    ("give", "sentence"),
    [
        (lambda z: {"loss": z.mean(1)}, r"must return tensors of shape \[\], got \[8\] for 'loss'"),
        (lambda z: {"loss": 3.0}, r"must return tensors of shape \[\], got float for 'loss'"),
        (lambda z: {}, r"must return at least one loss, got none"),
    ],
)
def test_a_method_that_gives_no_number(give, sentence, points):
    distiller = Distiller(net(0), net(1), [Term(Loud(give))], example=points[:2])
    with pytest.raises(ValueError, match=sentence):
        distiller(points)


def test_a_weight_that_lacks_a_part(points):
    give = Loud(lambda z: {"a": z.mean(), "b": z.mean()})
    distiller = Distiller(net(0), net(1), [Term(give, weight={"a": 1.0})], example=points[:2])
    with pytest.raises(ValueError, match="`weight` of 'Loud' has no entry for its part 'b', got 'a'"):
        distiller(points)


# Copies


def test_copies_are_apart_and_equal(points, labels):
    facts = cg.data.facts(torch.utils.data.TensorDataset(points))
    terms = ["ce", "mimic", Term(Bank())]
    distiller = Distiller(net(0, 7), net(1), terms, example=points[:2], facts=facts)
    index = torch.arange(8)
    for again in (copy.deepcopy(distiller), pickle.loads(pickle.dumps(distiller))):
        expected = copy.deepcopy(distiller)(points, labels, index)
        found = again(points, labels, index)
        assert torch.equal(found.loss, expected.loss)
        found.loss.backward()
        assert all(p.grad is None for p in distiller.parameters())
        assert again.teacher.module is not distiller.teacher.module
        assert again.methods["Bank"] is again.bindings["Bank"].method
        assert torch.equal(distiller.methods["Bank"].bank, torch.zeros(8, 7))


def test_copies_of_what_is_not_built_are_apart(points):
    distiller = Distiller(net(0), net(1), [Term(LossMethod(PktLoss(), Needs()))])
    again = copy.deepcopy(distiller)
    assert torch.equal(distiller(points).loss, again(points).loss)
    assert again.methods["LossMethod"] is not distiller.methods["LossMethod"]


def test_state_goes_round(points, labels):
    def made(seed):
        torch.manual_seed(seed)
        return Distiller(net(0, 7), net(seed), ["ce", "mimic"], example=points[:2])

    first, second = made(1), made(2)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(points, labels).loss, second(points, labels).loss)
    bare = net(5)
    bare.load_state_dict(first.student_state_dict(), strict=True)
    assert torch.equal(bare(points), first.student(points))


# Capture and score apart


def test_scoring_twice_gives_the_same(points, labels):
    facts = cg.data.facts(torch.utils.data.TensorDataset(points))
    distiller = Distiller(net(0, 7), net(1), ["ce", "mimic", Term(Bank())], example=points[:2], facts=facts)
    captured = distiller.capture(points, labels, torch.arange(8))
    first, second = (distiller.score(captured, update=False) for _ in range(2))
    assert all(torch.equal(first.terms[name], second.terms[name]) for name in first.terms)
    assert not distiller.methods["Bank"].bank.any()
    distiller.score(captured)
    assert distiller.methods["Bank"].bank.any()
    assert not torch.equal(distiller.score(captured, update=False).loss, first.loss)


def test_evaluation_mode_writes_no_memory(points, labels):
    facts = cg.data.facts(torch.utils.data.TensorDataset(points))
    distiller = Distiller(net(0), net(1), [Term(Bank())], example=points[:2], facts=facts)
    distiller.eval()(points, labels, torch.arange(8))
    assert not distiller.methods["Bank"].bank.any()
    distiller.train()(points, labels, torch.arange(8))
    assert distiller.methods["Bank"].bank.any()


@pytest.mark.parametrize("kind", ["plain", "bank"])
def test_two_passes_over_micro_batches_are_one_pass(kind, points, labels):
    """Rows without gradient, the loss on leaves, and the chunks again with the leaves' gradient: public names only."""
    facts = cg.data.facts(torch.utils.data.TensorDataset(points))
    terms = ["ce", "kd", "mimic", "pkt"] if kind == "plain" else ["ce", Term(Bank())]
    torch.manual_seed(3)
    distiller = Distiller(net(0, 7), net(1), terms, example=points[:2], facts=facts).double()
    points, index = points.double(), torch.arange(8)
    other = copy.deepcopy(distiller)

    whole = distiller(points, labels, index)
    whole.loss.backward()

    chunks = list(zip(points.split(3), labels.split(3), index.split(3), strict=True))
    with torch.no_grad():
        passes = [other.capture(*chunk) for chunk in chunks]
    leaves = {key: torch.cat([one.tensors[key] for one in passes]).requires_grad_() for key in passes[0].tensors}
    out = other.score(replace(passes[0], tensors=leaves, inputs={"main": points}, labels=labels, index=index))
    out.loss.backward()
    starts = torch.tensor([0, 3, 6])
    for start, chunk in zip(starts.tolist(), chunks, strict=True):
        again = other.capture(*chunk).tensors
        pairs = [
            (tensor, leaves[key].grad[start : start + len(tensor)])
            for key, tensor in again.items()
            if tensor.requires_grad and leaves[key].grad is not None
        ]
        torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])

    torch.testing.assert_close(out.loss, whole.loss, rtol=0, atol=1e-13)
    for (name, mine), theirs in zip(distiller.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=0, atol=1e-12, msg=name)
    for name, buffer in distiller.methods.named_buffers():
        torch.testing.assert_close(other.methods.get_buffer(name), buffer, rtol=0, atol=1e-13)


def test_accuracy_is_read_where_the_labels_are_taught(points, labels):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.classes, self.projection = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, inputs):
            hidden = self.body(inputs).tanh()
            return self.classes(hidden), self.projection(hidden)

    torch.manual_seed(0)
    student = Two()
    distiller = Distiller(net(0), student, [Term("ce", student_layer="classes"), "pkt"], example=points[:2])
    assert torch.equal(distiller.logits("student", points), student(points)[0])


def test_the_sum_of_half_precision_terms_is_single(points):
    give = Loud(lambda z: {"a": z.mean().bfloat16(), "b": z.square().mean().bfloat16()})
    distiller = Distiller(net(0), net(1), [Term(give)], example=points[:2])
    assert distiller(points).loss.dtype == torch.float32


# The maps that are meant where none are named


class Stages(Method):
    needs = Needs(roles=("maps",), stages=2, scope="sample")

    def loss(self, signals):
        return {"loss": torch.stack([t.square().mean() for t in signals.layers("student", "maps")]).sum()}


def staged(sizes):
    """Convolutions that halve the map, one a stage."""
    layers = [nn.Conv2d(2 if k == 0 else 4, 4, 3, stride=2, padding=1) for k in range(sizes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("layers", "student", "teacher"),
    [
        ({}, ("1", "2"), ("0", "1")),
        ({"student_layer": "0"}, ("0",), ("1",)),
        ({"student_layer": ["0", "1", "2"], "teacher_layer": "1"}, ("0", "1", "2"), ("1",)),
    ],
)
def test_maps_are_the_last_stages_of_both(layers, student, teacher):
    made = Distiller(staged(2), staged(3), [Term(Stages(), name="stages", **layers)], example=torch.zeros(2, 2, 16, 16))
    assert made.layers() == {"stages": {"student maps": student, "teacher maps": teacher}}


def test_maps_are_fewer_where_one_model_has_fewer():
    made = Distiller(staged(1), staged(3), [Term(Stages(), name="stages")], example=torch.zeros(2, 2, 16, 16))
    assert made.layers() == {"stages": {"student maps": ("2",), "teacher maps": ("0",)}}


def test_a_model_without_maps_is_told():
    expected = "The term 'stages': The teacher has no default layer for 'maps': name one with teacher_layer=."
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 16 * 16, 3))
    for maps in ({}, {"student_layer": ["1", "2"]}):
        term = Term(Stages(), name="stages", **maps)
        with pytest.raises(ValueError, match=re.escape(expected)):
            Distiller(flat, staged(3), [term], example=torch.zeros(2, 2, 16, 16))


class SumOfLists(nn.Module):
    def forward(self, student, teacher):
        return sum(((s - t).square().mean() * 10**k for k, (s, t) in enumerate(zip(student, teacher, strict=True))))


def test_a_loss_of_lists_is_asked_once_and_maps_are_projected():
    needs = Needs(roles=("maps",), stages=2, scope="sample")
    torch.manual_seed(0)
    student, teacher = conv(0), conv(1, width=6)
    images = torch.randn(4, 2, 8, 8)
    listed = LossMethod(SumOfLists(), needs, project=True, listed=True)
    layers = {"student_layer": ["0", "2"], "teacher_layer": ["0", "2"]}
    made = Distiller(teacher, student, [Term(listed, name="listed", **layers)], example=images[:2])
    assert [list(part.weight.shape) for part in listed.projectors] == [[6, 4, 1, 1]] * 2
    captured = made.capture(images)
    sides = [[captured.tensors[model, "main", path] for path in ("0", "2")] for model in ("student", "teacher")]
    projected = [part(maps) for part, maps in zip(listed.projectors, sides[0], strict=True)]
    torch.testing.assert_close(made.score(captured).loss, SumOfLists()(projected, sides[1]))


def test_distances_of_a_shared_tap_are_computed_once(monkeypatch):
    calls = []
    pdist = torch.nn.functional.pdist
    monkeypatch.setattr(torch.nn.functional, "pdist", lambda x: calls.append(x.shape) or pdist(x))
    terms = [Term("mkt"), Term("perception_coherence", dissimilarity="euclidean")]
    images = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for chosen in (terms, terms[:1], terms[1:]):
        torch.manual_seed(0)
        teacher, student = (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2))
        distiller = Distiller(teacher, student, chosen, example=images[:2])
        calls.clear()
        loss = distiller(images).loss
        assert len(calls) == 2  # the teacher's and the student's
        loss.backward()
        found.append((loss.detach(), [p.grad for p in student.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0][0], sum(loss for loss, _ in found[1:]))
    for together, *apart in zip(*(gradients for _, gradients in found), strict=True):
        torch.testing.assert_close(together, sum(apart), rtol=1e-4, atol=1e-6)


def test_the_models_arguments_go_in_by_name(points):
    class Scaled(nn.Linear):
        def forward(self, values, scale):
            return super().forward(scale * values)

    torch.manual_seed(0)
    named = {"values": points, "scale": points[:, :1]}
    distiller = Distiller(Scaled(6, 3), Scaled(6, 3), ["kd"], example=named)
    out = distiller(**named)
    assert torch.equal(out.loss, distiller(named).loss)
    (predicted,) = out[1:]
    assert predicted is out.student
    assert out[0] is out.loss
    for arguments in ({}, {"labels": torch.zeros(2, dtype=torch.int64)}):
        with pytest.raises(
            ValueError, match=r"`Distiller`: `inputs` must be what the models take, got nothing \(the T"
        ):
            distiller(**arguments)
    with pytest.raises(ValueError, match=r"`inputs` must be all that the models take, got lables beside it"):
        distiller(points, lables=None)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("term", ["kd", "mimic", "pkt", "at"])
def test_a_teacher_in_half_precision_takes_float_inputs(half, term):
    def conv(width):
        torch.manual_seed(width)
        layers = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(width, 3))

    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    losses = []
    for kind in (half, torch.float32):
        torch.manual_seed(0)
        distiller = Distiller(conv(8).to(kind), conv(6), [term], example=images[:2])
        out = distiller(images)
        out.loss.backward()
        losses.append(out.loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert images.dtype == torch.float32
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in distiller.student.parameters())


def test_one_teacher_of_two_distillers_with_other_examples():
    torch.manual_seed(0)
    teacher = cg.models.Teacher(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    points = torch.randn(5, 6)
    made = [
        cg.Distiller(teacher, nn.Linear(6, 3), ["kd", cg.Term("pkt", student_layer="")], example=points[:count])
        for count in (2, 5)
    ]
    made[1].student.load_state_dict(made[0].student.state_dict())
    assert made[0](points).loss == made[1](points).loss

"""A teacher and a student on the same samples."""

from __future__ import annotations

import json

import pytest
import torch
from _harness.fits import data, net
from torch import nn
from torch.utils.data import DataLoader

import congruence as cg
from congruence.metrics import global_perception_coherence
from congruence.models import count_parameters


@pytest.fixture
def pair():
    return net(0, 7).eval(), net(1)


def test_numbers_are_those_of_all_samples(pair):
    teacher, student = pair
    points, labels = data(23).tensors
    found = cg.compare(teacher, student, DataLoader(data(23), batch_size=10, shuffle=True))
    modes = [module.training for module in student.modules()]
    assert modes == [True] * len(modes)
    with torch.no_grad():
        classes = [model.eval()(points).argmax(1) for model in pair]
        features = [model[:3](points) for model in pair]
    assert found.samples == 23
    assert found.teacher_accuracy == pytest.approx(float((classes[0] == labels).double().mean()))
    assert found.student_accuracy == pytest.approx(float((classes[1] == labels).double().mean()))
    assert found.agreement == pytest.approx(float((classes[0] == classes[1]).double().mean()))
    assert found.gpcl == pytest.approx(global_perception_coherence(features[1], features[0]), abs=1e-6)
    assert found.teacher_parameters == count_parameters(teacher)
    assert found.student_parameters == count_parameters(student)
    assert json.loads(found.to_json()) == found.to_dict()
    assert list(found.to_dict()) == list(json.loads(found.to_json()))


def test_each_model_runs_once_over_each_batch(pair):
    calls = {0: 0, 1: 0}
    for position, model in enumerate(pair):
        model.register_forward_pre_hook(lambda *_, p=position: calls.update({p: calls[p] + 1}))
    batches = iter([tuple(part[:12] for part in data().tensors), tuple(part[12:] for part in data().tensors)])
    assert cg.compare(*pair, batches).samples == 24
    assert calls[0] == calls[1] <= 5  # two batches, and dry runs that find the layers


def test_a_model_is_faithful_to_itself(pair):
    found = cg.compare(pair[0], pair[0], cg.data.loader(data(), batch_size=7))
    assert found.agreement == 1
    assert found.gpcl == pytest.approx(1)


def test_without_labels_and_with_other_classes(pair):
    points = data().tensors[0]
    found = cg.compare(*pair, [points])
    assert (found.teacher_accuracy, found.student_accuracy) == (None, None)
    assert found.agreement is not None
    torch.manual_seed(0)
    other = cg.compare(pair[0], nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5)), [data().tensors])
    assert other.agreement is None


def test_the_labels_tell_which_of_two_heads_is_the_data_s(pair):
    points, labels = data().tensors
    wide = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 16))
    for those in (labels, labels.clamp(max=0)):  # also where no sample is of the last class
        found = cg.compare(wide, pair[1], [(points, those)])
        assert (found.teacher_accuracy, found.agreement) == (None, None)
        assert found.student_accuracy is not None


def test_probabilities_are_compared_as_such(pair):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.of = nn.ModuleList(nn.Linear(6, 3) for _ in range(2))

        def forward(self, points):
            return sum(each(points).softmax(1) for each in self.of) / 2

    torch.manual_seed(0)
    mean, (points, labels) = Mean(), data().tensors
    found = cg.compare(mean, pair[1], [(points, labels)], teacher_layer="output")
    assert found.teacher_accuracy == pytest.approx((mean(points).argmax(1) == labels).float().mean().item())
    assert found.agreement is not None


def test_labels_that_are_no_classes(pair, caplog):
    points = data().tensors[0]
    found = cg.compare(*pair, [(points, torch.full((len(points), 3), 0.4))])
    assert (found.teacher_accuracy, found.student_accuracy) == (None, None)
    assert found.gpcl > 0
    assert "the labels (float32 [24, 3]) are not those of the logits" in caplog.text


def test_layers_by_name(pair):
    default = cg.compare(*pair, [data().tensors])
    named = cg.compare(*pair, [data().tensors], teacher_layer="0", student_layer="2")
    assert named.gpcl != default.gpcl
    with pytest.raises(ValueError, match=r"The student .*'nine'"):
        cg.compare(*pair, [data().tensors], student_layer="nine")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"loader": []}, "`loader` must hold at least one batch, got none"),
        ({"teacher": "resnet"}, "`teacher` must be a torch module, got str"),
        ({"student": None}, "`student` must be a torch module, got NoneType"),
    ],
)
def test_refused_in_one_sentence(change, sentence, pair):
    arguments = {"teacher": pair[0], "student": pair[1], "loader": [data().tensors]} | change
    with pytest.raises(ValueError, match=sentence):
        cg.compare(**arguments)


def test_models_stay_where_they_are_unless_told(pair):
    cg.compare(*pair, [data().tensors])
    assert {p.device.type for model in pair for p in model.parameters()} == {"cpu"}
    assert cg.compare(*pair, [data().tensors], device="cpu").samples == 24


class Torn(nn.Module):
    """Gives `bad` for samples whose first number is large, as an attention layer does for rows of padding alone."""

    def __init__(self, inner, bad=float("nan"), above=1.0):
        super().__init__()
        self.inner, self.bad, self.above = inner, bad, above

    def forward(self, inputs):
        return self.inner(inputs.masked_fill(inputs[:, :1] > self.above, self.bad))


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_gives_no_numbers_is_named(pair, side, bad, dtype):
    points, labels = data(23).tensors
    models = [m if name != side else Torn(m, bad) for name, m in zip(("teacher", "student"), pair, strict=True)]
    models = [model.to(dtype) for model in models]
    rows = (points.to(dtype)[:, 0] > 1).nonzero()[:, 0].tolist()
    sentence = f"`compare`: the {side}'s embeddings must be finite, got NaN or infinity for {len(rows)} of 23 samples"
    with pytest.raises(ValueError, match=f"^{sentence}, first for sample {rows[0]}: see what the model makes of it"):
        cg.compare(*models, [(points.to(dtype), labels)])
    assert 0 < len(rows) < 23


def test_samples_without_a_label_count_in_no_accuracy(pair):
    points, labels = data(23).tensors
    missing = torch.where(torch.arange(23) % 3 == 0, -1, labels)
    known = missing >= 0
    found, expected = (cg.compare(*pair, [batch]) for batch in ((points, missing), (points[known], labels[known])))
    assert found.student_accuracy == pytest.approx(expected.student_accuracy)
    assert found.teacher_accuracy == pytest.approx(expected.teacher_accuracy)
    assert found.samples == 23

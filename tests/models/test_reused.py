"""A student with its teacher's classifier: golden logits, what it is made of, and its way through a run."""

from __future__ import annotations

import re

import pytest
import torch
from _harness import golden
from _harness.configs import tiny
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence import pipeline
from congruence.config import ConfigError, from_values
from congruence.models import ReusedClassifier

SIDE = 6


def convolutional(width, *, stride=1):
    """A network whose last Linear reads the mean of its last map."""
    convolution = nn.Conv2d(2, width, 3, stride=stride, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def images(count=4):
    return torch.randn(count, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_logits_and_map_are_the_golden_ones():
    stored = {name: value.double() for name, value in golden.arrays("simkd_A").items()}
    body = nn.Sequential(nn.Identity())
    student = ReusedClassifier(body, layer="0", channels=16, teacher_channels=32, classes=10).double()
    parts = {name: value for name, value in stored.items() if name.startswith("param_")}
    state = student.state_dict()
    for name, value in parts.items():
        state[name.replace("param_transfer", "projector").replace("param_cls", "head")] = value
    student.load_state_dict(state)
    projected = student.projector(stored["in_s"])
    torch.testing.assert_close(projected, stored["out_projected"], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(student(stored["in_s"]), stored["out_logits"], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (1, 2), (2, 1)])
def test_it_predicts_by_projector_mean_and_the_teachers_classifier(ours, theirs):
    torch.manual_seed(0)
    small, teacher = convolutional(4, stride=ours), convolutional(8, stride=theirs)
    student = ReusedClassifier.of(small, teacher, example=images(), factor=4).eval()
    assert student.described["layer"] == "1"
    assert [part.out_channels for part in student.projector if isinstance(part, nn.Conv2d)] == [2, 2, 8]
    given = small[1](small[0](images()))
    if theirs > ours:
        given = F.adaptive_avg_pool2d(given, SIDE // 2)
    expected = teacher[4](student.projector(given).mean((2, 3)))
    torch.testing.assert_close(student(images()), expected)
    distiller = cg.Distiller(teacher, student, ["simkd"], example=images())
    distiller.eval()
    wanted = teacher[1](teacher[0](images()))
    if ours > theirs:
        wanted = F.adaptive_avg_pool2d(wanted, SIDE // 2)
    out = distiller(images())
    torch.testing.assert_close(out.loss, F.mse_loss(student.projector(given), wanted))
    torch.testing.assert_close(out.student, expected)


def test_the_classifier_and_what_lies_behind_the_map_do_not_train():
    torch.manual_seed(0)
    teacher, small = convolutional(8), convolutional(4)
    student = ReusedClassifier.of(small, teacher, example=images())
    frozen = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert frozen == ["student.4.weight", "student.4.bias", "head.weight", "head.bias"]
    before = {name: value.clone() for name, value in student.state_dict().items()}
    data = torch.utils.data.TensorDataset(images(16), torch.arange(16) % 3)
    distiller = cg.Distiller(teacher, student, ["simkd"], example=images())
    result = cg.fit(
        distiller, cg.data.loader(data, batch_size=8), cg.data.loader(data, batch_size=8), cg.FitOptions(epochs=2)
    )
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert {"student.0.weight", "projector.0.weight", "projector.1.running_mean"} <= moved
    assert not moved & set(frozen)
    assert "accuracy" in result.best["student"]  # it means something, though no term reads logits
    assert torch.equal(teacher[4].weight, student.head.weight)
    assert teacher[4].weight is not student.head.weight


def test_a_map_that_is_written_over_later_is_read_as_it_was():
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 3))
    student = ReusedClassifier.of(small, convolutional(8), example=images(), layer="0").eval()
    given = small[0](images())
    expected = student.head(student.projector(given).mean((2, 3)))
    torch.testing.assert_close(student(images()), expected)


def test_it_goes_through_run_file_comparison_and_export(tmp_path):
    reused = "stages.student.student={model='cnn3', reused_classifier={}}"
    pipeline.run(tiny("digits/simkd", reused), tmp_path / "run")
    again = cg.load_student(tmp_path / "run")
    assert isinstance(again, ReusedClassifier)
    teacher = cg.load_student(tmp_path / "run" / "teacher")
    assert torch.equal(again.head.weight, teacher.fc.weight)
    data = cg.data.load("digits")
    found = cg.compare(teacher, again, cg.data.loader(data.test, batch_size=64, shuffle=False))
    assert found.student_parameters == cg.models.count_parameters(again)
    assert found.left_out.get("student_accuracy") is None
    done = cg.export(tmp_path / "run", tmp_path / "out", to="torch-export")
    assert done.check.agreement == 1.0


def convolved(width):
    return nn.Sequential(*convolutional(width)[:3], nn.Conv2d(width, 3, 1), nn.Flatten())


def flat(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * SIDE * SIDE, width), nn.ReLU(), nn.Linear(width, 3))


class Max(nn.Module):
    """A classifier of the largest, not of the mean, of a map."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Conv2d(2, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.body(x).amax((2, 3)))


@pytest.mark.parametrize(
    ("small", "teacher", "options", "sentence"),
    [
        (flat(4), convolutional(8), {}, "the student has no map [B, C, H, W]; name a layer that gives one."),
        (convolutional(4), flat(8), {}, "the teacher has no map [B, C, H, W]; name a layer that gives one."),
        (convolutional(4), Max(), {}, "the teacher's classifier 'fc' does not read the mean of its layer 'body'"),
        (
            convolutional(4),
            convolved(8),
            {},
            "the teacher's logits are not those of one Linear, which could be reused.",
        ),
        (convolutional(4), convolutional(8), {"factor": 0}, "`ReusedClassifier`: `factor` must be"),
        (convolutional(4), convolutional(8), {"layer": "4"}, "the layers must give maps [B, C, H, W], got [4, 3] and"),
    ],
)
def test_what_cannot_be_reused_is_one_sentence(small, teacher, options, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ReusedClassifier.of(small, teacher, example=images(), **options)


def test_a_layer_that_is_not_there_is_one_sentence():
    with pytest.raises(ValueError, match=r"^`ReusedClassifier`: `layer` must be a layer of the student, got 'convv'\."):
        ReusedClassifier(convolutional(4), layer="convv", channels=4, teacher_channels=8, classes=3)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"student": {"model": "cnn3", "reused_classifier": {}}}, "expected none without one teacher"),
        (
            {"teacher": {"model": "resnet8", "reused_classifier": {}}, "student": {"model": "cnn3"}},
            "teacher.reused_classifier: expected none of a teacher",
        ),
        ({"student": {"model": "cnn3", "reused_classifier": {"factr": 2}}}, "reused_classifier.factr"),
    ],
)
def test_configurations_that_cannot_be_are_refused(stage, sentence):
    values = {
        "data": {"name": "digits"},
        "stages": {"student": {**stage, "terms": [{"key": "ce"}], "train": {"epochs": 1}}},
    }
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        from_values(values, "here")

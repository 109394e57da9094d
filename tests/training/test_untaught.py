"""Parts that nobody trains are named at the start and at the end, and what they say of classes is not measured."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from _harness.fits import constant, data, distiller, net
from torch import nn

import congruence as cg


def batches():
    return cg.data.loader(data(), batch_size=8)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_head_that_no_term_reaches_is_named_twice_and_not_measured(caplog, tmp_path):
    made = distiller("pkt")
    cg.fit(made, batches(), options=constant(epochs=3, out=tmp_path))
    told = [line for line in warnings(caplog) if "'3' (18 of 63 parameters)" in line]
    assert [line.partition("(")[0] for line in told] == [
        "The student has parts that no term reaches so far: '3' ",
        "The student has parts that no term has reached: '3' ",
    ]
    (hint,) = [line for line in warnings(caplog) if "student_layer='3'" in line]
    assert hint.startswith("The terms read what enters the student's '3' as its embedding.")
    assert json.loads((tmp_path / "summary.json").read_text())["untaught"] == {"student": ["3"]}
    caplog.clear()
    comparison = cg.compare(net(0, 7), made.student, batches())
    assert (comparison.student_accuracy, comparison.agreement) == (None, None)
    assert comparison.teacher_accuracy is not None
    assert warnings(caplog) == [
        "The student's accuracy, agreement and entropy are left out: no term taught the student's '3'."
    ]
    loaded = cg.load_student(tmp_path, lambda: net(5))
    assert cg.compare(net(0, 7), loaded, batches()).agreement is None
    cg.fit(cg.Distiller(None, made.student, ["ce"], example=data().tensors[0][:4]), batches(), options=constant())
    assert cg.compare(net(0, 7), made.student, batches()).student_accuracy is not None


def test_an_embedding_that_ends_in_a_linear_layer_is_trained_where_it_is_named(caplog):
    term = cg.Term("pkt", student_layer="3", teacher_layer="3")
    made = cg.Distiller(net(0, 7), net(1, 4), [term], example=data().tensors[0][:4])
    assert cg.fit(made, batches(), options=constant()).untaught == {}
    assert not any("student_layer" in line for line in warnings(caplog))


def test_a_teacher_whose_head_nobody_taught_is_told(caplog, tmp_path):
    made = distiller("pkt")
    cg.fit(made, batches(), options=constant(epochs=1, out=tmp_path))
    loaded = cg.load_student(tmp_path, lambda: net(5))
    for teacher in (made.student, loaded):
        caplog.clear()
        cg.Distiller(teacher, net(1, 4), ["kd", "pkt"], example=data().tensors[0][:4])
        run = "but no term of the teacher's own run trained that layer."
        expected = f"The term 'kd' distils the teacher's logits '3', {run}"
        assert warnings(caplog) == [expected]


def test_nothing_is_said_where_terms_reach_all_or_parts_are_frozen(caplog, tmp_path):
    made = distiller("ce", cg.Term("pkt", start_epoch=1))
    made.student[0].requires_grad_(False)
    cg.fit(made, batches(), options=constant(epochs=2, out=tmp_path))
    assert not [line for line in warnings(caplog) if "no term" in line]
    assert json.loads((tmp_path / "summary.json").read_text())["untaught"] == {}


def test_a_term_that_starts_later_may_reach_the_rest(caplog):
    cg.fit(distiller("pkt", cg.Term("ce", start_epoch=1)), batches(), options=constant(epochs=2))
    assert not [line for line in warnings(caplog) if "no term" in line]


def test_layers_thawed_later_are_in_no_optimizer(caplog):
    made = distiller("ce", "kd")
    made.student[0].requires_grad_(False)
    before = made.student[0].weight.clone()

    def thaw(event):
        if event.kind == "epoch" and event.epoch == 0:
            made.student[0].requires_grad_(True)

    cg.fit(made, batches(), options=constant(epochs=3, callbacks=(thaw,)))
    assert torch.equal(made.student[0].weight, before)
    told = [line for line in warnings(caplog) if "in no optimizer" in line]
    assert len(told) == 1
    assert told[0].startswith("The student's '0' now require a gradient")


@pytest.mark.parametrize("whole", [True, False])
def test_a_student_left_in_evaluation_mode_is_told_once_in_one_s_own_loop(caplog, whole):
    made = distiller("kd")
    (made.student if whole else made.student[1]).eval()
    for _ in range(2):
        made(data().tensors[0][:8]).loss.backward()
    told = [line for line in warnings(caplog) if "evaluation mode" in line]
    assert len(told) == whole
    assert all(line.startswith("The student is in evaluation mode while the distiller trains") for line in told)


@pytest.mark.parametrize("declared", [True, False])
def test_the_classes_of_another_task_are_not_measured(caplog, declared):
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1000))
    loader = batches() if declared else [data().tensors]
    if declared:
        loader.dataset.classes = ["a", "b", "c"]
    comparison = cg.compare(other, net(1), loader)
    assert (comparison.teacher_accuracy, comparison.agreement) == (None, None)
    assert comparison.student_accuracy is not None
    why = "the teacher's output has 1000 columns, the data 3 classes"
    assert warnings(caplog) == [f"The teacher's accuracy, agreement and entropy are left out: {why}."]


def test_labels_that_lack_the_last_class_are_no_other_task():
    points, labels = data().tensors
    few = labels < 2
    assert cg.compare(net(0, 7), net(1), [(points[few], labels[few])]).student_accuracy is not None


def in_a_loop_of_ones_own(made, make, *, batches_each=1, classify=False, steps=12):
    optimizer = make(made.parameter_groups())
    points, labels = data().tensors
    for _ in range(steps):
        for _ in range(batches_each):
            out = made(points[:8], labels[:8])
            own = nn.functional.cross_entropy(out.student, labels[:8]) if classify else 0
            (out.loss + own).backward()
        optimizer.step()
        optimizer.zero_grad()


OPTIMIZERS = [
    lambda groups: torch.optim.AdamW(groups, lr=0.01, fused=True),  # counts no version of what it moves
    lambda groups: torch.optim.SGD(groups, lr=0.01),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("batches_each", [1, 20])
def test_what_a_loop_of_ones_own_does_not_move_is_named_and_not_measured(caplog, make, batches_each):
    made = distiller("pkt")
    in_a_loop_of_ones_own(made, make, batches_each=batches_each)
    (told,) = warnings(caplog)
    assert told.startswith(
        "The student has parts that no step has changed so far: '3' (18 of 63 parameters). No term reaches"
    )
    comparison = cg.compare(net(0, 7), made.student, batches())
    assert (comparison.student_accuracy, comparison.agreement) == (None, None)
    assert comparison.teacher_accuracy is not None


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_nothing_is_said_of_a_loop_that_moves_all(caplog, make):
    in_a_loop_of_ones_own(distiller("pkt"), make, classify=True)
    in_a_loop_of_ones_own(distiller("ce", "kd"), make)
    in_a_loop_of_ones_own(distiller("pkt", cg.Term("ce", start_epoch=1)), make)
    in_a_loop_of_ones_own(distiller("pkt"), make, steps=3)
    frozen = distiller("pkt")
    frozen.student[3].requires_grad_(False)
    in_a_loop_of_ones_own(frozen, make)
    assert not warnings(caplog)


def test_a_head_that_a_fused_optimizer_trains_later_is_measured():
    made = distiller("pkt")
    cg.fit(made, batches(), options=constant())
    points, labels = data().tensors
    optimizer = torch.optim.AdamW(made.student.parameters(), fused=True)
    nn.functional.cross_entropy(made.student(points), labels).backward()
    optimizer.step()
    assert cg.compare(net(0, 7), made.student, batches()).student_accuracy is not None


def test_an_adapter_beside_the_head_is_taught():
    class Adapted(nn.Module):
        """Adds 0 before it is trained, so that its head has the values of the output."""

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
            self.down, self.up = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.zeros(3, 2))
            self.head.requires_grad_(False)

        def forward(self, points):
            hidden = self.body(points).relu()
            return self.head(hidden) + hidden @ self.down.T @ self.up.T

    torch.manual_seed(0)
    student = Adapted()
    made = cg.Distiller(net(0, 7), student, ["ce", "pkt"], example=data().tensors[0][:4])
    assert made.layers()["ce"] == {"student logits": ("output",)}
    assert made.layers()["pkt"]["student features"] == ("input:head",)
    result = cg.fit(made, batches(), options=constant())
    assert result.untaught == {}
    assert bool(student.up.any())


@pytest.mark.parametrize("make", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients_are_refused(make):
    ids = torch.randint(9, (8, 4))
    layer = make(9, 6, sparse=True)
    student = nn.Sequential(layer, *([] if make is nn.EmbeddingBag else [nn.Flatten()]), nn.LazyLinear(3))
    student(ids)
    made = cg.Distiller(None, student, ["ce"], example=ids)
    with pytest.raises(ValueError, match=r"the student's layer '0' gives sparse gradients .*: build it with spars"):
        cg.fit(made, [(ids, torch.arange(8) % 3)], options=constant())

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.methods import LossMethod, Needs, Signals, row
from congruence.methods.joint_wasserstein import JointWasserstein


def net(seed, width, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, classes))


def scored(student, teacher, method, inputs):
    return cg.Distiller(teacher, student, [cg.Term(method, weight=1.0)], example=inputs[:2])(inputs)


def test_reads_features_and_predictions_of_both_sides():
    student, teacher, inputs = net(0, 5), net(1, 5), torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    for settings in ({}, {"beta": 10.0, "label_cost": "cross_entropy"}):
        out = scored(student, teacher, JointWasserstein(**settings), inputs)
        ours, theirs = student[:2](inputs), teacher[:2](inputs)
        targets = student(inputs).softmax(1), teacher(inputs).softmax(1)
        expected = cg.losses.joint_wasserstein_loss(ours, theirs, *targets, **settings)
        torch.testing.assert_close(out.loss, expected)
        out.loss.backward()
        assert student[2].weight.grad.any()  # the logits' layer learns by the label cost
        assert teacher[2].weight.grad is None


def test_the_student_is_made_as_wide_as_the_teacher():
    method, inputs = JointWasserstein(), torch.ones(4, 6)
    distiller = cg.Distiller(net(1, 9), net(0, 5), [cg.Term(method)], example=inputs[:2])
    assert method.projector.weight.shape == (9, 5)
    assert len(distiller.student_state_dict()) == 4
    assert any(p is method.projector.weight for group in distiller.parameter_groups() for p in group["params"])


def test_far_logits_keep_a_gradient():
    method = JointWasserstein(label_cost="cross_entropy")
    for far, reaches in ((60.0, True), (1e4, False)):
        logits = torch.tensor([[far, -far / 2]], requires_grad=True)
        rows = {
            ("student", "main", "features"): (torch.zeros(1, 2),),
            ("teacher", "main", "features"): (torch.zeros(1, 2),),
        }
        rows |= {("student", "main", "logits"): (logits,), ("teacher", "main", "logits"): (-logits.detach(),)}
        value = method.loss(Signals(rows, ("student",)))["loss"]
        value.backward()
        assert torch.isfinite(value)
        assert bool(logits.grad.any()) == reaches
        assert torch.isfinite(logits.grad).all()


def test_other_classes_than_the_teachers_are_refused_before_a_step():
    with pytest.raises(ValueError, match=r"`student_targets` \[2, 3\], `teacher_targets` \[2, 4\]"):
        scored(net(0, 5), net(1, 5, classes=4), JointWasserstein(), torch.ones(2, 6))


def test_several_layers_are_refused():
    term = cg.Term("joint_wasserstein", student_layer={"features": ["0", "1"]}, teacher_layer={"features": ["0", "1"]})
    with pytest.raises(ValueError, match="reads one layer of features a side, got 2"):
        cg.Distiller(net(1, 5), net(0, 5), [term], example=torch.ones(2, 6))


@pytest.mark.parametrize("key", ["class_wasserstein", "class_gaussian_wasserstein"])
def test_the_labels_of_the_batch_serve_both_sides(key):
    student, teacher, inputs = net(0, 5), net(1, 5), torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 0, -1, 1, 0, 2])
    distiller = cg.Distiller(teacher, student, [cg.Term(key, weight=1.0)], example=inputs[:2])
    expected = row(key).function(student[:2](inputs), teacher[:2](inputs), labels, labels)
    torch.testing.assert_close(distiller(inputs, labels).loss, expected)
    with pytest.raises(ValueError, match=f"The term '{key}' needs labels, the batch has none"):
        distiller(inputs)


def test_labels_go_once_to_a_loss_of_one_set():
    method = LossMethod(cg.losses.CrossEntropyLoss(), Needs(roles=("logits",), teacher=False, labels=True))
    rows = {("student", "main", "logits"): (torch.zeros(2, 4),)}
    value = method.loss(Signals(rows, ("student",), labels=torch.tensor([0, 1])))["loss"]
    assert value.item() == pytest.approx(1.386294)

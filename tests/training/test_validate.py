"""Validation counts every sample once and changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from _harness.fits import CPU, data, distiller, net
from _harness.toys import Bank, MinMax
from torch import nn

import congruence as cg
from congruence import Term
from congruence.training.validate import rehearse, validate


def test_accuracy_and_loss_are_those_of_all_samples():
    made = distiller()
    points, labels = data(23, seed=1).tensors
    found = validate(made, cg.data.loader(data(23, seed=1), batch_size=10, shuffle=False), CPU)
    logits = made.student.eval()(points).detach()
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)


def test_unlabelled_samples_do_not_count():
    made = distiller()
    points, labels = data().tensors
    some = labels.clone()
    some[:10] = -1
    some[10] = -7
    found, expected = validate(made, [(points, some)], CPU), validate(made, [(points[11:], labels[11:])], CPU)
    assert found == pytest.approx(expected)


def test_where_no_sample_has_a_label_it_is_the_distillation_loss(tmp_path):
    made = cg.Distiller(net(0), net(1), ["kd"], example=data().tensors[0][:2])
    points, labels = data().tensors
    none = torch.full_like(labels, -1)
    assert rehearse(made, [(points, none)], CPU) == ["loss"]
    assert rehearse(made, [(points, none), (points, labels)], CPU) == ["accuracy", "loss"]
    assert validate(made, [(points, none)], CPU) == pytest.approx(validate(made, [points], CPU))
    result = cg.fit(made, [(points, labels)], [(points, none)], cg.FitOptions(epochs=2, out=tmp_path / "run"))
    assert set(result.best["student"]) == {"loss"}
    assert (tmp_path / "run" / "student.safetensors").exists()


def test_a_batch_without_labels_does_not_count_among_others_with_them():
    made = distiller()
    points, labels = data().tensors
    found = validate(made, [(points[:8], labels[:8]), points[8:]], CPU)
    assert found == pytest.approx(validate(made, [(points[:8], labels[:8])], CPU))


def test_without_labels_it_is_the_distillation_loss():
    made = distiller("pkt", "mimic").eval()
    points = data().tensors[0]
    found = validate(made, [points[:16], points[16:]], CPU)
    with torch.no_grad():
        losses = [float(made(part).loss) for part in (points[:16], points[16:])]
    assert found == {"loss": pytest.approx((16 * losses[0] + 8 * losses[1]) / 24, rel=1e-6)}


def test_before_the_first_epoch_it_is_no_error():
    points = data().tensors[0]
    made = cg.Distiller(net(1), net(2), [Term(MinMax())], example=points[:2])
    assert rehearse(made, [points], CPU) == ["loss"]  # of a method that works by epochs and teaches no classes
    with pytest.raises(ValueError, match="works by epochs"):
        made.train()(points)


def test_a_method_that_works_by_epochs_is_measured_once_the_first_has_begun(tmp_path):
    term = Term("kda", landmarks="clusters", count=3, warmup=0)
    points, labels = data().tensors
    made = cg.Distiller(net(0), net(1), [term], example=points[:2])
    assert rehearse(made, [(points, labels)], CPU) == ["loss"]
    options = cg.FitOptions(epochs=2, out=tmp_path, monitor="loss")
    result = cg.fit(made, [(points, labels)], [(points, labels)], options=options)
    assert [list(row) for row in result.history] == [["loss"], ["loss"]]
    assert all(row["loss"] > 0 for row in result.history)


def test_several_students():
    made = distiller("ce", teacher=False, students={"anna": 1, "ben": 2})
    found = validate(made, [data().tensors], CPU)
    assert list(found) == ["accuracy/anna", "loss/anna", "accuracy/ben", "loss/ben"]


def test_nothing_is_changed():
    torch.manual_seed(0)
    bank = Bank()
    facts, points = cg.data.facts(data()), data().tensors[0]
    student = net(1)
    student[1].eval()
    made = cg.Distiller(net(0), student, [Term(bank)], example=points[:4], facts=facts)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    modes = [module.training for module in made.modules()]
    state = torch.get_rng_state()
    validate(made, torch.utils.data.DataLoader(cg.data.indexed(data()), batch_size=8, shuffle=True), CPU)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert [module.training for module in made.modules()] == modes
    assert all(parameter.grad is None for parameter in made.parameters())


def test_a_student_without_class_logits_is_told_before_training():
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(2, 3, 1)

        def forward(self, images):
            return self.body(images)

    images = torch.randn(4, 2, 3, 3)

    from congruence.methods import Method, Needs

    class Labelled(Method):
        needs = Needs(roles=("maps",), labels=True, teacher=False)

        def loss(self, signals):
            return {"loss": signals.one("student", "maps").square().mean()}

    made = cg.Distiller(None, Map(), [Term(Labelled(), student_layer="body")], example=images)
    batch, seen = (images, torch.zeros(4).long()), []
    options = cg.FitOptions(epochs=1, device="cpu", callbacks=(seen.append,))
    with pytest.raises(ValueError, match="has no layer that is known to give class logits: give `evaluate=`"):
        cg.fit(made, [batch], [batch], options)
    assert seen == []


def test_a_loader_that_gives_nothing():
    with pytest.raises(ValueError, match="The validation loader gave no batch"):
        validate(distiller(), [], CPU)


def test_a_student_that_gives_no_numbers_has_no_accuracy():
    """Of NaN argmax makes the first class: as many would be right as are of that class."""
    made = distiller()
    points, labels = data(23).tensors
    bad = points.clone()
    bad[4] = torch.nan
    assert math.isnan(validate(made, [(bad, labels)], CPU)["accuracy"])
    missing = labels.clone()
    missing[4] = -1  # what has no label is not measured
    known = torch.arange(23) != 4
    found, expected = validate(made, [(bad, missing)], CPU), validate(made, [(points[known], labels[known])], CPU)
    assert found["accuracy"] == pytest.approx(expected["accuracy"])

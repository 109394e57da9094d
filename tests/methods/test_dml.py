"""Mutual learning: every student by itself, from the others as constants; each validated and each with its file."""

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.losses import cross_entropy_loss, mutual_learning_loss

NAMES = ("anna", "ben", "cleo")


def net(seed, classes=3, width=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, classes))


def made(*names, terms=("ce", "dml")):
    students = {name: net(seed, width=4 + seed) for seed, name in enumerate(names)}
    return cg.Distiller(None, students, list(terms), example=torch.zeros(2, 6))


def data(size=24):
    inputs = torch.randn(size, 6, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


@pytest.mark.parametrize("names", [NAMES[:2], NAMES])
def test_each_student_has_cross_entropy_and_the_mean_over_the_others(names):
    distiller, (inputs, labels) = made(*names), data()
    out = distiller(inputs, labels)
    out.loss.backward()
    logits = {name: student(inputs) for name, student in distiller.students.items()}
    assert set(out.terms) == {f"ce:{name}" for name in names} | {f"dml.{name}" for name in names}
    for name in names:
        others = [mutual_learning_loss(logits[name], logits[other]) for other in names if other != name]
        alone = cross_entropy_loss(logits[name], labels) + torch.stack(others).mean()
        # Its gradient is that of its own objective: the others' divergence from it reaches it nowhere.
        parameters = list(distiller.students[name].parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(alone, parameters), strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(out.terms[f"dml.{name}"], torch.stack(others).mean())


def test_each_is_validated_and_each_has_its_file(tmp_path):
    distiller, (inputs, labels) = made(*NAMES[:2]), data()
    batches = cg.data.loader(torch.utils.data.TensorDataset(inputs, labels), batch_size=8)
    result = cg.fit(distiller, batches, batches, cg.FitOptions(epochs=2, out=tmp_path, device="cpu"))
    assert set(result.last) == {f"{key}/{name}" for key in ("accuracy", "loss") for name in NAMES[:2]}
    assert set(result.best_epoch) == set(NAMES[:2])
    for seed, name in enumerate(NAMES[:2]):
        loaded = cg.load_student(tmp_path, lambda seed=seed: net(9, width=4 + seed), name=name)
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, result.best_states[name][key])


def test_students_come_together():
    """Two students that see no labels end with one opinion."""
    distiller, (inputs, _) = made(*NAMES[:2], terms=["dml"]), data()
    optimizer = torch.optim.Adam(distiller.parameter_groups(), lr=0.01)
    before = distiller(inputs).loss.item()
    for _ in range(100):
        optimizer.zero_grad()
        distiller(inputs).loss.backward()
        optimizer.step()
    assert distiller(inputs).loss.item() < 0.05 * before


def test_what_cannot_work_is_said_before_a_step():
    with pytest.raises(ValueError, match="`MutualLearning` needs two students or more, got 1"):
        cg.Distiller(None, net(0), ["dml"], example=torch.zeros(2, 6))
    with pytest.raises(ValueError, match="The term 'dml' sees all students: leave out student='anna'"):
        made("anna", "ben", terms=[cg.Term("dml", student="anna")])
    students = {"anna": net(0), "ben": net(1, classes=4)}
    with pytest.raises(ValueError, match=r"must have the same shape, got `logits` \[2, 3\], `other_logits` \[2, 4\]"):
        cg.Distiller(None, students, ["dml"], example=torch.zeros(2, 6))

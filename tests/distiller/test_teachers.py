"""Several teachers by name: each with its layers, its cache and its share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import congruence as cg
from congruence import Distiller, Inputs, Term
from congruence.evaluation.watch import Diagnostics
from congruence.losses import distillation_loss, pkt_loss
from congruence.models import Teacher


def net(seed, width=5, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, classes))


@pytest.fixture
def points():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teachers():
    return {"dino": net(1, 7), "clip": net(2, 9)}


def rows(model, points):
    return model[1](model[0](points))


def test_each_term_learns_from_the_one_it_names(points, teachers):
    student = net(3)
    terms = [Term("pkt", teacher="dino", weight=2.0), Term("kd", teacher="clip", temperature=3.0)]
    distiller = Distiller(teachers, student, terms, example=points)
    out = distiller(points)
    torch.testing.assert_close(out.terms["pkt"], pkt_loss(rows(student, points), rows(teachers["dino"], points)))
    logits = teachers["clip"](points)
    torch.testing.assert_close(out.terms["kd"], distillation_loss(student(points), logits, temperature=3.0))
    assert set(out.teacher) == {"dino", "clip"}
    torch.testing.assert_close(out.teacher["clip"], logits)
    assert distiller.describe_layers()["pkt"].endswith("teacher 'dino' features 'input:2' [8, 7]")


def test_a_term_that_names_none_learns_from_each(points, teachers):
    student = net(3)
    distiller = Distiller(teachers, student, [Term("pkt", weight="balanced"), Term("kd")], example=points)
    out = distiller(points)
    assert set(out.terms) == {"pkt:dino", "pkt:clip", "kd:dino", "kd:clip"}
    torch.testing.assert_close(out.terms["pkt:clip"], pkt_loss(rows(student, points), rows(teachers["clip"], points)))


def test_only_teachers_that_are_read_run(points, teachers):
    calls = []
    teachers["clip"].register_forward_hook(lambda *_: calls.append(1))
    distiller = Distiller(teachers, net(3), [Term("pkt", teacher="dino")], example=points)
    before = len(calls)
    assert distiller(points).teacher["clip"] is None
    assert len(calls) == before


def test_each_has_its_layers(points, teachers):
    terms = [
        Term("pkt", teacher="dino", teacher_layer="0", student_layer="0"),
        Term("pkt", teacher="clip", name="from_clip", teacher_layer="1"),
    ]
    distiller = Distiller(teachers, net(3), terms, example=points)
    assert distiller.layers()["pkt"]["teacher features"] == ("0",)
    assert distiller.layers()["from_clip"]["teacher features"] == ("1",)


def test_one_input_for_each(points, teachers):
    teachers["clip"] = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3))
    inputs = Inputs(teacher=points, clip=torch.randn(8, 3, 4), student=points)
    out = Distiller(teachers, net(3), ["kd"], example=inputs)(inputs)
    torch.testing.assert_close(out.teacher["clip"], teachers["clip"](inputs["clip"]))
    torch.testing.assert_close(out.teacher["dino"], teachers["dino"](points))


def test_balanced_shares_hold_for_each(points, teachers):
    student, labels = net(3), torch.arange(8) % 3
    terms = [Term("ce"), Term("pkt", teacher="dino", weight="balanced", share=0.5, name="a")]
    terms.append(Term("pkt", teacher="clip", weight="balanced", share=2.0, name="b"))
    distiller = Distiller(teachers, student, terms, example=points)
    distiller.begin_epoch(0)
    out = distiller(points, labels)

    grads = torch.autograd.grad(out.terms["ce"], student.parameters(), retain_graph=True)
    anchor = torch.cat([grad.flatten() for grad in grads]).norm()

    def share(name):
        got = torch.autograd.grad(
            out.terms[name] * out.weights[name], student.parameters(), retain_graph=True, allow_unused=True
        )
        return torch.cat([grad.flatten() for grad in got if grad is not None]).norm() / anchor

    assert float(share("a")) == pytest.approx(0.5, rel=1e-4)
    assert float(share("b")) == pytest.approx(2.0, rel=1e-4)


def train(teachers, student, loader, folder=None, **options):
    distiller = Distiller(teachers, student, ["ce", "pkt", "kd"], example=next(iter(loader))[0])
    cg.fit(distiller, loader, None, cg.FitOptions(epochs=2, out=folder, teacher_speed="exact", **options))
    return student.state_dict()


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(4)
    data = torch.utils.data.TensorDataset(torch.randn(24, 6, generator=generator), torch.arange(24) % 3)
    return cg.data.loader(data, batch_size=8, view_cycle=1)


def test_caches_made_apart_serve_together(teachers, loader, tmp_path, monkeypatch):
    def stored(folder):
        return {name: cg.TeacherCache(each, loader, folder / name, dtype="float32") for name, each in teachers.items()}

    together = train(stored(tmp_path / "together"), net(3), loader)
    for name, teacher in teachers.items():  # each in a run of its own
        cache = cg.TeacherCache(teacher, loader, tmp_path / name, dtype="float32")
        train(cache, net(5), loader)
    distiller = Distiller(stored(tmp_path), net(3), ["ce", "pkt", "kd"], example=next(iter(loader))[0])
    monkeypatch.setattr(Teacher, "read", None)  # all is there
    cg.fit(distiller, loader, None, cg.FitOptions(epochs=2, teacher_speed="exact"))
    for name, tensor in together.items():
        assert torch.equal(tensor, distiller.student.state_dict()[name]), name


def test_one_cached_and_one_live(teachers, loader, tmp_path):
    live = train(copy.deepcopy(teachers), net(3), loader)
    teachers["dino"] = cg.TeacherCache(teachers["dino"], loader, tmp_path / "dino", dtype="float32")
    mixed = train(teachers, net(3), loader)
    for name, tensor in live.items():
        torch.testing.assert_close(tensor, mixed[name], rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_with_the_same_teachers_alone(teachers, loader, tmp_path):
    train(teachers, net(3), loader, tmp_path)
    with pytest.raises(ValueError, match="holds another run"):
        train({**teachers, "clip": net(8, 9)}, net(3), loader, tmp_path, resume=True)


def test_diagnostics_of_each(points, teachers):
    distiller = Distiller(teachers, net(3), ["kd"], example=points)
    numbers = Diagnostics([(points, torch.arange(8) % 3)], ["gpcl"])(distiller, epoch=0)
    assert set(numbers) == {"gpcl/dino", "gpcl/clip"}


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ([Term("pkt", teacher="dino2")], "names a teacher 'dino2' that does not exist.*dino"),
        ([Term("ce", teacher="dino")], "does not use a teacher: leave out teacher='dino'"),
    ],
)
def test_names_are_checked(points, teachers, terms, sentence):
    with pytest.raises(ValueError, match=sentence):
        Distiller(teachers, net(3), terms, example=points)


@pytest.mark.parametrize("name", ["", "student", "a.b", "a/b", 3, "a:b"])
def test_names_of_teachers_are_words(name):
    with pytest.raises(ValueError, match="modules under names that are identifiers and not a student's"):
        Distiller({name: net(1)}, net(3), ["kd"])


def test_none_is_told():
    with pytest.raises(ValueError, match="`teacher` must be a module, or modules by name, got none"):
        Distiller({}, net(3), ["kd"])


def test_the_one_teacher_is_ambiguous(points, teachers):
    distiller = Distiller(teachers, net(3), ["kd"], example=points)
    with pytest.raises(ValueError, match=r"there are 2 teachers: use `teachers\[name\]`"):
        _ = distiller.teacher
    assert Distiller(None, net(3), ["ce"], example=points).teacher is None


def test_a_failing_teacher_is_named(points, teachers):
    distiller = Distiller(teachers, net(3), ["kd"], example=points)
    with pytest.raises(ValueError, match="The teacher 'dino' cannot take this batch"):
        distiller(Inputs(student=points, clip=points, dino=torch.randn(8, 5)))

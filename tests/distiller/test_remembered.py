"""A teacher is asked once about a batch that comes again, and what is measured is the same to the bit."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import congruence as cg
from congruence.distiller import Distiller
from congruence.distiller.remembered import Remembered, content
from congruence.evaluation.watch import Diagnostics, term_losses
from congruence.training.validate import validate

POINTS = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
SHOWN: list[int] = []  # numbers of samples that a teacher was shown, one a forward


class Shown(nn.Module):
    """A teacher that counts its forwards."""

    def __init__(self, *, draws: bool = False) -> None:
        super().__init__()
        self.fc, self.draws = nn.Linear(4, 3), draws

    def forward(self, points: Tensor) -> Tensor:
        SHOWN.append(len(points))
        return self.fc(points + (torch.rand(1) if self.draws else 0))


@pytest.fixture(autouse=True)
def _counted_afresh() -> None:
    SHOWN.clear()


def distiller(*terms: Any, teacher: nn.Module | None = None) -> Distiller:
    torch.manual_seed(0)
    teacher, student = teacher or Shown(), nn.Linear(4, 3)
    made = cg.Distiller(teacher, student, list(terms or ("kd",)), example=POINTS[:2])
    SHOWN.clear()
    return made


def loader(**options: Any) -> Any:
    return cg.data.loader(torch.utils.data.TensorDataset(POINTS), **{"batch_size": 4, "shuffle": False, **options})


def measured_twice(made: Distiller, remembered: Remembered, batches: Any) -> list[dict[str, float]]:
    found = []
    for _ in range(2):
        with remembered.lent(made.eval()):
            found.append(term_losses(made, batches))
    assert made.remembered == {}
    return found


def test_a_batch_that_comes_again_is_not_shown_again():
    made, batches = distiller(), loader()
    assert measured_twice(made, Remembered(batches), batches) == [term_losses(made.eval(), batches)] * 2
    assert SHOWN == [4, 4, 2, 4, 4, 2]  # once by the two, once without


def test_validation_of_a_run_shows_each_batch_once_and_changes_no_number(monkeypatch):
    options = cg.FitOptions(epochs=3, seed=0, device="cpu")
    remembered = cg.fit(distiller(), loader(), loader(), options)
    assert len(SHOWN) == 3 * 3 + 1 + 3  # training, the rehearsal of validation, and validation once
    monkeypatch.setattr(Remembered, "lent", lambda self, distiller: contextlib.nullcontext())
    SHOWN.clear()
    asked = cg.fit(distiller(), loader(), loader(), options)
    assert len(SHOWN) == 3 * 3 + 1 + 3 * 3
    assert asked.history == remembered.history
    assert len({numbers["loss"] for numbers in asked.history}) == 3


@pytest.mark.parametrize("kind", ["a list", "a dataset of its own"])
def test_batches_of_any_loader_are_known_by_their_content(kind):
    points = POINTS.clone()
    batches: Any = [(batch,) for batch in points.split(4)]
    if kind != "a list":
        batches = cg.data.loader(list(points), batch_size=4, shuffle=False)
        assert batches.varies()
    made, remembered = distiller(), Remembered(batches)
    assert len(set(map(str, measured_twice(made, remembered, batches)))) == 1
    assert SHOWN == [4, 4, 2]
    points.add_(1.0)
    assert measured_twice(made, remembered, batches) == [term_losses(made, batches)] * 2
    assert SHOWN == [4, 4, 2] * 3


def test_inputs_that_change_are_shown_again():
    made, remembered = distiller(), Remembered([])
    for shift in (0.0, 1.0):
        batches = [(POINTS + shift,)]
        with remembered.lent(made.eval()):
            found = term_losses(made, batches)
        assert found == term_losses(made, batches)
    assert SHOWN == [10] * 4


def test_inputs_of_an_unknown_kind_and_teachers_that_draw_are_asked_each_time():
    made = distiller(teacher=Shown(draws=True))
    measured_twice(made, Remembered(loader()), loader())
    assert SHOWN == [4, 4, 2] * 2
    assert content([POINTS, object()]) is None


def test_the_hash_of_inputs_tells_them_apart():
    of: list[Any] = [
        *(POINTS, POINTS[:5], POINTS.T, POINTS.double(), POINTS.to(torch.int64), [POINTS], [POINTS[:5], POINTS[5:]]),
        *({"a": POINTS}, {"b": POINTS}, {"a": POINTS, "b": None}, "a/b", "a/c", 1, 1.0, None, ["a", "b"], ["ab"]),
        *(torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(6, dtype=torch.bool)),
    ]
    assert len({content(each) for each in of}) == len(of)
    assert content({"a": POINTS.clone(), "b": 1}) == content({"a": POINTS, "b": 1})


@pytest.mark.parametrize("write", ["in place", "through .data", "another module"])
def test_weights_that_changed_are_asked_again(write):
    made, batches = distiller(), loader()
    remembered = Remembered(batches)
    before = measured_twice(made, remembered, batches)
    weight = made.teacher.module.fc.weight
    with torch.no_grad():
        if write == "in place":
            weight.mul_(-1.0)
        elif write == "through .data":
            weight.data *= 2.0
        else:
            made.teacher.module.fc.weight = nn.Parameter(-weight, requires_grad=False)
    after = measured_twice(made, remembered, batches)
    assert after == [term_losses(made.eval(), batches)] * 2
    assert after[0] != before[0]


def test_a_validation_that_asks_no_teacher_looks_at_no_weights(monkeypatch):
    looks: list[nn.Module] = []
    monkeypatch.setattr("congruence.distiller.remembered.watched", looks.append)
    made = distiller()
    validate(made, [(POINTS, torch.zeros(10, dtype=torch.int64))], torch.device("cpu"))
    assert looks == []
    validate(made, [(POINTS,)], torch.device("cpu"))
    assert looks == [made.teacher.module]


def test_only_as_much_is_kept_as_is_allowed():
    made, batches = distiller(), loader()
    one = 4 * 4 * 4  # bytes of a batch of 4 embeddings of 4 numbers in float32
    measured_twice(made, Remembered(batches, most=one), batches)
    assert SHOWN == [4, 4, 2, 4, 2]


def test_a_term_that_begins_later_gets_its_own_views_answers():
    class Two(cg.Method):
        """Compares the features of one view."""

        def __init__(self, view: str) -> None:
            super().__init__()
            self.needs, self.view = cg.Needs(roles=("logits",), views=(view,)), view

        def loss(self, signals: Any) -> dict[str, Tensor]:
            student, teacher = (signals.one(model, "logits", view=self.view) for model in ("student", "teacher"))
            return {"loss": (student - teacher).square().mean()}

    made = distiller(cg.Term(Two("strong"), name="strong"), cg.Term(Two("weak"), name="weak", start_epoch=1))
    batches = loader(views=("weak", "strong"))
    remembered = Remembered(batches)
    for epoch in (0, 1):
        made.eval().clock = made.clock._replace(epoch=epoch)
        with remembered.lent(made):
            found = term_losses(made, batches)
        assert found == term_losses(made, batches)
    assert set(found) == {"strong", "weak"}


def test_diagnostics_ask_about_their_losses_once():
    made, batches = distiller(), loader()
    watch = Diagnostics(batches, (), losses=True)
    made.eval()
    assert watch(made, 0) == watch(made, 1)
    assert SHOWN == [4, 4, 2]


def test_what_a_method_writes_into_an_answer_is_gone_the_next_time():
    made, batches = distiller(), loader()
    remembered = Remembered(batches)
    with remembered.lent(made.eval()):
        for batch in [next(iter(batches)) for _ in range(2)]:
            captured = made.capture(batch[0], index=batch[-1])
            of_teacher = [value for (model, _, _), value in captured.tensors.items() if model == "teacher"]
            assert of_teacher[0].abs().sum() > 0
            of_teacher[0].zero_()

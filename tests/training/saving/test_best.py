"""The best epoch, by the number asked for or the obvious one."""

from __future__ import annotations

import math

import pytest

from congruence.training.saving.best import Best
from congruence.training.saving.migrate import migrate_checkpoint


def chosen(rows, monitor=None, students=("student",)):
    best = Best(students, monitor)
    for epoch, row in enumerate(rows):
        best.update(epoch, row)
    return best.epochs


@pytest.mark.parametrize(
    ("rows", "monitor", "epoch"),
    [
        ([{"accuracy": 0.5, "loss": 1}, {"accuracy": 0.7, "loss": 2}, {"accuracy": 0.6, "loss": 0}], None, 1),
        ([{"accuracy": 0.5, "loss": 1}, {"accuracy": 0.7, "loss": 2}, {"accuracy": 0.6, "loss": 0}], "loss", 2),
        ([{"loss": 1.0}, {"loss": 0.5}, {"loss": 0.7}], None, 1),
        ([{"my/error": 1.0}, {"my/error": 0.5}], None, 1),
        ([{"map": 1.0}, {"map": 0.5}], None, 0),
        ([{"accuracy": 0.5}, {"accuracy": 0.5}], None, 0),
        ([{"accuracy": math.nan}, {"accuracy": 0.1}, {"accuracy": math.nan}], None, 1),
        ([{}, {}, {}], None, 2),
    ],
)
def test_the_best_epoch(rows, monitor, epoch):
    assert chosen(rows, monitor) == {"student": epoch}


def test_each_student_has_its_own():
    rows = [{"accuracy/anna": 0.5, "accuracy/ben": 0.6}, {"accuracy/anna": 0.4, "accuracy/ben": 0.8}]
    assert chosen(rows, students=("anna", "ben")) == {"anna": 0, "ben": 1}
    assert chosen(rows, "accuracy", ("anna", "ben")) == {"anna": 0, "ben": 1}
    assert chosen(rows, "accuracy/ben", ("anna", "ben")) == {"anna": 1, "ben": 1}
    losses = [{"loss/anna": 1.0, "loss/ben": 2.0}, {"loss/anna": 2.0, "loss/ben": 1.0}]
    assert chosen(losses, students=("anna", "ben")) == {"anna": 0, "ben": 1}


def test_an_unknown_number_lists_near_ones():
    for act in (lambda best: best.update(0, {"loss": 1.0}), lambda best: best.expects(["loss"])):
        with pytest.raises(ValueError, match=r"`monitor` must be one of loss, got 'los'. Did you mean 'loss'"):
            act(Best(("student",), "los"))


def test_state_goes_round():
    first, second = Best(("student",), None), Best(("student",), None)
    first.update(3, {"loss": 1.0})
    second.load_state_dict(first.state_dict())
    assert second.update(4, {"loss": 2.0}) == []
    assert second.epochs == {"student": 3}


def test_between_equal_numbers_the_smaller_loss_wins():
    best = Best(("student",), None)
    for epoch, (accuracy, loss, chosen) in enumerate(
        [(0.8, 1.0, 0), (0.9, 0.9, 1), (0.9, 0.95, 1), (0.9, 0.5, 3), (0.85, 0.1, 3), (0.9, 0.5, 3)]
    ):
        best.update(epoch, {"accuracy": accuracy, "loss": loss})
        assert best.epochs == {"student": chosen}
    several = Best(("anna", "ben"), None)
    several.update(0, {"accuracy/anna": 0.5, "loss/anna": 1.0, "accuracy/ben": 0.5, "loss/ben": 1.0})
    several.update(1, {"accuracy/anna": 0.5, "loss/anna": 0.9, "accuracy/ben": 0.5, "loss/ben": 1.1})
    assert several.epochs == {"anna": 1, "ben": 0}


def test_what_was_chosen_by_one_number_is_not_gone_on_with_by_another():
    first = Best(("student",), "accuracy")
    Best(("student",), "loss").load_state_dict(first.state_dict())  # nothing is chosen yet
    first.update(0, {"accuracy": 0.5, "loss": 1.0})
    with pytest.raises(ValueError, match=r"chose its best epoch by `monitor` 'accuracy', this one by None: "):
        Best(("student",), None).load_state_dict(first.state_dict())
    older = {name: value for name, value in first.state_dict().items() if name != "monitor"}
    again = Best(("student",), "loss")
    again.load_state_dict(migrate_checkpoint({"congruence": 1, "best": older})["best"])
    assert again.epochs == {"student": 0}

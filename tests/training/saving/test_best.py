"""The best epoch, by the number asked for or the obvious one."""

from __future__ import annotations

import math

import pytest

from congruence.training.saving.best import Best
from congruence.training.saving.migrate import migrate_checkpoint


def test_of_epochs_within_a_standard_error_of_the_highest_the_last_is_chosen():
    # of 20 samples: the error is 0.064 at 19 right and 0.047 at all
    rows = [0.65, 0.95, 0.90, 0.85, 1.0, 0.95, 0.95]
    best, chosen = Best(("student",), None, one_standard_error=True), []
    for epoch, accuracy in enumerate(rows):
        best.update(epoch, {"accuracy": accuracy, "loss": float(epoch)}, 20)
        chosen.append(best.epochs["student"])
    assert chosen == [0, 1, 2, 2, 4, 4, 4]
    for samples, epoch in ((10, 6), (1000, 4), (None, 4)):  # less certain, more certain, not known
        best = Best(("student",), None, one_standard_error=True)
        for each, accuracy in enumerate(rows):
            best.update(each, {"accuracy": accuracy, "loss": 1.0}, samples)
        assert best.epochs == {"student": epoch}


def test_the_rule_of_one_standard_error_is_for_accuracies_and_each_student_s_own():
    by_loss = Best(("student",), "loss", one_standard_error=True)
    for epoch, loss in enumerate((1.0, 0.5, 0.51)):
        by_loss.update(epoch, {"accuracy": 0.5, "loss": loss}, 10)
    assert by_loss.epochs == {"student": 1}
    several = Best(("anna", "ben"), None, one_standard_error=True)
    for epoch, (anna, ben) in enumerate([(0.9, math.nan), (0.8, 0.5), (0.2, 0.45), (math.nan, 0.1)]):
        several.update(epoch, {"accuracy/anna": anna, "accuracy/ben": ben}, 10)
    assert several.epochs == {"anna": 1, "ben": 2}


def test_the_highest_goes_round_with_the_state_and_the_log_says_what_was_chosen(caplog):
    first, second = (Best(("student",), None, one_standard_error=True) for _ in range(2))
    first.update(0, {"accuracy": 1.0}, 20)
    second.load_state_dict(first.state_dict())
    assert second.update(1, {"accuracy": 0.9}, 20) == []  # below the first by more than one error
    second.load_state_dict({key: value for key, value in first.state_dict().items() if key != "highest"})
    assert second.update(1, {"accuracy": 1.0}, 20) == ["student"]
    first.update(1, {"accuracy": 0.96}, 20)
    with caplog.at_level("INFO", "congruence"):
        first.tell()
    assert "The best epoch of 'student' is 2: the last whose" in caplog.text
    assert "(0.047) below the highest, 1.000 after epoch 1." in caplog.text


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

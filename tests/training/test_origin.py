"""A run that stops names where what is not finite began: the inputs, a model's layer, a term, or the gradient."""

from __future__ import annotations

import pytest
import torch
from _harness.fits import Breaks, constant, data, distiller, net
from _harness.runs import on_ranks
from torch import nn

import congruence as cg
from congruence import NonFiniteLossError, Term
from congruence.training.origin import Place, began

POINTS, LABELS = data().tensors


class Torn(nn.Module):
    """Gives NaN, or another value, for a sample whose first number is 7."""

    def __init__(self, inner, bad=float("nan")):
        super().__init__()
        self.inner, self.bad = inner, bad

    def forward(self, inputs):
        return self.inner(inputs.masked_fill(inputs[:, :1] == 7, self.bad))


def marked(step=3, value=7.0):
    """Return stock batches of 8; the batch of one step, counted from 0, has a sample with a value of its own."""
    points = POINTS.repeat(2, 1)
    points[8 * step + 5, 0] = value
    labels = LABELS.repeat(2)
    return [(points[start : start + 8], labels[start : start + 8]) for start in range(0, len(points), 8)]


def stopped(made, batches, **options):
    with pytest.raises(NonFiniteLossError) as caught:
        cg.fit(made, batches, options=constant(epochs=1, **options))
    return str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_inputs_are_named(bad):
    said = stopped(distiller(), marked(value=bad))
    kind = "NaN" if bad != bad else "an infinity, or in "
    assert said.startswith(
        f"At step 3 the loss of 'ce', 'kd' was not finite. It began in the inputs, which held {kind}"
    )
    assert said.endswith(
        "The weights are those before that step, and the checkpoints are older: check what the loader returns."
    )
    assert "learning rate" not in said


class Masked(nn.Module):
    """An attention layer between two Linears that leaves padding out, on inputs {"tokens", "padding"}."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens, padding):
        seen, _ = self.attention(tokens, tokens, tokens, key_padding_mask=padding)
        return self.head(seen[:, 0])


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, tokens, padding):
        return self.head(tokens.mean(1))


def test_a_teacher_s_row_of_padding_is_named():
    tokens, padding = torch.randn(24, 4, 8), torch.zeros(24, 4, dtype=torch.bool)
    padding[:, 3] = True
    padding[13] = True
    batches = [
        ({"tokens": tokens[i : i + 8], "padding": padding[i : i + 8]}, torch.arange(8) % 3) for i in range(0, 24, 8)
    ]
    made = cg.Distiller(Masked(0), Pooled(), ["ce", "kd"], example=batches[0][0])
    said = stopped(made, batches)
    assert said.startswith(
        "At step 1 the loss of 'kd' was not finite. It began in the teacher: its layer 'head' gave NaN, of inputs that "
        "are finite. The weights are those before that step"
    )
    advice = "check what the teacher returns for such samples (a row that is all padding is NaN in an attention layer"
    assert advice in said
    assert "learning rate" not in said


def test_inputs_are_named_by_key():
    tokens, padding = torch.randn(8, 4, 8), torch.zeros(8, 4, dtype=torch.bool)
    tokens[2, 1, 1] = torch.nan
    made = cg.Distiller(Masked(0), Pooled(), ["kd"], example={"tokens": torch.randn(2, 4, 8), "padding": padding[:2]})
    said = stopped(made, [({"tokens": tokens, "padding": padding}, torch.arange(8) % 3)])
    assert "It began in the inputs ['tokens'], which held NaN." in said


@pytest.mark.parametrize(
    "options", [{}, {"micro_batch": 3}, {"accumulate": 2}, {"log_every": 1}, {"precision": "bf16"}], ids=str
)
@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_model_is_named(side, options):
    teacher, student = (Torn(net(k)) if name == side else net(k) for k, name in enumerate(("teacher", "student")))
    made = cg.Distiller(teacher, student, ["ce", Term("kd")], example=POINTS[:2])
    said = stopped(made, marked(), **options)
    step = 1 if "accumulate" in options else 3
    assert said.startswith(f"At step {step} the loss of ")
    assert f"It began in the {side}: its layer '" in said
    assert ("learning rate" in said) == (side == "student")
    assert said.count("It began") == 1


def test_one_of_several_students_and_a_view_is_named():
    batches = [
        {"inputs": points, "labels": labels, "views": {"weak": points, "strong": points * torch.nan}}
        for points, labels in marked()
    ]
    made = cg.Distiller(net(0), net(1), ["mlld"], example=POINTS[:2])
    assert "It began in the inputs of the view 'strong', which held NaN." in stopped(made, batches)
    made = cg.Distiller(net(0), {"good": net(1), "torn": Torn(net(2))}, ["kd"], example=POINTS[:2])
    said = stopped(made, marked())
    assert "It began in the student 'torn': its " in said
    assert "'good'" not in said.partition("It began")[2]


def test_a_student_that_diverged_is_told_of_the_learning_rate():
    made = distiller("ce")
    with torch.no_grad():
        made.student[0].weight.fill_(3e38)
    said = stopped(made, marked())
    assert "It began in the student: its " in said
    assert "try a lower learning rate, `gradient_clip`" in said


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_what_began_in_a_term_is_as_before(how):
    said = stopped(distiller("ce", Term(Breaks(2, how=how))), marked(value=0.0))
    what = "the loss of 'Breaks'" if how == "loss" else "the gradient"
    assert said == (
        f"At step 2 {what} was not finite. The weights are those before that step, and the checkpoints are older: try "
        "a lower learning rate, `gradient_clip`, or a smaller weight."
    )


def test_a_masked_class_is_not_blamed_where_there_is_nan():
    found = {Place("student", "layer 'fc'"): float("inf"), Place("teacher", "output"): float("nan")}
    assert began(found)[0] == "the teacher: its output gave NaN, of inputs that are finite"
    assert began({**found, Place("inputs", "[1]"): float("nan")})[0] == "the inputs [1], which held NaN"
    assert began({Place("inputs", ""): 1.0})[0] == ""


def told_on_a_rank(rank, folder):
    made = cg.Distiller(Torn(net(0)), net(1), ["kd"], example=POINTS[:2])
    try:
        cg.fit(made, marked() if rank else marked(value=0.0), options=constant(epochs=1))
    except NonFiniteLossError as error:
        (folder / f"said-{rank}").write_text(str(error))


def test_all_ranks_say_where_it_began_on_one(tmp_path):
    on_ranks(told_on_a_rank, tmp_path)
    first, second = ((tmp_path / f"said-{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("At step 3 the loss of 'kd' was not finite. It began in the teacher: its layer '")

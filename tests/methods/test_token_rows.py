"""Rows that read tokens: a cached teacher is a live one, two passes are one, and ranks share what is fitted."""

import pytest
import torch
from _harness.cases import CASES

import congruence as cg
from congruence.data import loader
from congruence.testing import Case, check_resume, check_rows_on_two_ranks
from congruence.testing.case import batches, gradients, small_data, small_distiller, small_model

ROWS = [case for case in CASES if case.row in ("gram", "minilm", "radio", "vitkd")] + [Case("radio", {"phi_s": 12})]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_two_passes_are_one(case):
    found = []
    for micro_batch in (None, 3):
        made = small_distiller(case).double()
        for batch in batches(case)[:2]:
            made.zero_grad()
            out = made(batch.inputs, batch.labels, batch.index, micro_batch=micro_batch)
            out.loss.backward()
        found.append({**out.terms, **gradients(made)})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_a_cached_teacher_is_a_live_one(case, tmp_path):
    data, terms = small_data(case), small_distiller(case).terms
    train = loader(data, batch_size=8, seed=3, view_cycle=1)
    teacher = small_model(case, "teacher", 1)
    cache = cg.TeacherCache(teacher, train, tmp_path / "cache", dtype="float32")
    found = []
    for each in (teacher, cache):
        term = cg.Term(
            case.row, student_layer=terms[0].student_layer, teacher_layer=terms[0].teacher_layer, **case.hyperparameters
        )
        torch.manual_seed(5)
        made = cg.Distiller(each, small_model(case, "student", 2), [term], example=data.tensors[0][:2])
        found.append([made(*batch).loss.item() for batch in train.batches(0)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_what_is_fitted_is_the_same_on_ranks_and_after_a_death():
    case = ROWS[-1]
    check_rows_on_two_ranks(case)
    check_resume(case)


def test_draws_follow_the_samples():
    """In whatever order a batch has them, and whichever rank."""
    case = next(case for case in ROWS if case.row == "vitkd")
    batch, order = batches(case)[0], torch.tensor([3, 0, 6, 1, 7, 5, 2, 4])
    one, other = (small_distiller(case).double() for _ in range(2))
    expected = one(batch.inputs, batch.labels, batch.index).loss
    torch.testing.assert_close(other(batch.inputs[order], batch.labels[order], batch.index[order]).loss, expected)
    assert not torch.allclose(small_distiller(case).double()(batch.inputs).loss, expected, rtol=1e-9)

import pytest
import torch
from _harness import golden
from torch import nn

import congruence as cg
from congruence.methods import Signals, row


@pytest.mark.parametrize(("centered", "field"), [(False, ""), (True, "alt__centred__")])
def test_thirty_less_is_the_released_code(centered, field):
    stored = golden.arrays("rcka_A")
    student = stored["in_s"].double().requires_grad_()
    logits = {("student", "main", "logits"): (student,), ("teacher", "main", "logits"): (stored["in_t"].double(),)}
    parts = row("rcka").make(centered=centered).loss(Signals(logits, ("student",)))
    value = sum(row("rcka").weight[name] * part for name, part in parts.items()) - 30
    torch.testing.assert_close(value, stored[f"{field}loss"], rtol=1e-10, atol=0)
    value.backward()
    torch.testing.assert_close(student.grad, stored[f"{field}grad_s"], rtol=1e-8, atol=1e-9)


def test_it_wants_the_same_classes():
    with pytest.raises(ValueError, match=r"`student_logits` \[2, 3\], `teacher_logits` \[2, 5\]"):
        cg.Distiller(nn.Linear(4, 5), nn.Linear(4, 3), ["rcka"], example=torch.randn(2, 4))

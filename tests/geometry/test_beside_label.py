import torch

from congruence.geometry.beside_label import expectation, one_against_others, other_logits

LOGITS = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 0.0], [3.0, -torch.inf, -torch.inf]], dtype=torch.float64)
CLASSES = torch.tensor([2, 0, 0])


def test_each_row_is_taken_apart_at_its_class():
    assert other_logits(LOGITS, CLASSES).tolist() == [[1.0, 2.0], [-1.0, 0.0], [0.0, 0.0]]
    own = LOGITS.softmax(1).gather(1, CLASSES[:, None])
    torch.testing.assert_close(one_against_others(LOGITS, CLASSES).softmax(1), torch.cat([own, 1 - own], 1))


def test_classes_left_out_have_no_gradient_and_no_nan():
    logits = LOGITS.clone().requires_grad_()
    shares = one_against_others(logits, CLASSES)
    torch.where(shares.isneginf(), 0, shares).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[2].tolist() == [1.0, 0.0, 0.0]


def test_nothing_times_minus_infinity_is_nothing():
    shares = torch.tensor([[0.25, 0.0]], requires_grad=True)
    logarithms = torch.tensor([[-2.0, -torch.inf]], requires_grad=True)
    value = expectation(shares, logarithms)
    value.sum().backward()
    assert value.tolist() == [-0.5]
    assert shares.grad.tolist() == [[-2.0, 0.0]]
    assert logarithms.grad.tolist() == [[0.25, 0.0]]
    assert expectation(shares.detach(), torch.tensor([[torch.nan, 0.0]])).isnan().all()

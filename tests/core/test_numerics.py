import pytest
import torch
from _harness.losses import seeded

from congruence.core.numerics import as_float64, float32_island, safe_norm, safe_sqrt, unit, widen


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.int64),
    ],
)
def test_widen(narrow, wide):
    assert widen(torch.ones(2, dtype=narrow)).dtype == wide


def test_as_float64_carries_gradient():
    x = torch.ones(2, requires_grad=True)
    as_float64(x).sum().backward()
    assert x.grad.dtype == torch.float32
    assert x.grad.tolist() == [1, 1]


@float32_island
def product(left, *, right):
    return left @ right


@float32_island
def dtypes(tensors, flag=None):
    return [t.dtype for t in tensors], flag


def test_island_leaves_autocast_and_half():
    x = torch.randn(4, 4, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert torch.equal(product(x, right=x), product(x, right=x.clone()))
        assert product(x, right=x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    assert torch.equal(product(x, right=x), x @ x)
    assert product(x.bfloat16(), right=x.half()).dtype == torch.float32


def test_island_widens_lists_and_passes_the_rest():
    assert dtypes([torch.ones(1).half(), torch.ones(1).long()], flag="kept") == ([torch.float32, torch.int64], "kept")
    assert dtypes((torch.ones(1).double(),)) == ([torch.float64], None)
    assert product.__name__ == "product"


def test_safe_sqrt():
    x = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
    root = safe_sqrt(x)
    root.sum().backward()
    assert root.tolist() == [2, 0, 0]
    assert x.grad.tolist() == [0.25, 0, 0]


def test_safe_norm_equals_torch_and_its_gradient():
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(safe_norm(x), x.norm(dim=1))
    torch.testing.assert_close(safe_norm(x, 0, keepdim=True), x.norm(dim=0, keepdim=True))
    assert torch.autograd.gradcheck(safe_norm, x)
    assert torch.autograd.gradcheck(unit, x)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_safe_norm_neither_overflows_nor_underflows(scale):
    x = (scale * torch.tensor([[3.0, 4.0], [0.0, 0.0]])).requires_grad_()
    norm = safe_norm(x)
    norm.sum().backward()
    torch.testing.assert_close(norm, torch.tensor([5 * scale, 0.0]))
    torch.testing.assert_close(x.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_unit_rows_and_zero_rows():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-41, 0.0], [1e-20, 0.0]], requires_grad=True)
    rows = unit(x)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    rows.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[1:3] == 0).all()


def test_unit_rows_whose_length_is_beyond_the_range():
    x = torch.tensor([[3e38, -3e38], [3e38, 0.0]], requires_grad=True)
    assert safe_norm(x)[0].isinf()
    rows = unit(x)
    torch.testing.assert_close(rows, torch.tensor([[0.5**0.5, -(0.5**0.5)], [1.0, 0.0]]))
    rows.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_an_island_takes_a_device_without_autocast():
    assert float32_island(lambda x: x)(torch.ones(2, device="meta", dtype=torch.float16)).dtype == torch.float32

import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded

from congruence.core.numerics import unit
from congruence.geometry import bilinear_kernel, mmd_kernel, rbf_kernel, resolve_kernel, taylor_rbf_kernel

KERNELS = {
    "bilinear": bilinear_kernel,
    "rbf": rbf_kernel,
    "taylor_rbf": taylor_rbf_kernel,
    "mmd": mmd_kernel,
}


def points(rows=6, width=4, seed=0):
    return torch.randn(rows, width, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("case", "kernel"),
    [("bilinear", bilinear_kernel), ("rbf_exact", rbf_kernel)]
    + [(f"rbf_taylor{p}", lambda x, p=p: taylor_rbf_kernel(x, order=p)) for p in (1, 2, 3)],
)
@pytest.mark.parametrize("side", ["s", "t"])
def test_equals_the_goldens(case, kernel, side):
    stored = golden.arrays(f"cckd_def_{case}_A")
    gram = kernel(unit(stored[f"in_{side}"].double()))
    torch.testing.assert_close(gram, stored[f"out_K{side}"], rtol=1e-12, atol=1e-14)


def test_mmd_is_the_distance_of_means():
    x = points()
    expected = [[abs(a.mean() - b.mean()).item() for b in x] for a in x]
    torch.testing.assert_close(mmd_kernel(x), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", KERNELS)
def test_two_sets_equal_a_block_of_one(name):
    x = points()
    torch.testing.assert_close(KERNELS[name](x[:2], x[2:]), KERNELS[name](x)[:2, 2:])


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_is_right_and_zero_at_equal_rows_of_the_distances(name):
    assert torch.autograd.gradcheck(KERNELS[name], points(4, 3).requires_grad_())
    equal = torch.ones(3, 2, requires_grad=True)
    value = KERNELS[name](equal).sum()
    value.backward()
    assert torch.isfinite(equal.grad).all()
    if name in ("rbf", "mmd"):
        assert (equal.grad == 0).all()


def test_taylor_tends_to_rbf_for_unit_rows():
    x = unit(points())
    errors = [(taylor_rbf_kernel(x, order=p) - rbf_kernel(x)).abs().max().item() for p in (1, 2, 3, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < math.exp(-0.8) * 0.8**7 / math.factorial(7) * 1.2


@pytest.mark.parametrize("name", KERNELS)
def test_resolved_by_name(name):
    x = points()
    settings = {"gamma": 0.7, "order": 3}
    used = {"rbf": ("gamma",), "taylor_rbf": ("gamma", "order")}.get(name, ())
    expected = KERNELS[name](x, **{key: settings[key] for key in used})
    assert torch.equal(resolve_kernel("f", name, **settings)(x), expected)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kernel": "poly"}, "`f`: `kernel` must be one of 'bilinear', 'rbf', 'taylor_rbf', 'mmd' or a callable"),
        ({"gamma": 0}, "`f`: `gamma` must be a number > 0, got 0."),
        ({"order": 0}, "`f`: `order` must be an integer >= 1, got 0."),
        ({"order": 1.5}, "`f`: `order` must be an integer >= 1, got 1.5."),
    ],
)
def test_errors(settings, sentence):
    with pytest.raises(ValueError) as error:
        resolve_kernel("f", **{"kernel": "rbf", "gamma": 0.4, "order": 2, **settings})
    assert str(error.value).startswith(sentence)


def test_own_kernel_with_another_shape_is_an_error():
    own = resolve_kernel("f", lambda x: x.sum(), gamma=0.4, order=2)
    with pytest.raises(ValueError, match=r"`kernel` must be a callable that maps \[6, D\] to \[6, 6\], got shape \[\]"):
        own(points())


@pytest.mark.parametrize("name", KERNELS)
def test_half_is_computed_in_float32(name):
    x = points().bfloat16()
    assert torch.equal(KERNELS[name](x), KERNELS[name](x.float()))

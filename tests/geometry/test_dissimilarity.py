import pytest
import torch
from _harness.losses import seeded, tight_clusters

from congruence.geometry import cosine, dissimilarity_blocks, euclidean, pairwise_dissimilarity

MEASURES = {"cosine": cosine, "euclidean": euclidean}


def points(rows=7, width=4, seed=0):
    return torch.randn(rows, width, generator=seeded(seed), dtype=torch.float64)


def test_cosine_equals_torch():
    x = points()
    expected = (1 - torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)) / 2
    torch.testing.assert_close(cosine(x), expected, rtol=0, atol=1e-15)


def test_euclidean_equals_torch():
    x = points()
    torch.testing.assert_close(euclidean(x), (x[:, None] - x[None]).norm(dim=2), rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1e-29, 1e-20, 1e20, 1e37])
def test_distances_do_not_leave_float32(scale):
    x = points(5, 3).float()
    expected = torch.cdist(x.double(), x.double()) * scale
    far = (scale * x).requires_grad_()
    torch.testing.assert_close(euclidean(far).double(), expected, rtol=1e-5, atol=0)
    near = x.clone().requires_grad_()
    wanted, gradient = (torch.autograd.grad(euclidean(rows).sum(), rows)[0] for rows in (near, far))
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(euclidean(far, far), euclidean(far), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rows", [2, 3, 64])
def test_distances_within_a_batch_round_at_most_their_last_digits(rows):
    x = points(rows, 300).float() + 1000
    values = euclidean(x)
    assert torch.equal(values, values.T)
    expected = (x[:, None].double() - x[None]).norm(dim=2)
    torch.testing.assert_close(values.double(), expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(bad):
    x = points(4, 3)
    x[2, 1] = bad
    values = euclidean(x)
    assert not values[2, [0, 1, 3]].isfinite().any()


@pytest.mark.parametrize("measure", [cosine, euclidean])
def test_two_sets_equal_a_block_of_one(measure):
    x = points()
    torch.testing.assert_close(measure(x[:3], x[3:]), measure(x)[:3, 3:])


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diagonal_and_equal_rows_are_exactly_zero_with_zero_gradient(name, dtype):
    x = points(6, 9).to(dtype)
    x[3] = x[1]
    x.requires_grad_()
    values = MEASURES[name](x)
    assert (values.diagonal() == 0).all()
    assert values[1, 3] == 0
    (gradient,) = torch.autograd.grad(values[1, 3] + values.diagonal().sum(), x)
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", MEASURES)
def test_gradient_is_right(name):
    assert torch.autograd.gradcheck(MEASURES[name], points(5, 3).requires_grad_())


@pytest.mark.parametrize("name", MEASURES)
def test_float32_keeps_the_digits_of_tight_clusters(name):
    x = tight_clusters(32, 64, 64)[0]
    exact, in_float32 = MEASURES[name](x), MEASURES[name](x.float())
    torch.testing.assert_close(in_float32.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", MEASURES)
def test_autocast_changes_no_bit(name):
    x = tight_clusters(8, 16, 16)[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        under = pairwise_dissimilarity(x, name)
    assert torch.equal(under, pairwise_dissimilarity(x, name))


def test_cosine_does_not_see_lengths():
    x = points()
    scales = torch.logspace(-8, 8, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(cosine(scales * x), cosine(x), rtol=0, atol=1e-15)


def test_zero_row_is_at_a_right_angle_to_all_others():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    values = cosine(x)
    assert values.tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    values.sum().backward()
    assert (x.grad == 0).all()


def test_pairwise_takes_names_and_callables():
    x = points()
    assert torch.equal(pairwise_dissimilarity(x), cosine(x))
    assert torch.equal(pairwise_dissimilarity(x, "euclidean"), euclidean(x))
    assert torch.equal(pairwise_dissimilarity(x, lambda rows: rows @ rows.T), x @ x.T)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("manhattan", "`f`: `dissimilarity` must be one of 'cosine', 'euclidean' or a callable, got 'manhattan'."),
        (lambda x: x, "`f`: `dissimilarity` must be a callable that maps [7, D] to [7, 7], got shape [7, 4]."),
        (lambda x: 0.0, "`f`: `dissimilarity` must be a callable that maps [7, D] to [7, 7], got float."),
    ],
)
def test_errors(bad, sentence):
    with pytest.raises(ValueError) as error:
        pairwise_dissimilarity(points(), bad, function="f")
    assert str(error.value) == sentence


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_blocks_equal_the_whole_whatever_their_size(name, dtype):
    query, database = points(7).to(dtype), points(11, seed=1).to(dtype)
    whole = torch.cat(list(dissimilarity_blocks(query, database, name, 100)))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert whole.dtype == wide
    torch.testing.assert_close(whole, MEASURES[name](query.to(wide), database.to(wide)))
    blocks = list(dissimilarity_blocks(query, database, name, 3))
    assert [len(block) for block in blocks] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(blocks), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", MEASURES)
def test_blocks_put_equal_rows_at_zero_and_at_equal_distances(name):
    x = (10 + points(64, 33)).float()
    x[40:] = x[:24]
    values = torch.cat(list(dissimilarity_blocks(x, x, name, 5)))
    assert (values.diagonal() == 0).all()
    assert torch.equal(values[:, 40:], values[:, :24])
    assert (values[:24, 40:].diagonal() == 0).all()
    assert (values[:24, :24] + torch.eye(24) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2060, 4100, 6145])
def test_wide_blocks_are_the_definition_in_every_column(count, dtype):
    database = points(count, 16).abs().to(dtype)
    database[-3:] = database[:3]
    database[2047:2050] = database[:3]
    query = torch.cat([database[:5], points(4, 16, seed=1).to(dtype)])
    values = torch.cat(list(dissimilarity_blocks(query, database, "cosine", 4)))
    rows, columns = (torch.nn.functional.normalize(side.double()) for side in (query, database))
    torch.testing.assert_close(values, ((1 - rows @ columns.T) / 2).clamp(0, 1).to(dtype), rtol=1e-6, atol=1e-15)
    assert torch.equal(values[:, -3:], values[:, :3])
    assert torch.equal(values[:, 2047:2050], values[:, :3])
    assert (values[:3, :3].diagonal() == 0).all()

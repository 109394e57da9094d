from __future__ import annotations

import pytest
import torch

from congruence.models.projectors import linear_projector, map_projector, rows


def test_rows() -> None:
    torch.manual_seed(0)
    flat, maps, tokens = torch.randn(3, 5), torch.randn(3, 5, 2, 4), torch.randn(3, 6, 5)
    assert rows(flat) is flat
    torch.testing.assert_close(rows(maps), torch.stack([m.flatten(1).mean(1) for m in maps]))
    torch.testing.assert_close(rows(tokens), torch.stack([t.sum(0) / 6 for t in tokens]))
    assert torch.equal(rows(torch.ones(3, 5, 1, 1)), torch.ones(3, 5))


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3, 4, 5, 6), (2, 0, 3)])
def test_other_shapes_are_one_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`rows`: `tensor` must be a non-empty 2-D or .* 5-D tensor, got shape \["):
        rows(torch.ones(shape))
    with pytest.raises(ValueError, match=r"must be a tensor, got list"):
        rows([1.0])  # type: ignore[arg-type]


def test_linear_projector() -> None:
    torch.manual_seed(0)
    projector = linear_projector(4, 7)
    x = torch.randn(3, 4)
    torch.testing.assert_close(projector(x), x @ projector.weight.T + projector.bias)
    for bad in (0, -1, 2.5, "4"):
        with pytest.raises(ValueError, match=r"`linear_projector`: `in_width` must be an integer >= 1"):
            linear_projector(bad, 7)  # type: ignore[arg-type]


def test_map_projector() -> None:
    torch.manual_seed(0)
    projector = map_projector(4, 7)
    x = torch.randn(3, 4, 2, 5)
    expected = torch.einsum("bchw,dc->bdhw", x, projector.weight[:, :, 0, 0]) + projector.bias[:, None, None]
    torch.testing.assert_close(projector(x), expected)
    for bad in (0, -1, 2.5, "4"):
        with pytest.raises(ValueError, match=r"`map_projector`: `out_width` must be an integer >= 1"):
            map_projector(7, bad)  # type: ignore[arg-type]

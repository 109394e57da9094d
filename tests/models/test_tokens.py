"""How tokens lie in an image, told from the maps that a model makes of it."""

import pytest

from congruence.models.tokens import Patches, patches_of


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (197, [(14, 14)], Patches(1, 14, 14)),  # ViT
        (198, [(14, 14)], Patches(2, 14, 14)),  # DeiT with a distillation token
        (201, [(14, 14)], Patches(5, 14, 14)),  # DINOv2 with registers
        (196, [(14, 14)], Patches(0, 14, 14)),
        (784, [(56, 56)], Patches(0, 28, 28)),  # the second stage of Swin
        (49, [(56, 56)], Patches(0, 7, 7)),
        (16, [(7, 7)], Patches(0, 4, 4)),  # an odd side is filled up
        (70, [(7, 10)], Patches(0, 7, 10)),
        (77, [(14, 14)], None),  # words beside patches
        (50, [(56, 56)], None),  # one token more than a merged stage has
        (5, [(56, 56)], None),
        (77, [], None),
        (9, [(1, 1)], None),
        (65, [(8, 8), (4, 4)], Patches(1, 8, 8)),
    ],
)
def test_what_fits(count, sizes, expected):
    assert patches_of(count, sizes) == expected

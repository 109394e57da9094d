"""How models take images and texts."""

import json

import pytest
import torch
from torch.nn.functional import interpolate

from congruence.data import ImageInput, TextInput, normalize

PIXELS = torch.randint(0, 256, (3, 2, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_at_home_it_is_the_datasets_own_normalisation():
    own = ImageInput((0.3, 0.4), (0.5, 0.2))
    assert torch.equal(own(PIXELS), normalize(PIXELS, (0.3, 0.4), (0.5, 0.2)))
    assert torch.equal(ImageInput((0.3, 0.4), (0.5, 0.2), size=(9, 7))(PIXELS), own(PIXELS))
    torch.set_default_dtype(torch.float64)
    try:
        assert own(PIXELS).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
def test_resized_before_it_is_normalised(way):
    taken = ImageInput((0.5, 0.25), (0.5, 2.0), size=(4, 11), interpolation=way)
    scaled = interpolate(PIXELS.float(), (4, 11), mode=way, antialias=True).clamp(0, 255) / 255
    expected = (scaled - torch.tensor([0.5, 0.25])[:, None, None]) / torch.tensor([0.5, 2.0])[:, None, None]
    torch.testing.assert_close(taken(PIXELS), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(taken(PIXELS)[1:2], taken(PIXELS[1:2]))


def test_a_model_of_colours_is_shown_grey_images_as_rgb():
    taken = ImageInput((0.5, 0.25, 0.0), (0.5, 2.0, 1.0), size=(4, 5))
    grey = PIXELS[:, :1]
    assert torch.equal(taken(grey), taken(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match=r"a uint8 tensor \[B, 3, H, W\], got torch.uint8 of shape \[3, 2, 9, 7\]"):
        taken(PIXELS)


class Slow:
    """Like a tokenizer of transformers, with no more than its vocabulary to tell it by."""

    pad_token, padding_side = "[PAD]", "right"

    def get_vocab(self):
        return {"a": 0}

    def __call__(self, texts, *, padding, truncation, max_length, return_tensors):
        assert (padding, truncation, return_tensors) == ("max_length", True, "pt")
        return {"input_ids": torch.zeros(len(texts), max_length, dtype=torch.int64)}


class Fast(Slow):
    asked = 0

    class backend_tokenizer:
        @staticmethod
        def to_str():
            Fast.asked += 1
            return json.dumps({"model": {}, "truncation": Fast.asked})


def test_two_that_cut_alike_are_one():
    assert TextInput(Fast(), max_length=3).key == TextInput(Fast(), max_length=3).key
    assert TextInput(Fast(), max_length=3).key != TextInput(Fast(), max_length=4).key
    left = Fast()
    left.padding_side = "left"
    assert TextInput(Fast(), max_length=3).key != TextInput(left, max_length=3).key
    one, other = Slow(), Slow()
    assert TextInput(one, max_length=3).key == TextInput(one, max_length=3).key != TextInput(other, max_length=3).key
    assert TextInput(one, max_length=3)(["x", "y"])["input_ids"].shape == (2, 3)


def test_what_is_wrong_is_told():
    with pytest.raises(ValueError, match=r"one that gives tensors \[1, 4\], got \[1, 3\] as 'ids'"):
        TextInput(lambda texts: {"ids": torch.zeros(len(texts), 3)}, max_length=4)(["x"])
    with pytest.raises(ValueError, match="a uint8 tensor"):
        ImageInput((0.5,), (0.5,))(PIXELS)

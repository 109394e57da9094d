"""What a dry run shows of layouts: by the layer that gave a tensor, the one that took it, or those around."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from congruence.models.layouts import batch_sizes, canonical, check_layout, check_rows, order
from congruence.models.taps import Taps


class Call(nn.Module):
    """Any function as a layer that says nothing of its channels."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs, **named):
        return self.function(*inputs, **named)


class Block(nn.Module):
    """A residual block around what is given: its result leaves no layer of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.first, self.second = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x):
        return self.second(F.gelu(self.first(self.norm(x))))


class Norm2d(nn.LayerNorm):
    """As ConvNeXt has it: channels first."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


def permute(*axes):
    return Call(lambda x: x.permute(axes))


def encoder(batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


SEQUENCE, IMAGE, VIDEO, TOKENS = (2, 3, 20), (2, 3, 16, 12), (2, 3, 4, 8, 6), (2, 7, 8)
TOLD = {
    "Conv1d": (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()), SEQUENCE, "1", "BCN"),
    "BatchNorm1d": (nn.Sequential(Call(torch.relu), nn.BatchNorm1d(3)), SEQUENCE, "0", "BCN"),
    "GroupNorm": (nn.Sequential(nn.GroupNorm(1, 3)), SEQUENCE, "0", "BCN"),
    "InstanceNorm": (nn.Sequential(nn.InstanceNorm1d(3)), SEQUENCE, "0", "BCN"),
    "pooling": (nn.Sequential(Call(torch.relu), nn.MaxPool1d(2)), SEQUENCE, "1", "BCN"),
    "Conv1d residual": (nn.Sequential(nn.Conv1d(3, 8, 3), Block(nn.Conv1d(8, 8, 3, padding=1))), SEQUENCE, "1", "BCN"),
    "Conv1d transposed": (nn.Sequential(nn.Conv1d(3, 8, 3), permute(0, 2, 1)), SEQUENCE, "1", "BNC"),
    "what a Linear takes": (nn.Sequential(permute(0, 2, 1), nn.Linear(3, 8)), SEQUENCE, "input:1", "BNC"),
    "what a Conv1d takes": (nn.Sequential(Call(torch.relu), nn.Conv1d(3, 8, 3)), SEQUENCE, "input:1", "BCN"),
    "Conv2d": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), IMAGE, "1", "BCHW"),
    "dense block": (
        nn.Sequential(nn.Conv2d(3, 12, 3), Call(lambda x: torch.cat([x, x, x], 1))), IMAGE, "1", "BCHW",
    ),
    "Swin": (
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), permute(0, 2, 3, 1), nn.LayerNorm(8), Block(Mlp(8))), IMAGE, "3", "BHWC",
    ),
    "Swin without a norm": (
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), permute(0, 2, 3, 1), Block(Mlp(8))), IMAGE, "1", "BHWC",
    ),
    "Swin turned back": (
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), permute(0, 2, 3, 1), Mlp(8), permute(0, 3, 1, 2)), IMAGE, "3", "BCHW",
    ),
    "Norm2d": (nn.Sequential(nn.Conv2d(3, 8, 4, 4), Norm2d(8)), IMAGE, "1", "BCHW"),
    "own scale": (nn.Sequential(permute(0, 2, 3, 1), Scale(3)), IMAGE, "1", "BHWC"),
    "maps without a layer": (nn.Sequential(Call(torch.relu)), IMAGE, "0", "BCHW"),
    "Conv3d": (nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU()), VIDEO, "1", "BCDHW"),
    "patches as tokens": (
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), Call(lambda x: x.flatten(2).transpose(1, 2))), IMAGE, "1", "BNC",
    ),
    "a class token": (
        nn.Sequential(Mlp(8), Call(lambda x: torch.cat([x[:, :1], x], 1))), TOKENS, "1", "BNC",
    ),
    "Transformer block": (nn.Sequential(Block(Mlp(8))), TOKENS, "0", "BNC"),
    "TransformerEncoder": (encoder(True), TOKENS, "layers.0", "BNC"),
    "time-first encoder": (encoder(False), TOKENS, "", "NBC"),
    "time-first layer": (encoder(False), TOKENS, "layers.1", "NBC"),
    "inside a time-first layer": (encoder(False), TOKENS, "layers.1.linear2", "NBC"),
    "into a time-first layer": (encoder(False), TOKENS, "input:layers.1", "NBC"),
    "GRU": (nn.GRU(8, 4, batch_first=True), TOKENS, "output[0]", "BNC"),
    "time-first GRU": (nn.GRU(8, 4), TOKENS, "output[0]", "NBC"),
    "final states": (nn.GRU(8, 4, 2, batch_first=True), TOKENS, "output[1]", "NBC"),
    "rows": (nn.Sequential(nn.Linear(8, 4)), (2, 8), "0", "BC"),
    # What nothing tells is asked for.
    "tokens without a layer": (nn.Sequential(Call(torch.relu)), TOKENS, "0", ""),
    "one shape, two meanings": (
        nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), permute(0, 2, 1), Mlp(8), permute(0, 2, 1)), (2, 3, 8), "3", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_what_the_layers_say(case):
    model, shape, path, expected = TOLD[case]
    taps = Taps(model.eval(), name="student")
    taps.probe(torch.randn(shape), training=False)
    taps.require([path])
    assert taps.layouts[path] == expected
    if not expected:
        with pytest.raises(
            ValueError, match=r"The student's layer '.' gives .* do not tell which dimension is which: ask"
        ):
            taps.layout(path, "ask")


def test_a_tap_is_given_as_methods_see_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU())
    x = torch.randn(2, 3, 20)
    taps = Taps(model, name="student")
    taps.probe(x, training=True)
    taps.require(["0", "output"])
    values = taps.read(x)[1]
    torch.testing.assert_close(values["output"], model(x).transpose(1, 2), rtol=0, atol=0)
    assert taps.shapes["0"] == (2, 18, 8)
    values["0"].sum().backward()  # and carries gradient
    with pytest.raises(ValueError, match=r"is read as 'BCN' by one term and as 'BTC' by another"):
        taps.require(["0"], "BTC")
    taps.require(["0"], "BCT")  # means the same
    with pytest.raises(ValueError, match=r"'input:0' gives \[2, 3, 20\], which the layout 'BCHW' does not fit"):
        taps.require(["input:0"], "BCHW")


def test_a_result_that_is_an_object():
    class Result:
        def __init__(self, tokens):
            self.tokens = tokens

    model = nn.Sequential(Mlp(8), Call(Result))
    taps = Taps(model, name="student")
    taps.probe(torch.randn(TOKENS), training=True)
    taps.require(["1[tokens]"])
    assert taps.layouts["1[tokens]"] == "BNC"


def test_a_tuple_that_cannot_be_made_anew():
    class Pair(tuple):
        def __new__(cls, first, second):
            return super().__new__(cls, (first, second))

    model = nn.Sequential(Mlp(8), Call(lambda x: Pair(x, x)), Call(lambda both: both[0]))
    taps = Taps(model, name="student")
    taps.probe(torch.randn(TOKENS), training=True)
    taps.require(["1[1]"])
    assert taps.layouts["1[1]"] == "BNC"


def test_stages_of_a_model_with_channels_last():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), permute(0, 2, 3, 1), nn.LayerNorm(8), Mlp(8), permute(0, 3, 1, 2), nn.Flatten()
    )
    taps = Taps(model, name="student")
    taps.probe(torch.randn(2, 3, 32, 16), training=True)
    assert taps.stages == {"4": (2, 8, 8, 4)}  # not a second stage of size 4×8


def test_a_dimension_that_comes_and_goes():
    model = nn.Sequential(nn.Linear(8, 8), Call(lambda x: x if len(x) > 1 else x[0]))
    taps = Taps(model, name="student")
    taps.probe(torch.randn(TOKENS), training=True)
    taps.require(["1"])
    with pytest.raises(ValueError, match=r"'1' gives \[7, 8\] for this batch, and gave .* 3 dimensions \('BNC'\)"):
        taps.read(torch.randn(1, 7, 8))


def test_letters():
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(canonical(x, "BTCHW"), x.transpose(1, 2))
    assert canonical(x, "BCTHW") is x
    assert [order(layout) for layout in ("CHWB", "NBC", "TBC")] == [(3, 0, 1, 2), (1, 0, 2), (1, 0, 2)]
    for bad in ("BT", "BTD", "BCC", "B", "BCTHWN", "btc", "", None, 3):
        with pytest.raises(ValueError, match=r"^`Term`: `layout` must be 2 to 5 letters with B \(batch\) and C"):
            check_layout("Term", "layout", bad)


def test_the_batch_of_inputs_that_are_no_tensor():
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert [batch_sizes(inputs) for inputs in (packed, "text", torch.ones(()))] == [{2}, set(), set()]
    check_rows("The layer", [7, 3, 3], frozenset())  # nothing tells
    check_rows("The layer", [8, 3], frozenset([4]))  # flattened tokens
    with pytest.raises(ValueError, match=r"The layer gives \[8, 3, 3\], 8 rows for a batch of 4: read a layer"):
        check_rows("The layer", [8, 3, 3], frozenset([4]))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_told():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
    padded = torch.tensor([[False] * 7, [False] * 5 + [True] * 2])
    taps = Taps(model, name="teacher")
    taps.probe({"src": torch.randn(TOKENS), "src_key_padding_mask": padded}, training=False)
    for path in ("layers.0", "input:layers.1", "layers.1.norm2"):
        with pytest.raises(
            ValueError, match=rf"The teacher's layer '{path}' gives a nested tensor.*enable_nested_tensor"
        ):
            taps.require([path])
    taps.require([""])  # what leaves the encoder is padded again
    model.use_nested_tensor = False  # the way on that the sentence names
    taps.require(["layers.0"])
    assert taps.shapes["layers.0"] == TOKENS

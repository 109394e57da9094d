"""Padding does not count: one masked batch has one loss, however far it is padded, and by whatever way it is read."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence import Distiller, FitOptions, Term
from congruence.distiller.over_ranks import over_all_ranks
from congruence.losses import pkt_loss
from congruence.methods import Clock, Method, Needs, Probe, Signals
from congruence.models import Head, WithHead, rows
from congruence.models.masks import token_mask

REAL = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
LABELS = torch.arange(4) % 2


def ids(length, seed=0):
    words = torch.randint(1, 50, (4, 4), generator=torch.Generator().manual_seed(seed)) * REAL
    return F.pad(words, (0, length - 4))


def mask(length):
    return F.pad(REAL, (0, length - 4))


class Encoder(nn.Module):
    """A small text encoder; `says` turns the mask that it is given into True at padded positions."""

    def __init__(self, width, says=lambda mask: mask == 0, nested=False):
        super().__init__()
        torch.manual_seed(width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True, dropout=0.0)
        self.embed, self.says = nn.Embedding(50, width), says
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids, attention_mask):
        hidden = self.body(self.embed(input_ids), src_key_padding_mask=self.says(attention_mask))
        return self.head(hidden[:, 0])


class Other(Encoder):
    """Called as many own models are: another name, True at padded positions."""

    def __init__(self, width):
        super().__init__(width, says=lambda mask: mask)

    def forward(self, input_ids, src_key_padding_mask):
        return super().forward(input_ids, src_key_padding_mask)


def usual(length):
    return {"input_ids": ids(length), "attention_mask": mask(length)}


def inverted(length):
    return {"input_ids": ids(length), "src_key_padding_mask": mask(length) == 0}


def in_tuple(length):
    return ids(length), mask(length)


def inverted_tuple(length):
    return ids(length), mask(length) == 0


LAYERS = {"student_layer": "body", "teacher_layer": "body"}


def pair(term, batch, make=Encoder, **options):
    torch.manual_seed(0)
    return Distiller(make(16), make(8), [term], example=batch, **options)


def losses(term, give, make=Encoder):
    """Return the loss of the batch padded to 4 and to 16 tokens, whole and in chunks."""
    found = []
    for length in (4, 16):
        for options in ({}, {"micro_batch": 2}):
            found.append(pair(term, give(4), make)(give(length), LABELS, **options).loss.item())
    return found


@pytest.mark.parametrize("key", ["pkt", "mimic", "rkd", "sp", "fitnet"])
def test_padding_does_not_count(key):
    first, *others = losses(Term(key, **LAYERS), usual)
    assert others == pytest.approx([first] * 3, rel=1e-5)
    every = losses(Term(key, mask=False, **LAYERS), usual)
    assert every[2] != pytest.approx(every[0], rel=1e-3)


def test_the_mean_is_over_real_tokens():
    made = pair(Term("pkt", **LAYERS), usual(4))
    taken = []
    for model in (made.student, made.teacher.module):
        tokens = model.body(model.embed(ids(16)), src_key_padding_mask=mask(16) == 0)
        taken.append(torch.stack([each[:n].mean(0) for each, n in zip(tokens, REAL.sum(1), strict=True)]))
    torch.testing.assert_close(made(usual(16)).loss, 30_000 * pkt_loss(*taken))


@pytest.mark.parametrize(
    ("given", "give", "make"),
    [
        ("attention_mask", usual, Encoder),
        ({"student": "attention_mask", "teacher": None}, usual, Encoder),
        ("~src_key_padding_mask", inverted, Other),
        (1, in_tuple, Encoder),
        ("1", in_tuple, Encoder),
        ("~1", inverted_tuple, Other),
    ],
)
def test_a_mask_is_named(given, give, make):
    expected = losses(Term("pkt", **LAYERS), usual)
    assert losses(Term("pkt", mask=given, **LAYERS), give, make) == pytest.approx(expected, rel=1e-5)


def test_what_looks_like_a_mask_is_asked_for():
    sentence = (
        r"the student's layer 'body' gives tokens \[4, 4, 8\], and the inputs' {} looks like a mask.*Term\(..., mask"
    )
    for give, make, part in (
        (inverted, Other, "'src_key_padding_mask'"),
        (in_tuple, Encoder, "part 1"),
        (inverted_tuple, Other, "part 1"),
    ):
        with pytest.raises(ValueError, match=sentence.format(part)):
            pair(Term("pkt", **LAYERS), give(4), make)
        pair(Term("pkt", mask=False, **LAYERS), give(4), make)


class Lengths(Encoder):
    def forward(self, input_ids, lengths):
        return super().forward(input_ids, (torch.arange(input_ids.shape[1]) < lengths[:, None]).long())


def test_lengths_are_a_mask():
    def give(length):
        return {"input_ids": ids(length), "lengths": REAL.sum(1)}

    expected = losses(Term("pkt", **LAYERS), usual)
    assert losses(Term("pkt", mask="lengths", **LAYERS), give, Lengths) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"gives tokens \[4, 4, 8\], and the inputs' 'lengths' looks like how many"):
        pair(Term("pkt", **LAYERS), give(4), Lengths)
    pair(Term("pkt", mask=False, **LAYERS), give(4), Lengths)
    pair("pkt", give(4), Lengths)  # rows need none
    with pytest.raises(ValueError, match=r"gives 4 tokens, which the lengths 'lengths' of up to 9 do not fit"):
        token_mask(torch.ones(2, 4, 8), {"lengths": torch.tensor([9, 3])}, "lengths", "The layer", "way")


class Table(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body, self.head = nn.Embedding(50, width, padding_idx=0), nn.Linear(width, 3)

    def forward(self, words):
        return self.head(self.body(words).sum(1))


def test_an_embedding_tells_which_tokens_are_padding():
    sentence = r"whose padding its layer 'body' is told by a `padding_idx=0` that the inputs do not hold.*mask=False"
    for words in (ids(6), ids(6).flip(1)):
        with pytest.raises(ValueError, match=sentence):
            pair(Term("pkt", **LAYERS), words, Table)
    pair(Term("pkt", mask=False, **LAYERS), ids(6), Table)
    pair("pkt", ids(6), Table)
    for words in (ids(4).clamp(min=1), torch.tensor([[3, 0, 5, 1], [0, 2, 3, 4], [2, 1, 5, 0], [1, 2, 3, 4]])):
        pair(Term("pkt", **LAYERS), words, Table)  # no padding, and a token 0 among others


class Own(Encoder):
    """Knows padding by the token 0."""

    def forward(self, input_ids):
        return super().forward(input_ids, (input_ids != 0).long())


def test_a_mask_that_the_model_makes_itself_is_told():
    with pytest.raises(
        ValueError, match=r"whose padding its layer 'body' is told by a `src_key_padding_mask`.*mask=False"
    ):
        pair(Term("pkt", **LAYERS), ids(4), Own)
    pair(Term("pkt", mask=False, **LAYERS), ids(4), Own)
    pair(Term("kd"), ids(4), Own)
    with pytest.raises(ValueError, match=r"`embed`: the teacher's layer 'body' gives tokens"):
        cg.compare(Own(16), Own(8), [(ids(4), LABELS)], teacher_layer="body", student_layer="body")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("mask", r"has no mask 'mask' to go by: the inputs have the keys input_ids, attention_mask"),
        (2, r"has no mask '2' to go by"),
        ("input_ids", None),  # a word that is not 0 is as good a mask
        ("~attention_mask", r"marks no real token of sample 0: leave such samples out of the batch\."),
        (True, r"`Term`: `mask` must be a key of the inputs' mapping .* got True"),
        ("~", r"`Term`: `mask` must be"),
        (-1, r"`Term`: `mask` must be"),
        ({"studnt": "attention_mask"}, r"`Term`: `mask` must be keyed by 'student' or 'teacher', got 'studnt'"),
    ],
)
def test_bad_names_are_one_sentence(given, sentence):
    if sentence is None:
        assert pair(Term("pkt", mask=given, **LAYERS), usual(4)).built
        return
    with pytest.raises(ValueError, match=sentence):
        pair(Term("pkt", mask=given, **LAYERS), usual(4))


def test_masks_that_do_not_fit():
    class Halved(Encoder):
        def forward(self, input_ids, attention_mask):
            return self.head(self.body(self.embed(input_ids)[:, ::2])[:, 0])

    with pytest.raises(
        ValueError, match=r"gives tokens \[4, 2, 8\], which the mask 'attention_mask' \[4, 4\] does not fit"
    ):
        pair(Term("pkt", **LAYERS), usual(4), Halved)
    with pytest.raises(ValueError, match=r"names the mask 'attention_mask', but no layer that it reads gives tokens"):
        pair(Term("kd", mask="attention_mask"), usual(4))
    made = pair(Term("pkt", **LAYERS), usual(4))
    padded = {**usual(4), "attention_mask": REAL * torch.tensor([1, 1, 0, 1]).unsqueeze(1)}
    with pytest.raises(
        ValueError, match=r"the mask 'attention_mask', which marks no real token of sample 2.*or does True"
    ):
        made(padded)
    tokens, what = torch.ones(4, 4, 8), "The layer"
    additive = {"attention_mask": torch.where(REAL > 0, 0.0, -torch.inf)}
    with pytest.raises(ValueError, match=r"by the mask 'attention_mask': it must hold 0 and 1, got other numbers"):
        token_mask(tokens, additive, None, what, "")
    assert torch.equal(token_mask(tokens, {"attention_mask": REAL.float()}, None, what, ""), REAL == 1)


def test_padded_positions_may_hold_anything():
    tokens = torch.randn(4, 4, 8).masked_fill((REAL == 0).unsqueeze(2), torch.nan).requires_grad_()
    rows(tokens, REAL == 1).sum().backward()
    assert torch.isfinite(tokens.grad).all()
    half = torch.full((1, 5000, 2), 60000.0, dtype=torch.float16)
    assert rows(half, torch.ones(1, 5000, dtype=torch.bool)).tolist() == [[60000.0, 60000.0]]
    with pytest.raises(ValueError, match=r"`rows`: `mask` must be bool \[1, 5000\]"):
        rows(half, torch.ones(1, 5000))


class Maps(Method):
    needs = Needs(roles=("maps",))

    def build(self, probe: Probe):
        self.width = probe.width("student", "maps")

    def loss(self, signals: Signals):
        return {"loss": signals.one("student", "maps").mean()}


def test_a_method_that_would_count_padding_is_refused():
    with pytest.raises(
        ValueError, match=r"gives padded tokens \[4, 4, 8\], and Maps would count the padding.*mask=False"
    ):
        pair(Term(Maps(), **LAYERS), usual(4))
    method = Maps()
    pair(Term(method, mask=False, **LAYERS), usual(4))
    assert method.width == 8  # channels, not tokens


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_leaves_an_encoder_with_nested_tensors():
    def nested(width):
        return Encoder(width, nested=True)

    expected = losses(Term("pkt", **LAYERS), usual)
    assert losses(Term("pkt", **LAYERS), usual, nested) == pytest.approx(expected, rel=1e-5)
    inner = {side: "body.layers.0" for side in LAYERS}
    with pytest.raises(ValueError, match=r"The term 'pkt': The teacher's layer 'body.layers.0' gives a nested tensor"):
        pair(Term("pkt", **inner), usual(4), nested)


def test_views_have_masks_of_their_own():
    class Both(Method):
        needs = Needs(views=("main", "strong"), teacher=False)

        def loss(self, signals):
            return {"loss": (signals.one("student") - signals.one("student", view="strong")).abs().max()}

    made = Distiller(None, Encoder(8), [Term(Both(), student_layer="body")], example=usual(4))
    assert made(usual(4), views={"strong": usual(16)}).loss.item() == pytest.approx(0, abs=1e-5)


def test_two_terms_with_other_masks_share_no_rows():
    terms = [Term("pkt", **LAYERS), Term("pkt", name="all", mask=False, **LAYERS)]
    torch.manual_seed(0)
    made = Distiller(Encoder(16), Encoder(8), terms, example=usual(4))(usual(16)).terms
    assert made["pkt"] != made["all"]


def test_ranks_that_pad_to_other_lengths():
    """Tokens are gathered in one length; rank 1 has padded its batch to 6."""
    key = ("student", "main", "maps")
    given = Signals({key: (torch.ones(2, 4, 3),)}, ("student",), Clock(), masks={key: (torch.ones(2, 4).bool(),)})
    bindings = pair(Term("pkt", **LAYERS), usual(4)).bindings
    gathered = over_all_ranks(bindings, {"pkt": given}, lambda lengths: [lengths, [6]])["pkt"]
    assert gathered.layers("student", "maps")[0].shape == (2, 6, 3)
    assert gathered.masks[key][0].sum(1).tolist() == [4, 4]


def test_training_validation_and_comparison():
    """`fit`, its validation and `compare` see the same rows, whatever the loader pads to."""

    def run(length):
        batch = {"input_ids": ids(length), "attention_mask": mask(length), "labels": LABELS}
        made = pair(Term("pkt", **LAYERS), usual(4))
        cg.fit(made, [batch], [batch], FitOptions(epochs=2, seed=0))
        compared = cg.compare(made.teacher.module, made.student, [batch], teacher_layer="body", student_layer="body")
        return made.student_state_dict(), compared

    (short, compared), (long, compared_long) = run(4), run(16)
    for name, value in short.items():
        torch.testing.assert_close(long[name], value, rtol=1e-3, atol=1e-5)
    assert compared_long.gpcl == compared.gpcl


def test_a_head_reads_real_tokens():
    head = Head(8, 2)
    nn.init.normal_(head.weight)
    both = WithHead(Encoder(8).eval(), head, example=usual(4), layer="body")
    taken = []
    both.embed.register_forward_hook(lambda module, args, output: taken.append(output))
    for length in (4, 16):
        both(**usual(length))
    torch.testing.assert_close(*taken)

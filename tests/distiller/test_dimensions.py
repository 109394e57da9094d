"""Whatever order a layer has its dimensions in, a term sees a row a sample: the same loss as by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import congruence as cg
from congruence import Distiller, Term
from congruence.losses import mimic_loss, pkt_loss
from congruence.methods import Method, Needs


def call(distiller, *batch, **options):
    out = distiller(*batch, **options)
    return out.loss


class Turned(nn.Module):
    """A body whose tokens or maps, [B, N, C], are handed on in another order by a layer that says nothing."""

    def __init__(self, width, axes, body=None):
        super().__init__()
        torch.manual_seed(width)
        self.axes = axes
        self.body = body or nn.Linear(6, width)
        self.turned, self.head = nn.Identity(), nn.Linear(width, 3)

    def forward(self, x):
        turned = self.turned(self.body(x).relu().permute(self.axes).contiguous())
        back = [self.axes.index(axis) for axis in range(len(self.axes))]
        return self.head(turned.permute(back).flatten(1, -2).mean(1))


def pair(make, term, example, **options):
    torch.manual_seed(0)
    return Distiller(make(16), make(8), [term], example=example, **options)


def rows(distiller, x, reduce):
    return [reduce(part.body(x).relu()) for part in (distiller.student, distiller.teacher.module)]


SEQUENCE = torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(1))
PKT = 30_000


@pytest.mark.parametrize("layout", ["NBC", "TBC", {"student": "TBC", "teacher": "NBC"}, {"features": "TBC"}])
def test_time_first_rows_are_asked_for_and_moved(layout):
    def make(width):
        return Turned(width, (1, 0, 2))

    term = {"student_layer": "turned", "teacher_layer": "turned"}
    with pytest.raises(ValueError, match=r"'turned' gives \[7, 4, 8\], 7 rows for a batch of 4.*layout='TBC'"):
        pair(make, Term("pkt", **term), SEQUENCE)
    made = pair(make, Term("pkt", **term, layout=layout), SEQUENCE)
    expected = PKT * pkt_loss(*rows(made, SEQUENCE, lambda tokens: tokens.mean(1)))
    for options in ({}, {"micro_batch": 2}):
        torch.testing.assert_close(call(made, SEQUENCE, **options), expected)


def test_conv1d_is_averaged_over_time():
    def make(width):
        torch.manual_seed(width)
        body = nn.Sequential(nn.Conv1d(3, width, 3), nn.ReLU())
        return nn.Sequential(body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 3))

    x = torch.randn(4, 3, 20)
    made = pair(make, Term("mimic", student_layer="0", teacher_layer="0"), x)
    (projector,) = made.methods["mimic"].projectors
    assert projector.weight.shape == (16, 8)
    student, teacher = (model[0](x).mean(2) for model in (made.student, made.teacher.module))
    expected = mimic_loss(projector(student), teacher)
    torch.testing.assert_close(call(made, x) / made.terms[0].weight, expected, rtol=1e-4, atol=1e-6)
    fitnet = pair(make, Term("fitnet", student_layer="0", teacher_layer="0"), x)
    assert fitnet.methods["fitnet"].regressors[0].weight.shape == (16, 8)  # linear, at each time


class Swin(nn.Module):
    """Stages [B, H, W, C], as Swin has them."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(width)
        self.patch, self.norm, self.mlp = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width), nn.Linear(width, width)
        self.stage, self.head = nn.Identity(), nn.Linear(width, 3)

    def forward(self, x):
        x = self.norm(self.patch(x).permute(0, 2, 3, 1))
        return self.head(self.stage(x + self.mlp(x)).mean((1, 2)))


def test_stages_of_swin():
    x = torch.randn(4, 3, 32, 24)
    made = pair(Swin, Term("pkt", student_layer="stage", teacher_layer="stage"), x)
    taken = []
    for model in (made.student, made.teacher.module):
        model.stage.register_forward_hook(lambda module, args, output: taken.append(output.detach().mean((1, 2))))
        model(x)
    torch.testing.assert_close(call(made, x), PKT * pkt_loss(*taken[:2]))
    maps = pair(Swin, Term("at", student_layer="stage", teacher_layer="stage"), x)
    assert maps.bindings["at"].method is maps.methods["at"]
    assert call(maps, x) > 0


def test_default_maps_have_a_row_a_sample():
    class Biased(Swin):
        def __init__(self, width):
            super().__init__(width)
            self.bias = nn.Identity()

        def forward(self, x):
            self.bias(torch.ones(1, 1, 8, 6))  # a table of positions, as large as the maps
            return super().forward(x)

    made = pair(Biased, Term("at"), torch.randn(4, 3, 32, 24))
    assert {path for paths in made.layers()["at"].values() for path in paths} == {"stage"}


def test_of_a_transformer_the_last_patches_are_the_default_map_not_the_first():
    class Patches(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.patch, self.mlp, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, width), nn.Linear(width, 3)

        def forward(self, x):
            return self.head(self.mlp(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    made = pair(Patches, Term("at"), torch.randn(4, 3, 32, 24))
    assert {path for paths in made.layers()["at"].values() for path in paths} == {"mlp"}
    pair(Patches, Term("at", student_layer="patch", teacher_layer="patch"), torch.randn(4, 3, 32, 24))


@pytest.mark.parametrize("key", ["mimic", "at", "nst", "sp", "fitnet"])
def test_maps_of_videos(key):
    def make(width):
        torch.manual_seed(width)
        norm = nn.BatchNorm3d(width)
        return nn.Sequential(nn.Conv3d(3, width, 3, padding=1), norm, nn.AdaptiveAvgPool3d(1), nn.Flatten())

    x = torch.randn(4, 3, 4, 6, 5)
    made = pair(make, Term(key, student_layer="1", teacher_layer="1"), x)
    assert torch.isfinite(call(made, x))
    if key == "mimic":
        (projector,) = made.methods["mimic"].projectors
        student = made.student[1](made.student[0](x)).mean((2, 3, 4))
        expected = mimic_loss(projector(student), made.teacher.module(x))
        torch.testing.assert_close(call(made, x) / made.terms[0].weight, expected, rtol=1e-4, atol=1e-6)


class Recurrent(nn.Module):
    def __init__(self, width, batch_first, turn=True):
        super().__init__()
        torch.manual_seed(width)
        self.rnn, self.head = nn.GRU(6, width, batch_first=batch_first), nn.Linear(width, 3)
        self.turn = turn and not batch_first

    def forward(self, x):
        return self.head(self.rnn(x.transpose(0, 1) if self.turn else x)[1][-1])


@pytest.mark.parametrize("part", [0, 1])
def test_recurrent_layers_say_where_the_batch_is(part):
    term = Term("pkt", student_layer=f"rnn[{part}]", teacher_layer=f"rnn[{part}]")
    sides = [Recurrent(16, batch_first=True), Recurrent(8, batch_first=False)]
    made = Distiller(*sides, [term], example=SEQUENCE)
    taken = []
    for model in (made.student, made.teacher.module):
        turned = SEQUENCE if model.rnn.batch_first else SEQUENCE.transpose(0, 1)
        value = model.rnn(turned)[part]
        taken.append(value.mean(1 if part == 0 and model.rnn.batch_first else 0))
    torch.testing.assert_close(call(made, SEQUENCE), PKT * pkt_loss(*taken))


def test_inputs_that_have_the_batch_second():
    """The layer and the inputs contradict each other, so that a word of the user decides; labels are then compared."""

    def make(width):
        return Recurrent(width, batch_first=False, turn=False)

    term = {"student_layer": "rnn[0]", "teacher_layer": "rnn[0]"}
    turned = SEQUENCE.transpose(0, 1).contiguous()
    with pytest.raises(
        ValueError, match=r"its dimension 1 is the batch, of 4 where there are 7.*layout='TBC'.*batch_first"
    ):
        pair(make, Term("pkt", **term), turned)
    made = pair(make, Term("pkt", **term, layout="TBC"), turned)
    expected = PKT * pkt_loss(*(model.rnn(turned)[0].mean(0) for model in (made.student, made.teacher.module)))
    torch.testing.assert_close(call(made, turned, torch.zeros(4).long()), expected)
    torch.testing.assert_close(call(made, turned), expected)
    longer = torch.randn(8, 2, 6)  # chunks of 2 times would pass for batches of 2
    made = pair(make, Term("pkt", **term, layout="TBC"), longer)
    with pytest.raises(ValueError, match=r"`micro_batch` splits the first dimension of the inputs, but the term"):
        call(made, longer, micro_batch=2)


def test_time_first_tokens_are_found_by_the_labels():
    """[T, B, C] throughout, which a dry run of inputs [T, B, D] cannot tell from batches of T."""
    torch.manual_seed(0)
    sides = [nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)) for _ in range(2)]
    made = Distiller(*sides, [Term("pkt", student_layer="1", teacher_layer="1")], example=SEQUENCE)
    with pytest.raises(ValueError, match=r"'1' gives \[4, 7, 8\], 4 rows for a batch of 7: if its dimension 1 is"):
        made(SEQUENCE, torch.zeros(7).long())


def test_labels_of_something_else_tell_nothing():
    """Labels of every token, or one of a bag: neither is a dimension of what is tapped."""
    torch.manual_seed(0)
    sides = [nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)) for _ in range(2)]
    made = Distiller(*sides, [Term("pkt", student_layer="1", teacher_layer="1")], example=SEQUENCE)
    for labels in (torch.zeros(28), torch.zeros(1)):
        assert call(made, SEQUENCE, labels.long()) == call(made, SEQUENCE, torch.zeros(4).long())


class Reads(Method):
    needs = Needs(teacher=False)

    def loss(self, signals):
        return {"loss": signals.one("student").square().mean()}


def test_what_is_plain_needs_no_word():
    tokens = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU())
    maps = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    for model, x, axes in ((tokens, SEQUENCE, 1), (maps, torch.randn(4, 3, 8, 8), (2, 3))):
        made = Distiller(None, model, [Term(Reads(), student_layer="output")], example=x)
        torch.testing.assert_close(call(made, x), model(x).mean(axes).square().mean())


def test_bad_words_are_one_sentence():
    for layout, sentence in (
        ("BTD", r"`Term`: `layout` must be 2 to 5 letters"),
        ({"student": "BTD"}, r"`Term`: `layout` must be 2 to 5 letters"),
        ({"studnt": "BTC"}, r"`Term`: `layout` must be keyed by 'features' or 'student' or 'teacher', got 'studnt'"),
        ("BCHW", r"gives \[4, 7, 8\], which the layout 'BCHW' does not fit"),
        ("CTB", r"'0' gives \[4, 7, 8\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pair(
                lambda width: nn.Sequential(nn.Linear(6, width)),
                Term("pkt", student_layer="0", teacher_layer="0", layout=layout),
                SEQUENCE,
            )
    with pytest.raises(ValueError, match=r"do not tell which dimension is which: name its layout.*layout='BCT'"):
        pair(lambda width: nn.Sequential(nn.Identity()), Term("pkt", student_layer="0", teacher_layer="0"), SEQUENCE)


def test_compare_reads_layers_alike():
    x = torch.randn(6, 3, 20)

    def make(width):
        torch.manual_seed(width)
        return nn.Sequential(nn.Conv1d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())

    batches = [(x, torch.arange(6) % 3)]
    by_map = cg.compare(make(16), make(8), batches, teacher_layer="1", student_layer="1")
    by_rows = cg.compare(make(16), make(8), batches, teacher_layer="3", student_layer="3")
    assert by_map.gpcl == by_rows.gpcl
    with pytest.raises(
        ValueError, match=r"The teacher's layer '0' gives \[6, 3, 20\].*read a layer that gives one row"
    ):
        cg.compare(nn.Sequential(nn.Identity()), make(8), batches, teacher_layer="0", student_layer="1")

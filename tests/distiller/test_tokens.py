"""Tokens of images: patches without what stands before them, on a grid, as tokens and as maps."""

import pytest
import torch
from _harness.vits import vit
from torch import nn

import congruence as cg
from congruence import Method, Needs
from congruence.methods import LossMethod
from congruence.models import Taps

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


TEXTS = {"ids": torch.arange(12).view(2, 6), "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])}
MODELS = ("student", "teacher")


class Text(nn.Module):
    """Words, of which the first so many may be dropped, mixed by themselves and added up."""

    def __init__(self, width, drops=0):
        super().__init__()
        self.drops = drops
        self.words, self.mix, self.head = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, ids, attention_mask):
        mixed = self.mix(self.words(ids[:, self.drops :]))
        return self.head((mixed * attention_mask[:, self.drops :].unsqueeze(2)).sum(1))


class Seen(Method):
    """Keeps what it is given of a role."""

    def __init__(self, role):
        super().__init__()
        self.needs = Needs(roles=(role,), scope="sample")

    def build(self, probe):
        self.probe = probe

    def loss(self, signals):
        self.signals = signals
        (role,) = self.needs.roles
        return {"loss": signals.layers("student", role)[0].square().mean()}


def seen(teacher, student, role, **layers):
    method = Seen(role)
    made = cg.Distiller(teacher, student, [cg.Term(method, **layers)], example=IMAGES)
    made(IMAGES)
    return method


@pytest.mark.parametrize("before", [0, 1, 5])
def test_patches_without_what_stands_before_them(before):
    teacher, student = vit(before=before), vit(1, width=6)
    method = seen(teacher, student, "tokens")
    key = ("teacher", "main", "tokens")
    (tokens,) = method.signals.tensors[key]
    whole = []
    with torch.no_grad(), teacher.eval().norm.register_forward_hook(lambda *found: whole.append(found[2])):
        teacher(IMAGES)
    torch.testing.assert_close(tokens, whole[0][:, before:])
    assert method.signals.grids[key] == ((4, 4),)
    assert method.probe.shapes["teacher", "tokens"] == ((4, 16, 8),)
    assert method.probe.grids["student", "tokens"] == ((4, 4),)
    assert method.probe.paths["teacher", "tokens"] == ("norm",)


def test_patches_stand_as_maps():
    teacher, student = vit(), vit(1, width=6)
    layers = {"student_layer": "blocks.1", "teacher_layer": "blocks.0"}
    maps, tokens = (seen(teacher, student, role, **layers) for role in ("maps", "tokens"))
    for model, width in (("student", 6), ("teacher", 8)):
        (as_maps,), (as_tokens,) = maps.signals.layers(model, "maps"), tokens.signals.layers(model, "tokens")
        assert maps.probe.shapes[model, "maps"] == (as_maps.shape,) == ((4, width, 4, 4),)
        assert torch.equal(as_maps.flatten(2).mT, as_tokens)


def test_the_positions_of_a_map_are_tokens():
    student = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    method = seen(vit(), student, "tokens")
    (tokens,) = method.signals.layers("student", "tokens")
    assert tokens.shape == (4, 64, 5)
    assert method.signals.grids["student", "main", "tokens"] == ((8, 8),)


def test_words_are_tokens_as_they_are():
    method = Seen("tokens")
    torch.manual_seed(0)
    made = cg.Distiller(Text(6), Text(6), [cg.Term(method)], example=TEXTS)
    made(TEXTS)
    (tokens,), (mask,) = (of["student", "main", "tokens"] for of in (method.signals.tensors, method.signals.masks))
    assert method.signals.grids["student", "main", "tokens"] == (None,)
    assert mask.sum(1).tolist() == [6, 3]
    assert not tokens[1, 3:].any()
    assert tokens[1, :3].all()


def test_rows_are_no_tokens():
    with pytest.raises(ValueError, match=r"tokens must be .*, got \[4, 3\] from the tapped layer"):
        seen(vit(), vit(1), "tokens", student_layer="head")


class Cosines(nn.Module):
    """The mean squared difference of the cosines between the real tokens of each sample."""

    def forward(self, student, teacher, mask=None):
        student, teacher = (nn.functional.normalize(each, dim=2) for each in (student, teacher))
        squares = (student @ student.mT - teacher @ teacher.mT).square()
        if mask is None:
            return squares.mean()
        both = mask.unsqueeze(1) & mask.unsqueeze(2)
        return squares.masked_fill(~both, 0).sum() / both.sum()


def test_a_loss_of_tokens_gets_as_many_of_both():
    teacher, student = vit(patch=2, before=5), vit(1, width=6)
    term = cg.Term(LossMethod(Cosines(), Needs(roles=("tokens",), scope="sample")), name="cosines")
    made = cg.Distiller(teacher, student, [term], example=IMAGES)
    student_tokens, teacher_tokens = (seen(teacher, student, "tokens").signals.layers(m, "tokens")[0] for m in MODELS)
    fine = teacher_tokens.mT.unflatten(2, (8, 8))
    coarse = nn.functional.avg_pool2d(fine, 2).flatten(2).mT
    torch.testing.assert_close(made(IMAGES).terms["cosines"], Cosines()(student_tokens, coarse))


def test_a_loss_of_tokens_knows_what_is_padding():
    term = cg.Term(LossMethod(Cosines(), Needs(roles=("tokens",), scope="sample")), name="cosines")
    torch.manual_seed(0)
    made = cg.Distiller(Text(8), Text(6), [term], example=TEXTS)
    short = {"ids": TEXTS["ids"][1:, :3], "attention_mask": TEXTS["attention_mask"][1:, :3]}
    long = {name: value[1:] for name, value in TEXTS.items()}
    torch.testing.assert_close(made(short).loss, made(long).loss)


def test_other_numbers_of_tokens_without_a_grid():
    term = cg.Term(LossMethod(Cosines(), Needs(roles=("tokens",))), name="cosines")
    with pytest.raises(ValueError, match="5 tokens of the student and 6 of the teacher lie on no grid"):
        cg.Distiller(Text(8), Text(6, drops=1), [term], example=TEXTS)


@pytest.mark.parametrize("pool", ["cls", "mean", None])
def test_a_row_of_tokens(pool):
    teacher, student = vit(before=5), vit(1, width=6)
    given = {"pool": pool} if pool else {}
    method = seen(teacher, student, "features", student_layer="norm", teacher_layer="blocks.1", **given)
    with torch.no_grad():
        whole = []
        with teacher.eval().blocks[1].register_forward_hook(lambda *found: whole.append(found[2])):
            teacher(IMAGES)
    expected = {"cls": whole[0][:, 0], "mean": whole[0][:, 5:].mean(1), None: whole[0].mean(1)}[pool]
    torch.testing.assert_close(method.signals.one("teacher"), expected)
    assert method.signals.one("student").shape == (4, 6)


def test_a_row_of_words_leaves_padding_out():
    method = Seen("features")
    layers = {"student_layer": "mix", "teacher_layer": "mix"}
    made = cg.Distiller(Text(6), Text(6), [cg.Term(method, pool="mean", **layers)], example=TEXTS)
    made(TEXTS)
    words = made.student.mix(made.student.words(TEXTS["ids"]))
    torch.testing.assert_close(method.signals.one("student")[1], words[1, :3].mean(0))


def test_pools_by_model_and_terms_that_share_a_tap():
    teacher, student = vit(), vit(1, width=6)
    layers = {"student_layer": "norm", "teacher_layer": "norm"}
    first, second = Seen("features"), Seen("features")
    terms = [cg.Term(first, name="a", pool={"teacher": "cls"}, **layers), cg.Term(second, name="b", **layers)]
    cg.Distiller(teacher, student, terms, example=IMAGES)(IMAGES)
    assert torch.equal(first.signals.one("student"), second.signals.one("student"))
    assert not torch.allclose(first.signals.one("teacher"), second.signals.one("teacher"))


@pytest.mark.parametrize(
    ("before", "role", "given", "sentence"),
    [
        (1, "features", {"pool": "cls"}, r"pool='cls' needs tokens \[batch, tokens, channels\], the student's layer"),
        (
            0,
            "features",
            {"pool": "cls", "student_layer": "norm"},
            "needs a token before the patches, the student's lay",
        ),
        (1, "maps", {"pool": "cls", "student_layer": "norm"}, "reads no features, and `pool` applies to features only"),
        (1, "features", {"pool": {"pupil": "cls"}}, "`pool` must be keyed by 'student' or 'teacher', got 'pupil'"),
    ],
)
def test_pools_that_do_not_fit(before, role, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        seen(vit(), vit(1, before=before), role, **{"teacher_layer": "norm"} | given)


def test_a_pool_is_one_of_three():
    with pytest.raises(ValueError, match="`pool` must be 'cls', 'mean', 'none' or None, got 'max'"):
        cg.Term("pkt", pool="max")


def test_the_last_patches_are_a_transformers_one_stage():
    student = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    made = cg.Distiller(vit(), student, ["at"], example=IMAGES)
    assert made.layers() == {"at": {"student maps": ("1",), "teacher maps": ("norm",)}}
    named = cg.Distiller(vit(), student, [cg.Term("at", student_layer="1", teacher_layer="norm")], example=IMAGES)
    assert made(IMAGES).loss == named(IMAGES).loss


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, ()), (2, ("blocks.0",)), (3, ("blocks.0", "blocks.1")), (8, ("blocks.1", "blocks.3", "blocks.5"))],
)
def test_blocks_of_a_transformer_are_its_stages(depth, expected):
    taps = Taps(vit(depth=depth, before=5), name="teacher")
    taps.probe(IMAGES, training=False)
    assert tuple(taps.stages) == (*expected, "norm")
    assert set(taps.stages.values()) == {torch.Size([4, 8, 4, 4])}


def test_methods_of_stages_read_blocks():
    made = cg.Distiller(vit(depth=4), vit(1, depth=8, width=6), ["vid"], example=IMAGES)
    student, teacher = (made.layers()["vid"][f"{model} maps"] for model in MODELS)
    assert student == ("blocks.1", "blocks.3", "blocks.5", "norm")
    assert teacher == ("blocks.0", "blocks.1", "blocks.2", "norm")
    named = [cg.Term("vid", student_layer=list(student), teacher_layer=list(teacher))]
    again = cg.Distiller(vit(depth=4), vit(1, depth=8, width=6), named, example=IMAGES)
    again.load_state_dict(made.state_dict())
    assert torch.equal(made(IMAGES).loss, again(IMAGES).loss)


@pytest.mark.parametrize("key", ["gram", "nst"])
def test_tokens_as_they_are_need_no_pool(key):
    losses = [cg.Distiller(vit(), vit(1, width=6), [cg.Term(key, **pool)], example=IMAGES)(IMAGES).loss
              for pool in ({"pool": "none"}, {})]  # fmt: skip
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("key", "pool", "sentence"),
    [
        (
            "pkt",
            "none",
            "The term 'pkt' compares one row for each sample, but pool='none' keeps all tokens: take 'mean' or",
        ),
        ("mimic", {"teacher": "none"}, "fitnet compares them one by one"),
        ("radio", "none", "The term 'radio' compares one row for each sample"),
    ],
)
def test_rows_of_samples_are_no_tokens(key, pool, sentence):
    with pytest.raises(ValueError, match=sentence):
        cg.Term(key, pool=pool)


@pytest.mark.parametrize(("key", "pool"), [("kd", "none"), ("gram", {"student": "mean", "teacher": "none"})])
def test_a_pool_for_what_reads_no_features(key, pool):
    with pytest.raises(ValueError, match="reads no features, and `pool` applies to features only: leave it out"):
        cg.Distiller(vit(), vit(1), [cg.Term(key, pool=pool)], example=IMAGES)

import logging
import re

import pytest
import torch
from _harness import golden
from _harness.losses import seeded
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence.data.datasets.facts import DataFacts
from congruence.distiller.signals import buffers_copied_for_backward
from congruence.losses import contrastive_representation_loss
from congruence.methods import Probe, Signals
from congruence.methods.crd import CHECKS, ContrastiveRepresentation

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 1, 0, -1, 0])


def built(labels=LABELS, *, widths=(5, 7), size=None, **settings):
    method = ContrastiveRepresentation(**{"embedding_dim": 4, **settings})
    shapes = {(side, "features"): (torch.Size([2, w]),) for side, w in zip(("student", "teacher"), widths, strict=True)}
    classes = None if labels is None else int(labels.max()) + 1
    facts = DataFacts(len(labels) if size is None else size, classes, labels)
    torch.manual_seed(0)
    method.build(Probe(shapes, {}, {}, ("student",), facts))
    return method.double()


def signals(student, teacher, index):
    rows = {("student", "main", "features"): (student,), ("teacher", "main", "features"): (teacher,)}
    return Signals(rows, ("student",), index=index)


def batch(method, index, seed=1):
    widths = [method.projections[side].in_features for side in ("student", "teacher")]
    rows = [torch.randn(len(index), width, generator=seeded(seed + k)).double() for k, width in enumerate(widths)]
    return signals(*rows, index)


def step(method, signals):
    """One step as the distiller makes it, without a gradient."""
    with torch.no_grad():
        embedded = method.embed(signals)
        value = method.loss(embedded)["loss"]
        method.update(embedded)
    return value


def test_two_steps_equal_the_golden():
    stored = golden.arrays("crd_A")
    cast = {key: value.double() if value.is_floating_point() else value for key, value in stored.items()}
    method = built(None, widths=(16, 32), size=64, embedding_dim=12, negatives=16)
    method.student_bank.copy_(cast["param_contrast.memory_v1"])
    method.teacher_bank.copy_(cast["param_contrast.memory_v2"])
    for side, name in (("student", "s"), ("teacher", "t")):
        for part in ("weight", "bias"):
            getattr(method.projections[side], part).data.copy_(cast[f"param_embed_{name}.linear.{part}"])
    total, leaves = 0.0, []
    for number, step in enumerate(("", "2"), 1):
        contrast = cast[f"in_contrast_idx{step}"]
        method._draw = lambda index, contrast=contrast: contrast[:, 1:]  # its own are keyed, these are given
        assert torch.equal(contrast[:, 0], cast[f"in_idx{step}"])
        leaves += [cast[f"in_s{step}"].requires_grad_()]
        embedded = method.embed(signals(leaves[-1], cast[f"in_t{step}"], cast[f"in_idx{step}"]))
        with buffers_copied_for_backward(method):  # as the distiller does: `update` comes before the backward
            value = method.loss(embedded)["loss"]
        torch.testing.assert_close(value, cast[f"out_loss_step{number}"][0], rtol=1e-10, atol=0)
        total = total + value
        with torch.no_grad():
            method.update(embedded)
        torch.testing.assert_close(method.log_normalizers.exp(), cast["out_Z_v1_v2"], rtol=1e-10, atol=0)
        torch.testing.assert_close(method.student_bank, cast[f"out_memory_v1_after{number}"])
        torch.testing.assert_close(method.teacher_bank, cast[f"out_memory_v2_after{number}"])
    total.backward()
    torch.testing.assert_close(total, cast["loss"], rtol=1e-10, atol=0)
    for leaf, key in zip(leaves, ("grad_s", "grad_s2"), strict=True):
        torch.testing.assert_close(leaf.grad, cast[key], rtol=1e-9, atol=1e-12)
    for side, name in (("student", "s"), ("teacher", "t")):  # the teacher's projection learns too
        for part in ("weight", "bias"):
            wanted = cast[f"gradparam_embed_{name}.linear.{part}"]
            torch.testing.assert_close(getattr(method.projections[side], part).grad, wanted, rtol=1e-9, atol=1e-11)


def test_negatives_are_of_other_classes_and_all_of_them_come():
    method, index = built(negatives=7), torch.arange(len(LABELS))
    seen = torch.zeros(12, 12)
    for draw in range(300):
        method.draws.fill_(draw)
        seen.scatter_add_(1, method._draw(index), torch.ones(12, 7))
    same = (LABELS[:, None] == LABELS[None, :]) & (LABELS >= 0)[:, None]
    same |= torch.eye(12, dtype=torch.bool)  # a sample without a label is a class by itself
    assert not seen[same].any()
    shares = seen / seen.sum(1, keepdim=True) * (~same).sum(1, keepdim=True)
    assert shares[~same].min() > 0.7
    assert shares[~same].max() < 1.3


def test_draws_are_of_the_step_and_the_sample_alone():
    method = built()
    first = method._draw(torch.tensor([3, 6, 1]))
    assert torch.equal(method._draw(torch.tensor([1, 3])), first[[2, 0]])
    step(method, batch(method, torch.tensor([0, 1])))
    assert method.draws == 1
    assert not torch.equal(method._draw(torch.tensor([3, 6, 1])), first)
    again = built()
    again.load_state_dict(method.state_dict())
    assert torch.equal(again._draw(torch.tensor([3, 6, 1])), method._draw(torch.tensor([3, 6, 1])))


@pytest.mark.parametrize("shared", [False, True])
def test_few_samples_have_few_negatives(shared, caplog):
    with caplog.at_level(logging.INFO, "congruence"):
        method = built(shared_negatives=shared)
    assert method.count == 12 - 5  # class 0 has five
    assert caplog.messages == [
        "CRD: two banks of 12 × 4, 0.0 MiB; 7 negatives a sample (16384 were requested, but only this many are of "
        "other classes)."
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "congruence"):
        built(None, size=100_000, negatives=64, bank_dtype="float16")
    assert caplog.messages == ["CRD: two banks of 100000 × 4, 1.5 MiB; 64 negatives a sample."]


def test_a_single_class_has_no_negatives():
    with pytest.raises(ValueError, match=r"all samples are of one class: there are no negatives\."):
        built(torch.zeros(5, dtype=torch.int64))
    assert built(torch.full((5,), -1)).count == 4


def test_a_shared_set_has_the_same_expectation():
    one = built(negatives=6)
    step(one, batch(one, torch.arange(6)))
    other = built(negatives=6, shared_negatives=True)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.student_bank, one.student_bank)
    signals = batch(one, torch.tensor([0, 1, 6, 2]), seed=5)
    values = []
    for method in (one, other):
        losses = []
        for draw in range(400):
            method.draws.fill_(draw)
            with torch.no_grad():
                losses.append(method.loss(method.embed(signals))["loss"])
        values.append(torch.stack(losses))
    apart = (values[0].mean() - values[1].mean()).abs()
    error = (values[0].var() / 400 + values[1].var() / 400).sqrt()
    assert values[1].std() > 0
    assert apart < 4 * error


def test_a_shared_set_leaves_out_ones_own_class():
    method, signals = built(negatives=6, shared_negatives=True), None
    signals = batch(method, torch.tensor([0, 1, 6]))
    step(method, signals)
    with torch.no_grad():
        embedded = method.embed(signals)
        value = method.loss(embedded)["loss"]
        negatives, index = method._shared(), signals.index
        expected = 0.0
        for row, sample in enumerate(index.tolist()):
            of_others = [k for k in negatives.tolist() if method.classes[k] != method.classes[sample]]
            assert 0 < len(of_others) <= 6
            rows = [embedded.one(side)[[row]] for side in ("student", "teacher")]
            banks = (method.student_bank, method.teacher_bank)
            repeated = [sample, *of_others * 60]  # K/len(of_others) times each, in sixtieths
            for number, (e, bank) in enumerate(zip(rows, banks[::-1], strict=True)):
                x = torch.exp(bank[repeated] @ e[0] / 0.07) / method.log_normalizers[number].exp()
                noise = 6 / 12
                expected -= (x[0] / (x[0] + noise + 1e-7)).log() / 3
                each = -(noise / (x[1:] + noise + 1e-7)).log()
                expected += each.mean() * 6 / 3
    torch.testing.assert_close(value, expected)


def test_z_is_that_of_the_first_batch():
    method = built()
    signals = batch(method, torch.arange(4))
    with torch.no_grad():
        embedded = method.embed(signals)
        index = torch.cat([signals.index[:, None], method._draw(signals.index)], 1)
        rows, banks = (
            [embedded.one(side) for side in ("student", "teacher")],
            (method.student_bank, method.teacher_bank),
        )
        expected = contrastive_representation_loss(*rows, *banks, index)
    torch.testing.assert_close(step(method, signals), expected)
    constants = method.log_normalizers.clone()
    assert constants.isfinite().all()
    with torch.no_grad():
        later = method.embed(batch(method, torch.arange(4, 9), seed=7))
        index = torch.cat([later.index[:, None], method._draw(later.index)], 1)
        rows = [later.one(side) for side in ("student", "teacher")]
        expected = contrastive_representation_loss(*rows, *banks, index, normalizers=constants.exp())
        torch.testing.assert_close(method.loss(later)["loss"], expected)
        method.update(later)
    assert torch.equal(method.log_normalizers, constants)


def test_a_low_temperature_stays_finite_after_the_first_batch():
    method = built(temperature=0.001).float()
    index = torch.arange(6)
    one_batch = batch(method, index)
    rows = [one_batch.one(side).float() for side in ("student", "teacher")]
    values = [step(method, signals(*rows, index)) for _ in range(3)]
    assert torch.isfinite(torch.stack(values)).all()
    assert method.log_normalizers.max() > 89  # whose exponential is no float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_teacher_of_another_type(dtype):
    method = built().float()
    one_batch = batch(method, torch.arange(4))
    rows = [one_batch.one(side) for side in ("student", "teacher")]
    value = step(method, signals(rows[0].float(), rows[1].to(dtype), torch.arange(4)))
    torch.testing.assert_close(
        value, step(built().float(), signals(rows[0].float(), rows[1].to(dtype).float(), torch.arange(4)))
    )


@pytest.mark.parametrize(
    ("index", "got"),
    [
        (torch.arange(3), "torch.int64 [3]"),
        (torch.arange(4.0), "torch.float32 [4]"),
        (torch.arange(4)[:, None], "torch.int64 [4, 1]"),
    ],
)
def test_an_index_that_is_not_one_of_the_batch(index, got):
    method = built()
    one_batch = batch(method, torch.arange(4))
    rows = [one_batch.one(side) for side in ("student", "teacher")]
    with pytest.raises(ValueError, match=re.escape(f"`index` must be int64 [4], got {got}.")):
        step(method, signals(*rows, index))


def test_a_sample_twice_in_a_batch_counts_once():
    method = built()
    before = method.student_bank.clone()
    signals = batch(method, torch.tensor([2, 5, 2]))
    step(method, signals)
    with torch.no_grad():
        rows = method.embed(signals).one("student")
    wanted = F.normalize(0.5 * before[2] + 0.5 * (rows[0] + rows[2]) / 2, dim=0)
    torch.testing.assert_close(method.student_bank[2], wanted)
    torch.testing.assert_close(method.student_bank[5], F.normalize(0.5 * before[5] + 0.5 * rows[1], dim=0))
    untouched = [0, 1, 3, 4, *range(6, 12)]
    assert torch.equal(method.student_bank[untouched], before[untouched])


def test_banks_in_half_precision():
    for dtype in (torch.float16, torch.bfloat16):
        method, plain = built(bank_dtype=str(dtype).removeprefix("torch.")), built()
        assert method.student_bank.dtype == method.teacher_bank.dtype == dtype
        assert method.float().student_bank.dtype == dtype
        method.double()
        for seed in (1, 4):
            signals = batch(method, torch.arange(5), seed=seed)
            torch.testing.assert_close(step(method, signals), step(plain, signals), rtol=0.02, atol=0)
        torch.testing.assert_close(method.student_bank.double(), plain.student_bank, rtol=0, atol=0.02)
        assert method.half().log_normalizers.dtype == torch.float32


def test_in_evaluation_the_positive_is_the_sample_itself():
    method = built(negatives=6)
    step(method, batch(method, torch.arange(6)))
    method.eval()
    far = torch.tensor([0, 100, 5000])  # positions in other data
    for shared in (False, True):
        method.shared_negatives = shared
        rows = F.normalize(torch.randn(3, 4, generator=seeded(3)).double())
        with torch.no_grad():
            near = method.loss(signals(rows, rows, far))["loss"]
            apart = method.loss(signals(rows, -rows, far))["loss"]
        assert near < apart


def test_through_a_distiller():
    torch.manual_seed(1)
    student, teacher = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 3))
    term = cg.Term("crd", embedding_dim=4, negatives=3)
    assert term.weight == 0.8
    facts = DataFacts(12, 3, LABELS)
    made = cg.Distiller(teacher, student, [term], example=torch.ones(2, 6), facts=facts)
    assert len(made.student_state_dict()) == 4
    trained = {id(p) for group in made.parameter_groups() for p in group["params"]}
    assert {id(p) for p in made.methods["crd"].projections.parameters()} < trained
    out = made(torch.randn(4, 6), index=torch.arange(4))
    out.loss.backward()
    assert student[0].weight.grad.any()
    saved = {name.removeprefix("methods.crd.") for name in made.state_dict() if "methods.crd" in name}
    assert {"student_bank", "teacher_bank", "log_normalizers", "draws"} < saved
    sentence = "`ContrastiveRepresentation`: `index` must be positions in data of 12, got 12."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        made(torch.randn(2, 6), index=torch.tensor([3, 12]))
    with pytest.raises(ValueError, match=r"The term 'crd' needs facts of the dataset"):
        cg.Distiller(teacher, student, [cg.Term("crd")], example=torch.ones(2, 6))
    layers = cg.Term("crd", student_layer=["0", "input:1"])
    with pytest.raises(ValueError, match=r"needs one layer on each side, got 2 of the student\."):
        cg.Distiller(teacher, student, [layers], example=torch.ones(2, 6), facts=facts)


def test_hyperparameters_out_of_range():
    for name, constraint in CHECKS.items():
        for bad in constraint.invalid():
            sentence = f"`ContrastiveRepresentation`: `{name}` must be {constraint.describe()}, got {bad!r}."
            with pytest.raises(ValueError, match=re.escape(sentence)):
                ContrastiveRepresentation(**{name: bad})

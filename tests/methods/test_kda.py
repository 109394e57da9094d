"""Kernel transfer through the distiller and through `fit`: when its landmarks count, and that they survive anything."""

import copy

import pytest
import torch
from _harness.kernels import BATCH, CLASSES, KINDS, SIZE, STEPS, data, distiller, kda, on_a_rank, run
from _harness.runs import on_ranks
from torch import nn

import congruence as cg
from congruence.data import DataFacts, loader
from congruence.losses import kernel_transfer_loss
from congruence.methods.kda import CHECKS, KernelTransfer
from congruence.metrics import kernel_transfer_error


def features(model, points):
    return model[1](model[0](points))


def epoch(made, number):
    """One epoch without training; returns the terms of each batch."""
    made.begin_epoch(number)
    losses = []
    for points, labels, index in loader(data(), batch_size=BATCH, seed=3).batches(number):
        losses.append(made(points, labels, index).terms["kda"])
    made.end_epoch()
    return torch.stack(losses)


def test_the_loss_is_that_of_the_last_epochs_centres():
    made = distiller(kda(transfer="features"))
    points, labels = data().tensors
    assert not epoch(made, 0).any()
    centres = []
    for model in (made.student, made.teacher.module):
        rows = features(model, points).detach()
        centres.append(torch.stack([rows[labels == c].mean(0) for c in range(CLASSES)]))
    made.begin_epoch(1)
    value = made(points[:9], labels[:9]).terms["kda"]
    rows = [features(model, points[:9]) for model in (made.student, made.teacher.module)]
    torch.testing.assert_close(value, kernel_transfer_loss(*rows, *centres))


def test_rows_have_length_1_by_default():
    unit, raw = (cg.Term("kda", name=str(normalize), warmup=1, normalize=normalize) for normalize in (True, False))
    made = distiller(cg.Term("kda", warmup=1), unit, raw)
    points, labels = data().tensors
    epoch(made, 0)
    made.begin_epoch(1)
    losses = made(points[:9], labels[:9]).terms
    assert losses["kda"] == losses["True"] != losses["False"]


@pytest.mark.parametrize(("warmup", "zeros"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_warmup_follows_the_rows_without_the_loss(warmup, zeros):
    made = distiller(kda(warmup=warmup))
    losses = torch.stack([epoch(made, number).sum() for number in range(4)])
    assert (losses == 0).tolist() == [number < zeros for number in range(4)]
    assert made.methods["kda"].banks[0].filled.all()


def test_a_warmup_gives_no_gradient_but_a_graph():
    made = distiller(kda(warmup=5))
    made.begin_epoch(0)
    made(*data().tensors).loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in made.student.parameters())


def test_one_hot_landmarks_match_logits():
    made = distiller(kda("onehot", scale="mean", warmup=0))
    points, labels = data().tensors
    expected = nn.functional.smooth_l1_loss(made.student(points), made.teacher.module(points))
    torch.testing.assert_close(made(points, labels).terms["kda"], expected)


def test_combo_is_the_sum_of_both_layers():
    made = distiller(
        kda(),
        cg.Term("kda", name="before", normalize=False, warmup=1),
        cg.Term("kda", name="after", normalize=False, warmup=1, transfer="logits"),
        cg.Term("kda", name="layers", normalize=False, warmup=1, student_layer=["1", "2"], teacher_layer=["1", "2"]),
    )
    epoch(made, 0)
    made.begin_epoch(1)
    terms = made(*data().tensors).terms
    assert terms["kda"] > 0
    torch.testing.assert_close(terms["kda"], terms["before"] + terms["after"])
    torch.testing.assert_close(terms["kda"], terms["layers"])


def test_earlier_stages_are_pooled_first():
    images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    teacher, student = (
        nn.Sequential(nn.Conv2d(1, w, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, CLASSES))
        for w in (6, 4)
    )
    labels = torch.arange(8) % CLASSES
    term = kda(transfer="features")
    term.student_layer = term.teacher_layer = "1"
    made = cg.Distiller(teacher, student, [term], example=images[:2], facts=DataFacts(8, CLASSES, labels))
    for number in (0, 1):
        made.begin_epoch(number)
        value = made(images, labels).terms["kda"]
        made.end_epoch()
    bank = made.methods["kda"].banks[0]
    pooled = student[1](student[0](images)).mean((2, 3))
    torch.testing.assert_close(bank.student[0], pooled[labels == 0].mean(0))
    assert value > 0


def test_random_landmarks_are_always_the_same_samples():
    made = distiller(kda("random", normalize=False))
    epoch(made, 0)
    method = made.methods["kda"]
    chosen = method.chosen
    assert len(chosen.unique()) == 7
    torch.testing.assert_close(method.banks[0].student, features(made.student, data().tensors[0][chosen]).detach())
    assert torch.equal(distiller(kda("random")).methods["kda"].chosen, chosen)
    assert not torch.equal(distiller(kda("random", seed=1)).methods["kda"].chosen, chosen)


def test_clusters_and_one_hot_need_no_labels():
    assert not kda("clusters").needs.labels
    made = distiller(kda("clusters"), facts=None)
    points = data().tensors[0]
    for number in range(3):
        made.begin_epoch(number)
        value = made(points).terms["kda"]
        made.end_epoch()
    assert value > 0
    assert made.methods["kda"].banks[0].filled.all()


def test_a_mean_is_over_the_classes_that_are_there():
    terms = []
    for classes in (CLASSES, CLASSES + 5):
        made = distiller(kda(), facts=DataFacts(SIZE, classes, data().tensors[1]))
        epoch(made, 0)
        terms.append(epoch(made, 1))
    torch.testing.assert_close(*terms)


def test_validation_leaves_the_bank_alone():
    made = distiller(kda())
    epoch(made, 0)
    before = copy.deepcopy(made.methods.state_dict())
    made.begin_epoch(1)
    made.score(made.capture(*data().tensors), update=False)
    assert all(torch.equal(value, before[name]) for name, value in made.methods.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_within_an_epoch_ends_in_the_same_bits(kind, tmp_path):
    terms = ["ce", kda(kind)]
    whole, expected = run(terms, tmp_path / "whole")

    class Dead(Exception):
        """The run ends here."""

    def die(event):
        if event.kind == "step" and event.step == STEPS + 4:  # the running sums of the second epoch are half there
            raise Dead

    with pytest.raises(Dead):
        run(terms, tmp_path / "stopped", callbacks=(die,))
    resumed, result = run(terms, tmp_path / "stopped", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert expected.history == result.history


def test_two_ranks_train_as_one_with_equal_banks(tmp_path):
    on_ranks(on_a_rank, tmp_path)
    for kind in KINDS:
        first, second = (torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True)["state"] for rank in (0, 1))
        alone = run(["ce", kda(kind)], optimizer=cg.OptimizerOptions(lr=0.01))[0].state_dict()
        for name, value in first.items():
            assert torch.equal(value, second[name]), (kind, name)
            torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_training_lowers_the_kernel_transfer_error():
    points = data().tensors[0]
    made = distiller(kda(transfer="features", warmup=1))

    def error():
        rows = [features(model, points).detach() for model in (made.student, made.teacher.module)]
        return kernel_transfer_error(*rows)

    before = error()
    options = cg.FitOptions(epochs=30, device="cpu", optimizer=cg.OptimizerOptions(lr=0.1, weight_decay=0.0))
    cg.fit(made, loader(data(), batch_size=BATCH, seed=3), None, options)
    assert error() < 0.5 * before


@pytest.mark.parametrize("name", CHECKS)
def test_errors_of_hyperparameters(name):
    for bad in CHECKS[name].invalid():
        with pytest.raises(ValueError) as caught:
            KernelTransfer(**{name: bad})
        assert str(caught.value) == f"`KernelTransfer`: `{name}` must be {CHECKS[name].describe()}, got {bad!r}."


@pytest.mark.parametrize(
    ("hyperparameters", "sentence"),
    [
        ({"landmarks": "onehot", "per_class": 2}, "`per_class` must be 1 for landmarks other than 'centres', got 2."),
        ({"count": 3}, "`count` must be None for the landmarks 'centres', got 3."),
    ],
)
def test_hyperparameters_without_meaning_are_refused(hyperparameters, sentence):
    with pytest.raises(ValueError) as caught:
        KernelTransfer(**hyperparameters)
    assert str(caught.value) == f"`KernelTransfer`: {sentence}"


@pytest.mark.parametrize(
    ("term", "arguments", "part"),
    [
        (kda(), {"facts": None}, "needs facts of the dataset"),
        (kda(), {"facts": DataFacts(SIZE)}, "the dataset does not say how many classes it has."),
        (kda("clusters", count=None), {"facts": DataFacts(SIZE)}, "how many classes it has. Give `count`."),
        (kda("random", count=99), {}, "`count` must be at most the number of samples (48), got 99."),
        (
            kda("onehot", transfer="features"),
            {},
            "of equal width on both sides, such as logits, got 5 of the student and 7",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(term, arguments, part):
    with pytest.raises(ValueError) as caught:
        distiller(term, **arguments)
    assert part in str(caught.value)


def test_numbers_of_layers_must_be_equal():
    term = cg.Term("kda", student_layer=["0", "1"])
    with pytest.raises(ValueError, match="got 2 of the student and 1 of the teacher"):
        distiller(term)


def test_a_loop_must_tell_epochs_and_labels_must_fit():
    points, labels = data().tensors
    with pytest.raises(ValueError, match="works by epochs"):
        distiller(kda())(points, labels)
    made = distiller(kda())
    made.begin_epoch(0)
    with pytest.raises(ValueError, match=r"`labels` must be class labels in \[0, 3\) or negative"):
        made(points, labels + 3)

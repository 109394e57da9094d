"""The intra-class teacher: its queue gives the loss and the gradients of a batch that was there at once."""

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.losses import intra_class_contrastive_loss
from congruence.methods.intra_class import IntraClass
from congruence.testing import Case, check_row, check_rows_on_two_ranks

CLASSES, SURE = 2, -0.99


def made(norm=nn.Identity, **hyperparameters):
    """A small teacher-to-be in float64, whose only term is the contrast."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 5), norm(5), nn.Tanh(), nn.Linear(5, CLASSES))
    settings = {"margin_threshold": SURE, "pipeline_size": 4, **hyperparameters}
    term = cg.Term("intra_class", weight=1.0, name="intra", **settings)
    return cg.Distiller(None, student, [term], example=torch.zeros(2, 4)).double()


def batch(rows, seed=0):
    points = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points, points + 0.1, torch.arange(rows) % CLASSES


def step(distiller, points, augmented, labels):
    return distiller(augmented, labels, views={"clean": points})


def direct(distiller, points, augmented, labels, threshold=SURE):
    """The loss over samples that are there at once."""
    body, head = distiller.student[:3], distiller.student[3]
    plain = body(points)
    return intra_class_contrastive_loss(plain, body(augmented), head(plain), labels, margin_threshold=threshold)


def test_the_queue_gives_the_loss_of_its_samples_at_once():
    distiller = made()
    points, augmented, labels = batch(8)
    for start in (0, 3):  # of class 0 two and two, of class 1 one and one
        out = step(distiller, points[start : start + 3], augmented[start : start + 3], labels[[0, 1, 0]])
        assert out.loss.item() == 0.0
        out.loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in distiller.parameters())
    out = step(distiller, points[6:], augmented[6:], torch.tensor([1, -1]))
    chosen = [0, 2, 3, 5]
    expected = direct(distiller, points[chosen], augmented[chosen], torch.zeros(4).long())
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert out.loss.item() > 0
    parameters = list(distiller.student[0].parameters())
    for ours, theirs in zip(
        torch.autograd.grad(out.loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    assert distiller.methods["intra"].pipeline.labels.tolist() == [1, 1, 1]  # class 0 is empty, the unlabelled is out


@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm1d])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_through_the_queue_are_finite_differences(norm, normalize):
    distiller = made(norm, normalize=normalize)
    points, augmented, labels = batch(8)
    step(distiller, points, augmented, labels)
    captured = distiller.capture(augmented, labels, views={"clean": points})

    def value():
        return distiller.score(captured, update=False).loss

    value().backward()
    assert len(distiller.methods["intra"].pipeline.labels) == 8
    for parameter in distiller.student[0].parameters():
        assert parameter.grad.abs().max() > 1e-4
        for position in range(parameter.numel()):
            sides = []
            for move in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[position] += move
                sides.append(value().item())
                with torch.no_grad():
                    parameter.view(-1)[position] -= move
            slope = (sides[0] - sides[1]) / 2e-6
            assert parameter.grad.view(-1)[position].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_only_the_sure_wait():
    distiller = made(margin_threshold=0.0)
    points, augmented, labels = batch(8)
    step(distiller, points, augmented, labels)
    with torch.no_grad():
        right = distiller.student(points).argmax(1) == labels
    assert 0 < int(right.sum()) < 8
    pipeline = distiller.methods["intra"].pipeline
    assert torch.equal(pipeline.clean_0, points[right])
    assert torch.equal(pipeline.main_0, augmented[right])


def test_one_that_is_no_longer_sure_is_a_negative_only():
    distiller = made(margin_threshold=0.0, pipeline_size=3)
    points, augmented, labels = batch(8)
    with torch.no_grad():
        labels = distiller.student(points).argmax(1)
    step(distiller, points, augmented, labels)
    with torch.no_grad():
        distiller.student[3].weight.mul_(-1)
        distiller.student[3].bias.mul_(-1)
    assert step(distiller, points, augmented, labels).loss.item() == 0.0


@pytest.mark.parametrize("reduction", ["gated_mean", "mean"])
def test_without_a_queue_or_in_evaluation_it_is_the_loss_of_the_batch(reduction):
    points, augmented, labels = batch(8)
    plain, queue = made(pipeline_size=None, reduction=reduction), made(reduction=reduction).eval()
    assert plain.needs()["intra"].inputs is False
    assert "methods.intra.pipeline.labels" not in plain.state_dict()
    expected = direct(plain, points, augmented, labels).item()
    for distiller in (plain, queue):
        assert step(distiller, points, augmented, labels).loss.item() == pytest.approx(expected, rel=1e-12)
    assert len(queue.methods["intra"].pipeline.labels) == 0


def test_its_contrast_may_be_between_the_logits():
    """The paper's algorithm 1 has softmax(f): f is then what comes out of the last Linear, as it is."""
    settings = {"margin_threshold": SURE, "pipeline_size": None, "normalize": False}
    points, augmented, labels = batch(8)
    for layer in ("output", {"features": "output"}):
        student = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        term = cg.Term("intra_class", weight=1.0, student_layer=layer, **settings)
        made = cg.Distiller(None, student, [term], example=torch.zeros(2, 4)).double()
        logits = made.student(points)
        expected = intra_class_contrastive_loss(
            logits, made.student(augmented), logits, labels, margin_threshold=SURE, normalize=False
        )
        assert step(made, points, augmented, labels).loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_mean_over_a_full_queue_counts_those_that_have_fallen_below():
    """Two of the three that waited are no longer above the threshold when the loss is computed."""
    made = [IntraClass(pipeline_size=3, **given) for given in ({}, {"reduction": "gated_mean"})]
    assert [method.criterion.reduction for method in made] == ["mean", "gated_mean"]
    anchor, positive = (torch.randn(3, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    whole, gated = (method.criterion(anchor, positive, logits, torch.zeros(3).long()) for method in made)
    assert whole.item() == pytest.approx(gated.item() / 3)


def test_views_may_have_other_names():
    distiller = made(views=["main", "strong"], pipeline_size=None)
    points, augmented, labels = batch(6)
    out = distiller(points, labels, views={"strong": augmented})
    assert out.loss.item() == pytest.approx(direct(distiller, points, augmented, labels).item(), rel=1e-12)


def test_a_missing_view_or_label_is_told():
    points, augmented, labels = batch(6)
    with pytest.raises(ValueError, match="'intra' needs the views clean, main, the batch has main"):
        made()(augmented, labels)
    with pytest.raises(ValueError, match="'intra' needs labels"):
        made()(augmented, views={"clean": points})


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"margin_threshold": 1.5}, "`margin_threshold` must be a number >= -1 and <= 1, got 1.5."),
        ({"pipeline_size": 1}, "`pipeline_size` must be an integer >= 2 or None, got 1."),
        ({"views": "clean"}, "`views` must be the names of two views, the plain one first, got 'clean'."),
        ({"views": ("main", "main")}, "`views` must be the names of two views"),
    ],
)
def test_hyperparameters_are_checked(argument, sentence):
    with pytest.raises(ValueError) as error:
        IntraClass(**argument)
    assert str(error.value).startswith(f"`IntraClass`: {sentence}")


def test_two_layers_are_told():
    student = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    with pytest.raises(ValueError, match="`IntraClass` reads one layer of features, got 2"):
        cg.Distiller(None, student, [cg.Term("intra_class", student_layer=["0", "1"])], example=torch.zeros(2, 4))


def test_the_loss_of_the_batch_keeps_the_contract_too():
    case = Case("intra_class", {"margin_threshold": SURE, "pipeline_size": None})
    check_row(case)
    check_rows_on_two_ranks(case)
    assert case.entry.weight == 0.02

"""A batch of one sample is met before the first step, not at the end of the first epoch."""

import logging

import pytest
import torch
from _harness.fits import constant, data, distiller, same_state
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import congruence as cg


def points(size):
    return TensorDataset(*data(size)[:])


def run(loader, *terms, student=None, example=True, **options):
    if student is None:
        made = distiller(*terms)
    else:
        made = cg.Distiller(nn.Linear(6, 3), student, list(terms), example=data().tensors[0][:4])
    steps = []
    try:
        cg.fit(made, loader, None, constant(epochs=1, callbacks=(steps.append,), **options))
    except ValueError as error:
        return str(error), [event for event in steps if event.kind == "step"]
    return "", made


TORCH = "Expected more than 1 value per channel when training, got input size torch.Size([1, 5])"
LAST = (
    "`fit`: the smallest batch of an epoch (its last?) of `train_loader` has 1 sample, which cannot be trained on "
    f"({TORCH}): give another batch size, or drop_last=True."
)


@pytest.mark.parametrize(
    "loader",
    [
        lambda: cg.data.loader(points(17), batch_size=8),
        lambda: DataLoader(points(17), batch_size=8, shuffle=True),
        lambda: DataLoader(points(17), batch_sampler=[list(range(8)), [8], list(range(9, 17))]),
        lambda: [data(8)[:], data(1)[:]],
    ],
)
def test_a_last_batch_of_one_is_found_before_the_first_step(loader):
    assert run(loader()) == (LAST, [])


@pytest.mark.parametrize(
    "loader",
    [
        lambda: cg.data.loader(points(17), batch_size=8, drop_last=True),
        lambda: cg.data.loader(points(18), batch_size=8),
        lambda: DataLoader(points(17), batch_size=8, drop_last=True),
        lambda: [data(8)[:], data(3)[:]],
    ],
)
def test_others_run(loader):
    assert run(loader())[0] == ""


def test_batches_of_one_and_maps_of_one_pixel():
    assert run(cg.data.loader(points(4), batch_size=1))[0] == (
        f"`fit`: a batch of `train_loader` has 1 sample, which cannot be trained on ({TORCH}): give a larger batch "
        "size."
    )
    maps = nn.Sequential(
        nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3)
    )
    sentence, steps = run(cg.data.loader(points(17), batch_size=8), "kd", student=maps)
    assert "has 1 sample, which cannot be trained on (Expected more than 1 value" in sentence
    assert not steps


def test_a_micro_batch_of_one():
    sentence, steps = run(cg.data.loader(points(15), batch_size=5), micro_batch=2)
    assert sentence == (
        "`fit`: micro_batch=2 cuts a batch of 5 samples into parts of which one has 1 sample, which cannot be trained "
        f"on ({TORCH}): give another `micro_batch`."
    )
    assert not steps
    assert run(cg.data.loader(points(15), batch_size=5), micro_batch=3)[0] == ""


class Picky(cg.Method):
    """A relational term that needs two rows."""

    needs = cg.Needs(roles=("logits",))

    def loss(self, signals):
        return {"loss": signals.one("student", "logits").std(0).sum()}


@pytest.mark.filterwarnings("ignore:std")
def test_a_term_whose_loss_of_one_row_is_not_finite():
    sentence, _ = run(cg.data.loader(points(17), batch_size=8), cg.Term(Picky(), name="picky"), student=nn.Linear(6, 3))
    assert "has 1 sample, which cannot be trained on (the loss is not finite)" in sentence


def test_relational_terms_of_one_row_are_told(caplog):
    with caplog.at_level(logging.WARNING, "congruence"):
        sentence, _ = run(cg.data.loader(points(17), batch_size=8), "kd", "pkt", student=nn.Linear(6, 3))
    assert not sentence
    assert caplog.messages[0] == (
        "The smallest batch of an epoch has 1 sample, in which the terms pkt can compare nothing: drop_last=True "
        "leaves it out."
    )
    sentence, _ = run(cg.data.loader(points(4), batch_size=1), "kd", "pkt", student=nn.Linear(6, 3))
    assert sentence == (
        "`fit`: the terms pkt compare the samples of a batch, and each batch of `train_loader` has 1: give a larger "
        "batch size."
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_the_trial_changes_nothing(frozen, monkeypatch):
    def trained(steps):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.4), nn.BatchNorm1d(5), nn.Linear(5, 3))
        if frozen:
            student[2].eval()
        made = cg.Distiller(nn.Linear(6, 3), student, ["kd", "mimic"], example=data().tensors[0][:4])
        loader = cg.data.loader(points(17), batch_size=8, shuffle=False)
        if steps:
            cg.fit(made, loader, None, constant(epochs=1, max_steps=steps))
        return made, loader

    if frozen:  # one sample can be trained on
        made = trained(2)[0]
        assert not made.student[2].training
        monkeypatch.setattr("congruence.training.setup.rehearse_smallest", lambda *_: None)
        same_state(trained(2)[0], made)
    else:
        made, loader = trained(0)
        modes = [part.training for part in made.modules()]
        with pytest.raises(ValueError, match="has 1 sample"):
            cg.fit(made, loader, None, constant(epochs=1))
        assert modes == [part.training for part in made.modules()]
        same_state(trained(0)[0], made)


class Frozen(nn.Module):
    """Freezes its batch norm by a `train` of its own, which any loop calls."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, inputs):
        return self.head(self.norm(self.layer(inputs)))


def test_a_train_of_ones_own_is_asked():
    student = Frozen()
    assert run(cg.data.loader(points(17), batch_size=8), "ce", student=student)[0] == ""
    assert student.training
    assert not student.norm.training
    assert int(student.norm.num_batches_tracked) == 0


def test_what_its_owner_froze_stays_frozen_beside_a_train_of_ones_own():
    student = nn.Sequential(Frozen(), nn.Dropout(0.5)).eval()
    student.train()
    student[1].eval()
    assert run(cg.data.loader(points(16), batch_size=8), "kd", student=student)[0] == ""
    assert not student[1].training

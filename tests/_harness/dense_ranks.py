"""Dense batches that two ranks share unequally, for `tests/distiller/test_dense.py`."""

from __future__ import annotations

import torch
from torch import nn

from congruence import Distiller, Term
from congruence.core.ranks import mean_over_ranks
from congruence.core.traffic import counting

CLASSES = 4


class Masked(nn.Module):
    """A convolution that gives each pixel its class, of inputs that say which pixels count."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, CLASSES, 1)).double()

    def forward(self, x, valid):
        return self.body(x)


def batch():
    """Four images: one of them counts nowhere, two of them almost everywhere."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 1, 5, 5, generator=generator, dtype=torch.float64)
    valid = torch.rand(4, 5, 5, generator=generator) > torch.tensor([0.1, 0.2, 0.8, 1.0])[:, None, None]
    labels = torch.randint(-1, CLASSES, (4, 5, 5), generator=generator)
    return {"x": x, "valid": valid}, labels


def gradients(key, rows, **settings):
    """Return the gradient of one term over some rows of the batch."""
    student = Masked(1)
    x, labels = batch()
    distiller = Distiller(Masked(2), student, [Term(key, weight=1.0, mask="valid", **settings)], example=x)
    out = distiller({name: value[rows] for name, value in x.items()}, labels[rows])
    out.loss.backward()
    return out.loss.detach(), [p.grad for p in student.parameters()]


CASES = (
    ("kd", {}),
    ("ce", {}),
    ("ce", {"class_weights": [0.5, 2.0, 1.0, 0.25], "label_smoothing": 0.1}),
    ("dist", {}),
)


# Of plain logits: the rank of the last two rows has one label, or none.
LABELS = (torch.tensor([0, 3, 1, -1]), torch.tensor([2, 2, -1, -1]), torch.tensor([[0, 1, 1, -1]] * 3 + [[-1] * 4]))


def plain_gradients(labels, rows):
    """Return the gradient of labels' own loss over some rows of four samples, and the exchanges of a step."""
    torch.manual_seed(1)
    student, x = nn.Linear(5, CLASSES).double(), torch.randn(4, 5, dtype=torch.float64)
    settings = {"class_weights": [0.5, 2.0, 1.0, 0.25]} if labels.dim() == 1 else {}
    key = "ce" if labels.dim() == 1 else "bce"
    distiller = Distiller(None, student, [Term(key, weight=1.0, **settings)], example=x)
    with counting() as traffic:
        distiller(x[rows], labels[rows]).loss.backward()
    return [p.grad for p in student.parameters()], dict(traffic.calls)


def on_a_rank(rank, folder):
    """Leave the mean over the ranks of each case's gradient, of halves (and with a rank where nothing counts)."""
    plain = []
    for labels in LABELS:
        of_rank, calls = plain_gradients(labels, slice(2 * rank, 2 * rank + 2))
        plain.append(([mean_over_ranks(each) for each in of_rank], calls))
    torch.save(plain, folder / f"plain-{rank}.pt")
    found = []
    for halves in ((slice(0, 2), slice(2, 4)), (slice(0, 3), slice(3, 4))):
        for key, settings in CASES:
            loss, of_rank = gradients(key, halves[rank], **settings)
            found.append((mean_over_ranks(loss), [mean_over_ranks(each) for each in of_rank]))
    torch.save(found, folder / f"dense-{rank}.pt")

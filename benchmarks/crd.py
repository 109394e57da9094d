"""CRD's scores from one shared set of negatives, and its whole step, beside the gathered rows of the common ports.

python benchmarks/crd.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from interleaved import medians
from record import figure, write
from torch import Tensor, nn

from congruence.data.datasets.facts import DataFacts
from congruence.losses.crd import bank_scores
from congruence.methods import Probe, Signals
from congruence.methods.crd import ContrastiveRepresentation

BATCH, WIDTH, NEGATIVES, SAMPLES, CLASSES, FEATURES = 64, 128, 16384, 50_000, 100, 256
TEMPERATURE, MOMENTUM = 0.07, 0.5
DEFINITION = (
    "ours / usual, medians of interleaved calls, processor seconds of one thread; scores: products of one network's "
    "embeddings with rows of a bank, forward and backward; step: projections, draws, both networks' loss, backward, "
    "update of the banks; usual: B·(1 + K) rows gathered, their negatives drawn from all samples"
)
SCORES = "scores, shared negatives"
BARS = {SCORES: 0.2}
Call = Callable[[], object]


def gathered(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """The form of the common ports: a row of the bank for each sample and negative."""
    picked = bank.index_select(0, index.flatten()).view(*index.shape, -1)
    return torch.bmm(picked, rows[:, :, None]).squeeze(2)


class Usual(nn.Module):
    """The step of the common ports, with the loss as it is written in the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(FEATURES, WIDTH) for _ in range(2))
        self.banks = [F.normalize(torch.randn(SAMPLES, WIDTH), dim=1) for _ in range(2)]
        self.constants: list[float] = []

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        pair = zip(self.projections, (student, teacher), strict=True)
        embedded = [F.normalize(project(rows), dim=1) for project, rows in pair]
        chosen = torch.cat([index[:, None], torch.randint(SAMPLES, (len(index), NEGATIVES))], 1)
        noise, loss = NEGATIVES / SAMPLES, torch.zeros(())
        for side, rows in enumerate(embedded):
            scores = (gathered(rows, self.banks[1 - side], chosen) / TEMPERATURE).exp()
            if len(self.constants) <= side:
                self.constants.append(scores.mean().item() * SAMPLES)
            x = scores / self.constants[side]
            near, far = x[:, 0] / (x[:, 0] + noise + 1e-7), noise / (x[:, 1:] + noise + 1e-7)
            loss = loss - (near.log().sum() + far.log().sum()) / len(index)
        with torch.no_grad():
            for bank, rows in zip(self.banks, embedded, strict=True):
                bank[index] = F.normalize(MOMENTUM * bank[index] + (1 - MOMENTUM) * rows, dim=1)
        return loss


def ours(shared: bool) -> ContrastiveRepresentation:
    method = ContrastiveRepresentation(negatives=NEGATIVES, shared_negatives=shared, embedding_dim=WIDTH)
    shapes = {(side, "features"): (torch.Size([BATCH, FEATURES]),) for side in ("student", "teacher")}
    facts = DataFacts(SAMPLES, CLASSES, torch.arange(SAMPLES) % CLASSES)
    method.build(Probe(shapes, {}, {}, ("student",), facts))
    return method


def stepped(method: ContrastiveRepresentation, student: Tensor, teacher: Tensor, index: Tensor) -> None:
    roles = {("student", "main", "features"): (student,), ("teacher", "main", "features"): (teacher,)}
    embedded = method.embed(Signals(roles, ("student",), index=index))
    method.loss(embedded)["loss"].backward()
    with torch.no_grad():
        method.update(embedded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(BATCH, WIDTH), dim=1).requires_grad_()
    bank = F.normalize(torch.randn(SAMPLES, WIDTH), dim=1)
    index, negatives = torch.arange(BATCH), torch.randint(SAMPLES, (BATCH, NEGATIVES))
    own, cotangents = torch.cat([index[:, None], negatives], 1), torch.ones(BATCH, 1 + NEGATIVES)

    def shared() -> Tensor:
        near = (bank[index] * rows).sum(1, keepdim=True)
        return torch.cat([near, rows @ bank[negatives[0]].T], 1)

    forms: dict[str, Callable[[], Tensor]] = {
        "shared": shared,
        "own": lambda: bank_scores(rows, bank, own),
        "usual": lambda: gathered(rows, bank, own),
    }
    scores = medians({name: lambda form=form: form().backward(cotangents) for name, form in forms.items()}, rounds)
    student, teacher = torch.randn(BATCH, FEATURES, requires_grad=True), torch.randn(BATCH, FEATURES)
    methods, usual = {"shared": ours(True), "own": ours(False)}, Usual()
    calls: dict[str, Call] = {
        name: lambda method=method: stepped(method, student, teacher, index) for name, method in methods.items()
    }
    steps = medians({**calls, "usual": lambda: usual(student, teacher, index).backward()}, rounds)
    figures = [
        figure(
            f"{of}, {name} negatives",
            times[name] / times["usual"],
            BARS.get(f"{of}, {name} negatives"),
            milliseconds=round(1e3 * times[name], 2),
            usual_milliseconds=round(1e3 * times["usual"], 1),
        )
        for of, times in (("scores", scores), ("step", steps))
        for name in ("shared", "own")
    ]
    sizes = {"batch": BATCH, "width": WIDTH, "negatives": NEGATIVES, "samples": SAMPLES}
    write("crd", DEFINITION, figures, **sizes, rounds=rounds)


if __name__ == "__main__":
    main()

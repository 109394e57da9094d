"""Four throw-away methods that stand for the hardest ones: they prove the interface before methods rest on it."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from congruence import Method, Needs, Term


class Bank(Method):
    """A memory of teacher rows by sample index, as CRD's."""

    needs = Needs(roles=("features",), index=True, facts=True)

    def build(self, probe):
        self.projection = nn.Linear(probe.width("student"), probe.width("teacher"))
        self.register_buffer("bank", torch.zeros(probe.known_facts().size, probe.width("teacher")))

    def embed(self, signals):
        return signals.replace({("student", "main", "features"): (self.projection(signals.one("student")),)})

    def loss(self, signals):
        wanted = 0.5 * (self.bank[signals.index] + signals.one("teacher"))
        similarity = signals.one("student") @ self.bank.T / self.bank.shape[1]
        return {"near": (signals.one("student") - wanted).square().mean(), "far": similarity.square().mean()}

    def update(self, signals):
        self.bank[signals.index] = 0.5 * self.bank[signals.index] + 0.5 * signals.one("teacher")


class Queue(Method):
    """Two views, and a queue whose inputs are run again with gradient, as the intra-class teacher's."""

    needs = Needs(roles=("features",), views=("main", "strong"), teacher=False, inputs=True)

    def __init__(self, *, size=24):
        super().__init__()
        self.size = size
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.queued = nn.Module()

    def build(self, probe):
        for view in self.needs.views:
            self.register_buffer(view, torch.zeros(self.size, 6))

    def loss(self, signals):
        plain, strong = signals.one("student"), signals.one("student", view="strong")
        value = (plain - strong).square().mean()
        if self.count == self.size:
            again = signals.rerun({"main": self.main, "strong": self.strong})
            value = value + (again.one("student") * again.one("student", view="strong")).mean()
        return {"loss": value}

    def update(self, signals):
        if self.count == self.size:
            self.count.zero_()
        rows = min(self.size - int(self.count), len(signals.inputs["main"]))
        for view in self.needs.views:
            getattr(self, view)[self.count : self.count + rows] = signals.inputs[view][:rows]
        self.count += rows


class Mutual(Method):
    """Two students and no teacher, as DML."""

    needs = Needs(roles=("logits",), teacher=False, students="all", scope="sample")

    def loss(self, signals):
        first, second = (signals.one(name, "logits") for name in signals.students)
        return {
            "first": F.mse_loss(first, second.detach()),
            "second": F.mse_loss(second, first.detach()),
        }


class MinMax(Method):
    """A discriminator that learns to tell, while the student learns to deceive it, in one backward."""

    needs = Needs(roles=("features",), epochs=True)

    def build(self, probe):
        self.discriminator = nn.Sequential(nn.Linear(probe.width("student"), 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("epochs_seen", torch.zeros((), dtype=torch.int64))

    def loss(self, signals):
        student, teacher = signals.one("student"), signals.one("teacher")
        told = self.discriminator(torch.cat([student.detach(), teacher]))
        truth = torch.cat([torch.zeros(len(student), 1), torch.ones(len(teacher), 1)])
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        deceived = functional_call(self.discriminator, frozen, student)
        return {
            "tell": F.binary_cross_entropy_with_logits(told, truth),
            "deceive": F.binary_cross_entropy_with_logits(deceived, torch.ones_like(deceived)),
        }

    def end_epoch(self):
        self.epochs_seen += 1


def net(seed, width=7):
    """A small net of 6 inputs and 3 classes, with dropout, so that the generators matter."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 3))


def terms(toy):
    """The terms of a toy run."""
    return {
        "bank": [Term("ce"), Term(Bank(), weight={"near": 1.0, "far": 0.1})],
        "queue": [Term("ce"), Term(Queue(), weight=0.5)],
        "mutual": [Term("ce"), Term(Mutual(), weight={"first": 1.0, "second": 2.0})],
        "minmax": [Term("ce"), Term(MinMax(), weight={"tell": 1.0, "deceive": 0.1})],
        "plain": [Term("ce", weight=0.1), Term("kd"), Term("mimic"), Term("pkt", weight=10.0)],
    }[toy]


TOYS = ("bank", "queue", "mutual", "minmax", "plain")

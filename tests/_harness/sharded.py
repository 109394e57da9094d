"""What ranks of a group run with sharded students."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

import congruence as cg
from congruence.models.sharded import whole, whole_state
from congruence.testing.case import batches, gradients, small_distiller
from congruence.training.distributed import Objective, average_gradients, wrap
from congruence.training.sharding import shard

TERMS = ("ce", "kd", "pkt")


class Block(nn.Module):
    """A residual block without batch norm, whose inner layer a term may read."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)

    def forward(self, x):
        return x + self.outer(self.act(self.inner(x)))


class Net(nn.Module):
    """Two repeated blocks between two layers; a scalar, which FSDP2 cannot shard; and a tied parameter."""

    def __init__(self, seed, width=5):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.scale * x)


def data(size=24, seed=0):
    points = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.TensorDataset(points, points[:, :3].argmax(1))


def distiller(*terms, seed=1, build=True):
    torch.manual_seed(2)
    example = data().tensors[0][:4] if build else None
    return cg.Distiller(Net(0, 7), Net(seed), terms or TERMS, example=example)


def options(**changes):
    given = {"max_steps": 6, "device": "cpu", "log_every": 1, "checkpoint_seconds": 0.0} | changes
    schedule = cg.ScheduleOptions("constant")
    return cg.FitOptions(schedule=schedule, optimizer=cg.OptimizerOptions(lr=0.1, nesterov=False), **given)


def fitted(out=None, *, made=None, **changes):
    made = made or distiller()
    loader = cg.data.loader(data(), batch_size=8, seed=3)
    val = cg.data.loader(data(23, seed=1), batch_size=10, shuffle=False)
    result = cg.fit(made, loader, val, options(out=out, **changes))
    return result, made


def row_steps(case, prepare):
    """The gradients and the state of two steps of a row, as `congruence.testing.agreement.two_steps` gives them."""
    made = small_distiller(case).double()
    made.begin_epoch(0)
    prepare(made)
    objective = wrap(Objective(made))
    found = {}
    for step, batch in enumerate(batches(case)[:2]):
        made.zero_grad(set_to_none=True)
        objective(batch, False).loss.backward()
        average_gradients(objective)
        for name, gradient in gradients(made).items():
            found[f"the gradient by {name} in step {step}"] = whole(gradient)
    state = made.state_dict().items()
    return found | {f"the state {name}": whole(t) for name, t in state if isinstance(t, torch.Tensor)}


def shard_layers(made):
    """Shard each layer of a small model but its last on its own, then the root."""
    from torch.distributed.fsdp import fully_shard

    for student in made.students.values():
        for layer in [each for each in student if next(each.parameters(), None) is not None][:-1]:
            fully_shard(layer)
        fully_shard(student)

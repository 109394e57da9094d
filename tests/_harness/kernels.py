"""Small runs of kernel transfer, with every kind of landmarks, in this process and on ranks of a group."""

from __future__ import annotations

import torch
from torch import nn

import congruence as cg
from congruence.data import facts, loader

SIZE, CLASSES, BATCH, STEPS = 48, 3, 8, 6
# Every kind of landmark, with a loss from the second epoch on.
KINDS = {
    "centres": {"transfer": "combo"},
    "two-centres": {"per_class": 2, "weighting": "own"},
    "clusters": {"landmarks": "clusters", "count": 4, "scale": "teacher_norm"},
    "random": {"landmarks": "random", "count": 7, "weighting": "teacher", "normalize": True},
    "onehot": {"landmarks": "onehot", "transfer": "logits", "scale": "sum"},
}


def data():
    """Labelled points, three of them without a label."""
    points = torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(0))
    labels = points[:, :CLASSES].argmax(1)
    labels[::20] = -1
    return torch.utils.data.TensorDataset(points, labels)


def net(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, CLASSES))


def distiller(*terms, **arguments):
    """A distiller, always the same; features are what enters the module "2"."""
    known = {"example": data().tensors[0][:2], "facts": facts(data())} | arguments
    return cg.Distiller(net(0, 7), net(1, 5), list(terms), **known)


def kda(kind="centres", **changes):
    """Kernel transfer as the paper has it, of raw rows where nothing else is said."""
    return cg.Term("kda", name="kda", **({"warmup": 1, "normalize": False, **KINDS[kind]} | changes))


def run(terms, out=None, **options):
    made = distiller(*terms)
    given = {"epochs": 3, "device": "cpu", "checkpoint_seconds": 0.0, "log_every": 1} | options
    result = cg.fit(made, loader(data(), batch_size=BATCH, seed=3), None, cg.FitOptions(out=out, **given))
    return made, result


def on_a_rank(rank, folder):
    for kind in KINDS:
        made, result = run(["ce", kda(kind)], optimizer=cg.OptimizerOptions(lr=0.01))
        torch.save({"state": made.state_dict(), "history": list(result.history)}, folder / f"{kind}-{rank}.pt")

"""Runs with diagnostics, which killed processes and ranks run too."""

from __future__ import annotations

import json

import torch
from _harness import fits
from _harness.configs import pictures
from _harness.fits import constant, data
from _harness.runs import KillAt
from torch import nn

import congruence as cg
from congruence.evaluation import Diagnostics, diagnostic_loader

IMAGES = data(18, seed=7)


def images(**arguments):
    return cg.data.loader(IMAGES, batch_size=8, shuffle=False, **arguments)


def dropping(seed):
    return nn.Sequential(fits.net(seed), nn.Dropout(0.4), nn.Linear(3, 3))


def trained(diagnose, out=None, *, students=(1,), **changes):
    """Train nets with batch norm and dropout, whose bits show whether anything was touched."""
    models = {f"n{seed}": dropping(seed) for seed in students} if len(students) > 1 else dropping(*students)
    torch.manual_seed(2)
    made = cg.Distiller(fits.net(0, 7), models, changes.pop("terms", ["ce", "kd"]), example=data().tensors[0][:4])
    loader = cg.data.loader(data(), batch_size=8, seed=3)
    options = constant(epochs=3, out=out, diagnose=diagnose, log_every=2, **changes)
    return cg.fit(made, loader, loader, options), made


def killed(out, step):
    torch.set_num_threads(1)
    trained(Diagnostics(images()), out, callbacks=(KillAt(step),), checkpoint_seconds=0.0)


def on_a_rank(rank, folder):
    dataset = pictures(30, 0, side=8)
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Linear(5, 10))
    told = []
    made = cg.Distiller(None, student, ["ce"], example=dataset.batch([0, 1]))
    loader = cg.data.loader(dataset, batch_size=10)
    asked = Diagnostics(diagnostic_loader(dataset, 21))
    options = constant(epochs=2, out=folder / "run", diagnose=asked, callbacks=(told.append,))
    cg.fit(made, loader, loader, options)
    ends = [event.kind for event in told if event.kind == "diagnostics"]
    (folder / f"{rank}.json").write_text(json.dumps([ends, dict(asked(made, 0))]))

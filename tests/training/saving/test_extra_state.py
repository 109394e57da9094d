"""A student whose state holds what is no tensor is trained, saved, resumed and loaded like any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.models import load_into, load_weights

POINTS, LABELS = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Counts(nn.Module):
    """Counts its forwards, and saves the count."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.head, self.calls = nn.Linear(4, 3), 0

    def forward(self, inputs):
        self.calls += self.training
        return self.head(inputs)

    def get_extra_state(self):
        return {"calls": self.calls, "mean": torch.ones(2)}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_trained_saved_and_resumed(tmp_path):
    def run(*, resume, stop=None):
        def watch(event):
            if event.kind == "step" and event.step == stop:
                raise KeyboardInterrupt

        torch.manual_seed(2)
        made = cg.Distiller(nn.Linear(4, 3), Counts(), ["kd"], example=POINTS[:2])
        assert made.student.calls == 0
        dataset = torch.utils.data.TensorDataset(POINTS, LABELS)
        loader = cg.data.loader(dataset, batch_size=8)
        options = cg.FitOptions(epochs=2, out=tmp_path, resume=resume, callbacks=(watch,), checkpoint_seconds=0.0)
        return made, cg.fit(made, loader, options=options)

    with pytest.raises(KeyboardInterrupt):
        run(resume=False, stop=4)
    for _ in range(2):  # resumed, then read from its files
        made, result = run(resume=True)
        assert result.best_states["student"]["_extra_state"]["calls"] == 6
        assert torch.equal(result.best_states["student"]["head.weight"], made.student.head.weight)
    again = Counts()
    again.load_state_dict(result.best_states["student"])
    assert again.calls == 6
    weights = load_weights(result.student_file)
    assert set(weights) == {"head.weight", "head.bias"}
    load_into(again, weights, source="a file")
    assert torch.equal(again.head.weight, made.student.head.weight)

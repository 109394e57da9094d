"""What `FitOptions(diagnose=...)` may do without training feeling it, and what is said of one that gives no numbers."""

import pytest
import torch
from _harness.fits import constant, data, distiller, same_state

import congruence as cg
from congruence.core.files import read_lines


class Draws:
    """Diagnostics of one's own that draw, and put the students where training would not want them."""

    def __init__(self, told=None):
        self.told, self.rehearsed, self.modes = {"mine": torch.tensor(2.0)} if told is None else told, 0, []

    def rehearse(self, distiller):
        self.rehearsed += 1
        self(distiller, 0)
        self.modes.clear()

    def __call__(self, distiller, epoch):
        self.modes.append((distiller.student.training, torch.is_grad_enabled()))
        torch.rand(3)
        distiller.student.train()[0].eval()
        return self.told if epoch else {}


def fit(diagnose, out=None):
    made = distiller()
    loader = cg.data.loader(data(), batch_size=8)
    cg.fit(made, loader, loader, constant(epochs=2, out=out, diagnose=diagnose))
    return made


def test_generators_and_modes_are_as_before(tmp_path):
    asked = Draws()
    made = fit(asked, tmp_path / "run")
    state = torch.get_rng_state()
    same_state(fit(None), made)
    assert torch.equal(torch.get_rng_state(), state)
    assert (asked.rehearsed, asked.modes) == (1, [(False, False)] * 2)
    assert made.student.training
    assert made.student[0].training
    rows = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "diagnostics" in row]
    assert rows == [{"step": 6, "epoch": 1, "diagnostics": {"mine": 2.0}}]


@pytest.mark.parametrize("told", [3, {"mine": "much"}, ["mine"]])
def test_what_gives_no_numbers_is_told_and_stops_nothing(told, caplog):
    same_state(fit(None), fit(Draws(told)))
    assert caplog.messages[-1] == (
        "No diagnostics after epoch 1: `FitOptions`: `diagnose` must be a function that returns numbers by name, got "
        f"one that gave {told!r}."
    )


class Raises(Draws):
    """Diagnostics of one's own that fail, and move what a forward in training mode moves."""

    def __call__(self, distiller, epoch):
        distiller.student.train()(data().tensors[0])
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")


def test_what_raises_is_told_and_changes_nothing(caplog):
    same_state(fit(None), fit(Raises()))
    assert caplog.messages[-3:] == [
        "The diagnostics failed before the first step: OutOfMemoryError: CUDA out of memory.",
        "No diagnostics after epoch 0: OutOfMemoryError: CUDA out of memory.",
        "No diagnostics after epoch 1: OutOfMemoryError: CUDA out of memory.",
    ]


@pytest.mark.parametrize("wrong", ["gpcl", lambda distiller, epoch: {}])
def test_what_is_no_diagnostics_is_told(wrong):
    with pytest.raises(ValueError, match=r"`FitOptions`: `diagnose` must be Diagnostics\(...\), what is like it, or"):
        cg.FitOptions(epochs=1, diagnose=wrong)


def test_no_term_takes_the_column():
    with pytest.raises(ValueError, match="diagnostics"):
        cg.Term("ce", name="diagnostics")

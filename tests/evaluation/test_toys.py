"""A configuration of points that learns another one's perception, and its pictures."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from congruence.data.datasets.toys import Toy, toy
from congruence.evaluation.pictures import require_plots, write_gif, write_png
from congruence.evaluation.toys import transfer
from congruence.losses import perception_coherence_loss
from congruence.metrics import global_perception_coherence

_WHOLE = toy("clusters3d")
FEW = Toy(_WHOLE.name, _WHOLE.points[:60], _WHOLE.labels[:60])


def test_an_epoch_is_adam_over_every_point_once():
    run = transfer(FEW, batch=len(FEW.points), epochs=2, frames=3)
    student = run.frames[0][1].clone().requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        same = {"student_temperature": 0.1, "teacher_temperature": 0.1}
        perception_coherence_loss(student, FEW.points, dissimilarity="euclidean", **same).backward()
        optimizer.step()
    torch.testing.assert_close(run.frames[-1][1], student.detach(), rtol=1e-3, atol=1e-3)


def test_the_start_is_ten_times_as_large_and_coherence_grows():
    run = transfer(toy("two-moons"), epochs=1, frames=2)
    assert float(run.frames[0][1].std()) == pytest.approx(10, rel=0.1)
    learned = transfer(FEW, batch=15, epochs=250, frames=5)
    assert learned.before < 0.75
    assert learned.after > learned.before + 0.1
    last = learned.frames[-1][1]
    assert learned.after == global_perception_coherence(last, FEW.points, dissimilarity="euclidean")


def test_frames_crowd_at_the_beginning_and_hold_both_ends():
    run = transfer(FEW, epochs=16, frames=5)
    assert [epoch for epoch, _ in run.frames] == [0, 1, 4, 9, 16]
    assert [epoch for epoch, _ in transfer(FEW, epochs=1, frames=40).frames] == [0, 1]


def test_the_seed_decides_everything():
    seen = []
    runs = [transfer(FEW, batch=7, epochs=2, seed=seed, report=seen.append) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].frames[-1][1], runs[1].frames[-1][1])
    assert not torch.equal(runs[0].frames[-1][1], runs[2].frames[-1][1])
    assert seen == [1, 2] * 3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch": 1}, "`batch` must be an integer >= 2, got 1"),
        ({"epochs": 0}, "`epochs` must be an integer >= 1, got 0"),
        ({"temperature": 0.0}, "`temperature` must be a number > 0, got 0.0"),
        ({"frames": 1}, "`frames` must be an integer >= 2, got 1"),
    ],
)
def test_numbers_out_of_range(given, sentence):
    with pytest.raises(ValueError, match=f"^`transfer`: {sentence}"):
        transfer(FEW, **given)


@pytest.mark.parametrize("name", ["two-moons", "clusters3d"])
def test_pictures(name, tmp_path):
    points = toy(name)
    run = transfer(Toy(name, points.points[:50], points.labels[:50]), epochs=4, frames=3)
    with Image.open(write_png(run, tmp_path / "a.png")) as image:
        assert image.format == "PNG"
        assert image.width > 3 * image.height
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    with Image.open(write_gif(run, tmp_path / "a.gif")) as image:
        assert (image.format, image.n_frames) == ("GIF", 3)
        first = np.asarray(image.convert("RGB"))
        image.seek(2)
        assert not np.array_equal(first, np.asarray(image.convert("RGB")))


def test_without_matplotlib_there_is_a_sentence(monkeypatch):
    require_plots()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"^Pictures need matplotlib, .*pip install 'congruence\[plots\]'\.$"):
        require_plots()

"""fp16: the loss is scaled, and a step that overflows for it is skipped without an error."""

from __future__ import annotations

import itertools

import pytest
import torch
from _harness.fits import Breaks, constant, data, distiller, same_state

import congruence as cg
from congruence import NonFiniteLossError, Term
from congruence.core.files import read_lines
from congruence.training.saving.checkpoint import Checkpoints

LOUD = Term("ce", weight=300.0)  # its gradient leaves fp16 at the first scales


def batches():
    return cg.data.loader(data(), batch_size=8, seed=3)


def half(**changes):
    return constant(precision="fp16", optimizer=cg.OptimizerOptions(lr=1e-4), **changes)


def test_steps_that_overflow_are_skipped_and_the_scale_halved(tmp_path):
    made, weights = distiller(LOUD), []

    def keep(event):
        if event.kind in ("start", "step"):
            weights.append(made.student[0].weight.detach().clone())

    cg.fit(made, batches(), options=half(epochs=4, out=tmp_path / "run", log_every=1, callbacks=(keep,)))
    rows = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    skipped = [row["skipped"] for row in rows]
    count = int(sum(skipped))
    assert 0 < count < len(rows)
    assert [row["gradient_norm"] is None for row in rows] == [value == 1.0 for value in skipped]
    still = [torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert still == [value == 1.0 for value in skipped]
    assert "gradient_norms" not in rows[0]
    state = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert state["scaler"]["scale"] == 2.0 ** (16 - count)


def test_norms_are_those_of_single_precision(tmp_path):
    for precision in ("fp16", "float32"):
        options = constant(epochs=1, out=tmp_path / precision, log_every=3, precision=precision)
        cg.fit(distiller(Term("ce", weight=1e-3), Term("kd", weight=1e-3)), batches(), options=options)
    halved, single = (read_lines(tmp_path / name / "metrics.jsonl")[0] for name in ("fp16", "float32"))
    assert halved["skipped"] == 0
    assert halved["gradient_norm"] == pytest.approx(single["gradient_norm"], rel=0.02)
    assert halved["gradient_norms"] == pytest.approx(single["gradient_norms"], rel=0.02)
    assert "skipped" not in single


def test_the_mean_of_the_norms_leaves_skipped_steps_out(tmp_path):
    kept = {}
    for every in (1, 3):
        folder = tmp_path / str(every)
        cg.fit(distiller(LOUD), batches(), options=half(epochs=4, out=folder, log_every=every))
        kept[every] = [row for row in read_lines(folder / "metrics.jsonl") if "loss" in row]
    shares = []
    for position, row in enumerate(kept[3]):
        taken = [one["gradient_norm"] for one in kept[1][3 * position : 3 * position + 3] if not one["skipped"]]
        assert row["gradient_norm"] == (pytest.approx(sum(taken) / len(taken), rel=1e-5) if taken else None)
        shares.append(len(taken))
    assert set(shares) & {1, 2}


def test_half_precision_learns_and_keeps_single_precision_weights():
    made = distiller("ce", "kd")
    result = cg.fit(made, batches(), batches(), constant(epochs=8, precision="fp16"))
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert result.last["loss"] < 0.9 * result.history[0]["loss"]


def test_a_loss_that_is_not_finite_is_still_an_error():
    with pytest.raises(NonFiniteLossError, match="At step 4 the loss of 'Breaks' was not finite"):
        cg.fit(distiller("ce", Term(Breaks(4))), batches(), options=half(epochs=3))


def test_a_gradient_that_is_never_finite_is_an_error_once_the_scale_is_not_to_blame():
    class Never(Breaks):
        def loss(self, signals):
            self.seen.fill_(self.step)
            return super().loss(signals)

    with pytest.raises(NonFiniteLossError, match="At step 16 the gradient was not finite"):
        cg.fit(distiller("ce", Term(Never(0, how="gradient"))), batches(), options=half(epochs=7))


def test_a_resumed_run_has_the_scale_of_the_one_never_stopped(tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event.kind == "step" and event.step == 7:
            raise Stop

    whole, resumed = distiller(LOUD), distiller(LOUD)
    cg.fit(whole, batches(), options=half(epochs=4, out=tmp_path / "whole"))
    with pytest.raises(Stop):
        cg.fit(
            distiller(LOUD),
            batches(),
            options=half(epochs=4, out=tmp_path / "run", checkpoint_seconds=0.0, callbacks=(stop,)),
        )
    cg.fit(resumed, batches(), options=half(epochs=4, out=tmp_path / "run", resume=True))
    same_state(whole, resumed)
    scales = [Checkpoints(tmp_path / name / "checkpoints").load()["scaler"] for name in ("whole", "run")]
    assert scales[0] == scales[1]
    assert scales[0]["scale"] < 2.0**16

"""What a run writes down, and the one rule for losses that are not finite."""

from __future__ import annotations

import json

import pytest
import torch
from _harness.fits import Breaks, constant, data, distiller, same_state

import congruence as cg
from congruence import NonFiniteLossError, Term
from congruence.core.files import read_lines
from congruence.training.record import Recorder


def batches():
    return cg.data.loader(data(), batch_size=8)


def test_metrics_are_means_since_the_last_line(tmp_path):
    steps = []

    def keep(event):
        if event.kind == "step":
            steps.append(event.step)

    cg.fit(distiller(), batches(), batches(), constant(out=tmp_path / "a", log_every=1, callbacks=(keep,)))
    cg.fit(distiller(), batches(), batches(), constant(out=tmp_path / "b", log_every=2))
    one, two = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("a", "b"))
    ones = [row for row in one if "loss" in row]
    assert [row["step"] for row in ones] == steps == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in two if "loss" in row] == [2, 3, 4, 6]
    mean = (ones[0]["kd"] + ones[1]["kd"]) / 2
    assert two[0]["kd"] == pytest.approx(mean, rel=1e-6)
    assert set(two[0]) == {"step", "epoch", "lr", "loss", "ce", "kd", "gradient_norm", "gradient_norms"}
    assert [row["step"] for row in two if "validation" in row] == [3, 6]


def test_gradient_norms_are_those_of_the_weighted_terms(tmp_path):
    terms = [Term("ce", weight=0.5), Term("mimic", weight=2.0), Term("kd", weight=0.0, name="off")]
    cg.fit(
        distiller(*terms), batches(), options=constant(out=tmp_path / "a", epochs=1, log_every=1, teacher_speed="exact")
    )
    rows = read_lines(tmp_path / "a" / "metrics.jsonl")
    assert ["gradient_norms" in row for row in rows if "loss" in row] == [True, False, False]
    made = distiller(*terms).train()
    out = made(*next(batches().batches(0)))
    parameters = list(made.students.parameters())
    for name, weight in (("ce", 0.5), ("mimic", 2.0)):
        gradients = torch.autograd.grad(weight * out.terms[name], parameters, retain_graph=True, materialize_grads=True)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert rows[0]["gradient_norms"][name] == pytest.approx(float(norm), rel=1e-5)
    everything = torch.autograd.grad(out.loss, [p for p in made.parameters() if p.requires_grad])
    assert rows[0]["gradient_norm"] == pytest.approx(
        float(torch.cat([g.flatten() for g in everything]).norm()), rel=1e-5
    )


@pytest.mark.parametrize(("how", "what"), [("loss", "the loss of 'Breaks'"), ("gradient", "the gradient")])
def test_a_value_that_is_not_finite_stops_the_run(how, what, tmp_path):
    made, weights = distiller("ce", Term(Breaks(4, how=how))), []

    def keep(event):
        weights.append({name: p.detach().clone() for name, p in made.named_parameters()})

    options = constant(epochs=3, out=tmp_path / "run", checkpoint_seconds=0.0, log_every=50, callbacks=(keep,))
    with pytest.raises(NonFiniteLossError, match=f"At step 4 {what} was not finite"):
        cg.fit(made, batches(), options=options)
    assert all(torch.isfinite(p).all() for p in made.parameters())
    # Events: start, 3 steps, log and epoch, then step 4; the next step is the bad one and moves nothing.
    assert all(torch.equal(p, weights[6][name]) for name, p in made.named_parameters())
    files = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert files == ["step-000000003.pt", "step-000000004.pt"]


def test_several_steps_pass_before_the_flush_and_none_moves_a_weight():
    made, weights = distiller("ce", Term(Breaks(1))), []

    def keep(event):
        weights.append(made.student[0].weight.detach().clone())

    with pytest.raises(NonFiniteLossError, match="At step 1 the loss of 'Breaks' was not finite"):
        cg.fit(made, [data().tensors] * 9, options=constant(log_every=5, callbacks=(keep,)))
    assert len(weights) == 1 + 5
    assert not torch.equal(weights[0], weights[1])
    assert all(torch.equal(weights[1], weight) for weight in weights[2:])


def test_a_sum_that_overflows_is_told():
    made = distiller(Term("ce", weight=3e38), Term("kd", weight=3e38))
    with pytest.raises(NonFiniteLossError, match="At step 0 the weighted sum of the terms was not finite"):
        cg.fit(made, batches(), options=constant())


def test_a_run_that_broke_goes_on_from_before(tmp_path):
    options = {"epochs": 2, "out": tmp_path / "run", "checkpoint_seconds": 0.0}
    with pytest.raises(NonFiniteLossError):
        cg.fit(distiller("ce", Term(Breaks(4))), batches(), options=constant(**options))
    mended, whole = (distiller("ce", Term(Breaks(99))) for _ in range(2))
    result = cg.fit(mended, batches(), options=constant(resume=True, **options))
    cg.fit(whole, batches(), options=constant())
    assert result.steps == 6
    same_state(mended, whole)


def test_names_that_come_late_have_means_of_their_own():
    recorder = Recorder(None, every=1, device=torch.device("cpu"))
    recorder.add({"loss": torch.tensor(1.0)}, {})
    recorder.add({"loss": torch.tensor(3.0), "late": torch.tensor(5.0)}, {})
    row = recorder.flush(2, 0, {"lr": 0.1})
    assert row == {"step": 2, "epoch": 0, "lr": 0.1, "loss": 2.0, "late": 5.0}


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    from congruence.training import record

    def append(path, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "append_line", append)
    with pytest.raises(ValueError, match=r"metrics.jsonl' could not be written: No space left on device"):
        cg.fit(distiller(), batches(), options=constant(out=tmp_path / "run"))


def test_lines_are_json(tmp_path):
    cg.fit(distiller(), batches(), batches(), constant(out=tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_event_files(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"out": tmp_path / "run", "tensorboard": True, "log_every": 1, "checkpoint_seconds": 0.0}
    stop = Breaks(4)
    with pytest.raises(NonFiniteLossError):
        cg.fit(distiller("ce", Term(stop)), batches(), batches(), constant(**options))
    cg.fit(distiller("ce", Term(Breaks(99))), batches(), batches(), constant(resume=True, **options))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("validation/accuracy")] == [3, 6]
    assert "gradient_norms/ce" in events.Tags()["scalars"]


def test_without_tensorboard_the_run_does_not_start(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"`tensorboard` needs an extra that is not installed"):
        cg.fit(distiller(), batches(), options=constant(out=tmp_path / "run", tensorboard=True))


@pytest.mark.parametrize(("weight", "told"), [(1e6, True), (1.0, False)])
def test_a_gradient_that_drowns_another_is_told_once(weight, told, caplog):
    cg.fit(
        distiller("ce", Term("kd", weight=weight)),
        batches(),
        options=constant(epochs=3, log_every=1, gradient_clip=1.0),
    )
    said = [line for line in caplog.messages if "times that of 'ce'" in line]
    assert len(said) == int(told), caplog.messages
    assert all(line.startswith("The first gradient of 'kd'") for line in said)


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        ({"mlld.class": 20.0, "mlld.batch": 0.01}, ""),
        ({"ce": 1.0, "mlld.class": 20.0, "mlld.batch": 0.001}, ""),
        ({"ce": 1.0, "mlld.class": 200.0, "mlld.batch": 1.0}, "of 'mlld' (2e+02) is 200 times that of 'ce' (1)"),
        ({"kd": 500.0, "mlld.class": 2.0, "mlld.batch": 0.001}, "of 'kd' (5e+02) is 250 times that of 'mlld' (2)"),
    ],
)
def test_a_term_of_several_parts_counts_as_its_largest(norms, told, caplog):
    recorder = Recorder(None, every=1, device=torch.device("cpu"))
    recorder.add({"loss": torch.tensor(1.0)}, {name: torch.tensor(norm) for name, norm in norms.items()})
    recorder.flush(1, 0, {})
    assert len(caplog.messages) == bool(told)
    assert all(told in line for line in caplog.messages)

"""A run's metrics.jsonl as curves."""

import json

import pytest

from congruence.report.curves import curves


def test_lines_become_curves_by_group(tmp_path):
    lines = [
        {"step": 10, "epoch": 0, "lr": 0.1, "loss": 3.0, "ce": 2.0, "mlld.class": 1.0, "gradient_norm": 4.0},
        {"step": 10, "epoch": 0, "validation": {"accuracy": 0.5, "loss": 1.5}},
        {"step": 10, "epoch": 0, "diagnostics": {"kernel_transfer_error": 0.25, "wasserstein": None}},
        {"step": 20, "epoch": 1, "loss": 2.0, "gradient_norms": {"ce": 1.0, "mlld.class": 3.0, "mlld.batch": 2.0}},
        {"step": 20, "epoch": 1, "weights": {"mlld": 0.75}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "lo')
    found = curves(tmp_path)
    assert found["losses"] == {"loss": [[10, 3.0], [20, 2.0]], "ce": [[10, 2.0]], "mlld.class": [[10, 1.0]]}
    assert found["gradient shares"] == {"ce": [[20, 0.25]], "mlld": [[20, 0.75]]}
    assert found["weights"] == {"mlld": [[20, 0.75]]}
    assert found["rate"] == {"learning rate": [[10, 0.1]], "norm of the gradient": [[10, 4.0]]}
    assert found["validation"] == {"accuracy": [[10, 0.5]], "loss": [[10, 1.5]]}
    assert found["diagnostics"] == {"kernel_transfer_error": [[10, 0.25]]}


def test_a_long_curve_is_thinned_and_keeps_its_end(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1 / (1 + step)}) for step in range(5000)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    points = curves(tmp_path)["losses"]["loss"]
    assert len(points) == pytest.approx(385, abs=20)
    assert points[-1] == [4999, 0.0002]
    assert curves(tmp_path / "none") == {}

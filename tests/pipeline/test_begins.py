"""A stage's student begins with the weights of an earlier stage's."""

import pytest
import torch
from _harness.configs import quick

from congruence.config import load_config
from congruence.models import load_weights
from congruence.pipeline import RunContext, build_stage, run

FEW = ["data.train_size=200", "data.validation=20", "data.test=40", "stages.teacher.student={model='resnet8'}"]


def config(*overrides):
    return load_config("digits/hkd", [*quick(["teacher", "classifier", "auxiliary", "student"]), *FEW, *overrides])


def test_the_auxiliary_teacher_begins_as_the_classifier(tmp_path):
    """Heterogeneous distillation's auxiliary teacher starts from cross-entropy and is moved from there."""
    still = "stages.auxiliary.train.optimizer={name='sgd', lr=1e-12, momentum=0.0, weight_decay=0.0}"
    finished = run(config(still), tmp_path)
    assert list(finished) == ["teacher", "classifier", "auxiliary", "student"]
    before, after = (load_weights(tmp_path / name / "student.safetensors") for name in ("classifier", "auxiliary"))
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-8, msg=name)


def test_what_does_not_fit_is_found_before_anything_trains():
    wider = "stages.auxiliary.student.options.width=8"
    with pytest.raises(ValueError, match=r"stage 'classifier'"):
        build_stage(config(wider), "auxiliary", RunContext(dry=True))

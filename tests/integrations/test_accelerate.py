"""The loss, the epochs and the checkpoints of a loop by Accelerate."""

from __future__ import annotations

import pytest
import torch
from _harness import trainers
from safetensors.torch import load_file

trainers.imported("accelerate")
pytestmark = pytest.mark.filterwarnings(*trainers.THIRD_PARTY)


@pytest.mark.parametrize("after", [0, 1])
def test_a_resumed_loop_is_the_unbroken_one(tmp_path, after):
    terms = trainers.EVERYTHING
    whole = trainers.accelerate_runs(terms, 4, epochs=3, folder=tmp_path)
    resumed = trainers.accelerate_runs(terms, 4, epochs=3, resume=tmp_path / f"epoch-{after}")
    trainers.alike(resumed, whole)


def test_a_checkpoint_has_no_teacher(tmp_path):
    trainers.accelerate_runs(("ce", "kd"), 4, epochs=1, folder=tmp_path)
    saved = load_file(tmp_path / "epoch-0" / "model.safetensors")
    student = {f"distiller.students.student.{name}" for name in trainers.Net(5).state_dict()}
    assert set(saved) == {*student, "unused"}


@pytest.mark.parametrize("name", [*trainers.TERMS, "split"])
def test_two_ranks_are_one(two_ranks, name):
    """Each rank gets batches in turn; with `split_batches` a part of each."""
    first, second = (found["accelerate"][name] for found in two_ranks)
    alone = trainers.accelerate_runs(trainers.TERMS.get(name, trainers.TERMS["classes"]), 4)
    trainers.alike(first, second, tolerance=0)
    trainers.alike(first, alone, tolerance=1e-5)


def test_ddp_of_ones_own_stays():
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    from congruence.integrations.accelerate import prepare

    own = DistributedDataParallelKwargs(find_unused_parameters=False)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[own])
    made = trainers.distiller()
    prepare(accelerator, made, torch.optim.SGD(made.parameter_groups(), lr=0.1))
    assert accelerator.ddp_handler is own

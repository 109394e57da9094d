"""The loss, the epochs and the checkpoints of a loop by Accelerate."""

from __future__ import annotations

import pytest
import torch
from _harness import trainers
from safetensors.torch import load_file

trainers.imported("accelerate")
pytestmark = pytest.mark.filterwarnings(*trainers.THIRD_PARTY)


# Within an epoch Accelerate restores the generators before the loader draws from them once more.
@pytest.mark.parametrize(("after", "dropout"), [(3, 0.0), (5, 0.3), (8, 0.0)])
def test_a_resumed_loop_is_the_unbroken_one(tmp_path, after, dropout):
    terms, given = trainers.EVERYTHING, {"epochs": 3, "folder": tmp_path, "dropout": dropout}
    whole = trainers.accelerate_runs(terms, 4, **given)
    torch.manual_seed(99)
    trainers.alike(trainers.accelerate_runs(terms, 4, resume=after, **given), whole)


def test_a_checkpoint_has_no_teacher(tmp_path):
    trainers.accelerate_runs(("ce", "kd"), 4, epochs=1, folder=tmp_path)
    saved = load_file(tmp_path / "step-5" / "model.safetensors")
    student = {f"distiller.students.student.{name}" for name in trainers.Net(5).state_dict()}
    assert set(saved) == {*student, "unused"}


@pytest.mark.parametrize("name", [*trainers.TERMS, "split"])
def test_two_ranks_are_one(two_ranks, name):
    """Each rank gets batches in turn; with `split_batches` a part of each."""
    first, second = (found["accelerate"][name] for found in two_ranks)
    alone = trainers.accelerate_runs(trainers.TERMS.get(name, trainers.TERMS["classes"]), 4)
    trainers.alike(first, second, tolerance=0)
    trainers.alike(first, alone, tolerance=1e-5)


def test_every_rank_gets_as_many_samples(two_ranks):
    """Batches in turn, or a part of each; where the dataset ends early, its first samples come again."""
    of_first, of_second = (found["accelerate"]["shares"] for found in two_ranks)
    assert of_first == [[[0, 1], [4, 5], [8, 9]], [[0, 1], [4, 5], [8, 9]]]
    assert of_second == [[[2, 3], [6, 7], [0, 1]], [[2, 3], [6, 7], [0, 1]]]


def test_ddp_of_ones_own_stays():
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    from congruence.integrations.accelerate import prepare

    own = DistributedDataParallelKwargs(find_unused_parameters=False)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[own])
    made = trainers.distiller()
    prepare(accelerator, made, torch.optim.SGD(made.parameter_groups(), lr=0.1))
    assert accelerator.ddp_handler is own

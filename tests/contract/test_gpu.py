"""What only a GPU can show; `benchmarks/gpu.py` runs it where one is lent."""

from __future__ import annotations

import pytest
import torch
from _harness.cases import CASES
from _harness.fits import constant, data, distiller, same_state
from _harness.reads import LOOKING
from torch import nn

import congruence as cg
from congruence.core.batch import grouped, unpack
from congruence.data.loading.source import BatchSource
from congruence.testing import check_row_on_device
from congruence.testing.case import SmallLoader, small_distiller
from congruence.training.distributed import Objective
from congruence.training.optim import Optimization, make_optimizer
from congruence.training.record import Recorder
from congruence.training.step import train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICE = "cuda"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_method_gives_what_it_gives_on_the_cpu(case):
    check_row_on_device(case, DEVICE)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("case", [case for case in CASES if case.row not in LOOKING], ids=str)
def test_a_step_waits_for_nothing(case):
    """As `tests/training/test_waiting.py`, which counts the looks on a CPU; here CUDA itself would refuse one."""
    device = torch.device(DEVICE)
    made, options = small_distiller(case).to(device), cg.FitOptions(epochs=4)
    optimizer = make_optimizer(made.parameter_groups(), options.optimizer)
    optimization = Optimization([optimizer], options, None, epochs=1, device=device)
    objective = Objective(made)
    recorder, step = Recorder(None, every=50, device=device), 0
    for epoch in range(3):
        made.begin_epoch(epoch)
        for batches in grouped(BatchSource(SmallLoader(case)).epoch(epoch), 1, device):
            try:
                if DEVICE == "cuda":
                    torch.cuda.set_sync_debug_mode("error" if epoch else "default")
                train_step(objective, batches, optimization, recorder, options, step)
            finally:
                if DEVICE == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            step += 1
        made.end_epoch()
    assert not recorder.bad


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "terms", [("ce", "kd"), ("ce", "pkt", "perception_coherence"), ("ce", "cckd", "dist")], ids=str
)
def test_a_run_ends_in_the_bits_of_one_that_was_stopped(terms, precision, tmp_path):
    def stop(event):
        if event.kind == "step" and event.step == 4:
            raise KeyboardInterrupt

    def run(made, out, **more):
        batches = cg.data.loader(data(), batch_size=8, seed=3)
        options = constant(device=DEVICE, precision=precision, out=out, checkpoint_seconds=0.0, **more)
        cg.fit(made, batches, batches, options)

    whole, stopped, resumed = (distiller(*terms) for _ in range(3))
    run(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tmp_path / "stopped", callbacks=(stop,))
    run(resumed, tmp_path / "stopped", resume=True)
    same_state(whole, resumed)
    assert next(resumed.parameters()).device.type == DEVICE


def test_a_run_in_fp16_whose_first_steps_overflow_goes_on():
    """Skipped first steps left garbage in the momentum of the fused SGD: its runs came to NaN at step 2."""
    full_of_nan = [torch.full((size,), float("nan"), device=DEVICE) for size in range(1, 200) for _ in range(4)]
    del full_of_nan
    made, batches = distiller("ce", "kd"), cg.data.loader(data(), batch_size=8, seed=3)
    cg.fit(made, batches, None, constant(device=DEVICE, precision="fp16", epochs=8))
    assert all(parameter.isfinite().all() for parameter in made.parameters())


def test_a_cached_teacher_gives_what_it_gives_live(tmp_path):
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = cg.data.ArrayDataset(images, torch.arange(64) % 3, classes=3, mean=[0.5] * 3, std=[0.25] * 3)
    batches = cg.data.loader(dataset, batch_size=16, augment=True, view_cycle=2)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    teacher.to(DEVICE)
    losses = []
    for taught in (teacher, cg.TeacherCache(teacher, batches, tmp_path, dtype="float32")):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Tanh(), nn.Linear(4, 3))
        made = cg.Distiller(taught, student, ["kd", "pkt"], example=dataset.batch([0, 1])).to(DEVICE)
        made.begin_epoch(0)
        raw = (unpack(batch, torch.device(DEVICE)) for batch in batches.batches(0))
        losses.append([made(batch.inputs, batch.labels, batch.index).loss.item() for batch in raw])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("method", ["fast", "exact", "auto"])
def test_soft_ranks_are_those_of_the_cpu(method):
    d = torch.rand(300, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here, there = d.clone().requires_grad_(), d.to(DEVICE).requires_grad_()
    for side in (here, there):
        cg.geometry.soft_rank(side, 0.1, method=method).square().sum().backward()
    torch.testing.assert_close(there.grad.cpu(), here.grad, rtol=1e-5, atol=1e-8)


def test_metrics_take_tensors_of_a_device():
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    other = rows + 0.1 * torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    for metric in (cg.metrics.global_perception_coherence, cg.metrics.kernel_transfer_error, cg.metrics.linear_cka):
        assert metric(rows.to(DEVICE), other.to(DEVICE)) == pytest.approx(metric(rows, other), rel=1e-5)

"""All that a GPU can say: the figures in at most four minutes, with `--tests` whether every method is right there too.

python benchmarks/gpu.py [--tests]

The sections run in the order of `SECTIONS`; after four minutes none is begun, and those left out are named beside the
figures. With `--tests`, the tests that need a GPU come first (each method against the CPU, steps that never wait for
the device, runs that go on to the same bits), and `step_overhead.py cuda` last. Tests that fail are listed beside the
figures. It needs neither pydantic nor POT. `--device cpu --quick` is a rehearsal with small sizes that writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gpu_relations
import torch
from pair import batch
from record import ROOT, figure, write
from rkd_angle import usual
from torch.nn import functional as F

import congruence as cg
from congruence.geometry import soft_rank
from congruence.losses import perception_coherence_loss, rkd_angle_loss

DEFINITION = (
    "ours / other form, medians of interleaved calls of forward and backward in one process, each to its end on the "
    "device; memory: the peak beyond what was allocated before, in megabytes"
)
TESTS = "tests/contract/test_gpu.py"
Work = Callable[[], object]


class Device:
    """Where the work runs, and how often."""

    def __init__(self, name: str, *, quick: bool) -> None:
        self.name, self.quick, self.rounds = name, quick, 2 if quick else 15

    def seconds(self, work: Work) -> float:
        """Time one call, to its end on the device."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.name == "cuda":
            torch.cuda.synchronize()

    def ratio(self, name: str, ours: Work, other: Work) -> dict[str, Any]:
        """Return the figure of two works."""
        times: list[list[float]] = [[], []]
        for number in range(self.rounds + 2):
            for side, work in enumerate((ours, other)):
                elapsed = self.seconds(work)
                if number > 1:  # the first rounds warm up
                    times[side].append(elapsed)
        mine, theirs = (1e3 * statistics.median(values) for values in times)
        return figure(name, mine / theirs, milliseconds=round(mine, 3), other_milliseconds=round(theirs, 3))

    def memory(self, name: str, work: Work) -> Iterator[dict[str, Any]]:
        """Yield the figure of a work's memory, on a GPU."""
        if self.name == "cuda":
            work()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            elapsed = self.seconds(work)
            grown = torch.cuda.max_memory_allocated() - before
            yield figure(name, grown / 1e6, milliseconds=round(1e3 * elapsed, 3))


def soft_ranks(device: Device) -> Iterator[dict[str, Any]]:
    """The fast soft rank beside its formula, and a large batch."""

    def work(d: torch.Tensor, method: Any) -> Work:
        weights = torch.randn_like(d)
        return lambda: torch.autograd.grad(soft_rank(d, 0.1, method=method), d, weights)

    for size in (32,) if device.quick else (64, 256, 512, 1024):
        d = torch.rand(size, size, device=device.name).requires_grad_()
        yield device.ratio(f"soft rank, fast / formula, B={size}", work(d, "fast"), work(d, "exact"))
        yield device.ratio(f"soft rank, auto / formula, B={size}", work(d, "auto"), work(d, "exact"))
    rows, width = (32, 8) if device.quick else (4096, 128)
    student = torch.randn(rows, width, device=device.name, requires_grad=True)
    teacher = torch.randn(rows, width, device=device.name)
    yield from device.memory(
        f"perception coherence, megabytes, B={rows}", lambda: perception_coherence_loss(student, teacher).backward()
    )


def angles(device: Device) -> Iterator[dict[str, Any]]:
    """RKD's angles from the Gram matrix beside the [B, B, D] form."""
    for size in (16,) if device.quick else (128, 256):
        student = torch.randn(size, 512, device=device.name, requires_grad=True)
        teacher = torch.randn(size, 512, device=device.name)
        forms = [lambda s=student, t=teacher, f=form: f(s, t).backward() for form in (rkd_angle_loss, usual)]
        yield device.ratio(f"RKD angle, ours / usual, B={size}", *forms)
        for name, form in zip(("ours", "usual"), forms, strict=True):
            yield from device.memory(f"RKD angle, megabytes, {name}, B={size}", form)


def steps(device: Device) -> Iterator[dict[str, Any]]:
    """A student's step with channels last, and compiled, beside the plain one."""
    images, labels, _ = batch(device.name)
    name = "resnet8" if device.quick else "resnet32x4"
    for precision in (None, torch.bfloat16):
        models = [cg.models.build(name, classes=100).to(device.name) for _ in range(2)]
        models[0].to(memory_format=torch.channels_last)

        def work(model: torch.nn.Module, kind: torch.dtype | None = precision) -> Work:
            def step() -> None:
                with torch.autocast(device.name, kind, enabled=kind is not None):
                    scores = model(images)
                F.cross_entropy(scores.float(), labels).backward()

            return step

        if precision is None and not device.quick:
            fast = torch.compile(cg.models.build(name, classes=100).to(device.name))
            yield device.ratio(f"step of {name}, compiled / not", work(fast), work(models[1]))
        words = "float32" if precision is None else "bfloat16"
        yield device.ratio(f"step of {name}, channels last / not, {words}", *map(work, models))


def epochs(device: Device) -> Iterator[dict[str, Any]]:
    """An epoch of a student with a cached teacher, and with one that runs, beside one without a teacher."""
    count = 128 if device.quick else 5_120
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    kind = {"classes": 10, "mean": [0.5] * 3, "std": [0.25] * 3}
    dataset = cg.data.ArrayDataset(pixels, torch.arange(count) % 10, **kind)
    loader = cg.data.loader(dataset, batch_size=64, augment=True, view_cycle=2)
    teacher = cg.models.build("resnet20", classes=10).to(device.name)
    with tempfile.TemporaryDirectory() as folder:
        cache = cg.TeacherCache(teacher, loader, folder)

        def work(taught: Any, terms: list[str]) -> Work:
            student = cg.models.build("resnet8", classes=10)
            distiller = cg.Distiller(taught, student, terms, example=dataset.batch([0, 1]))
            options = cg.FitOptions(epochs=2, device=device.name, channels_last=True)
            return lambda: cg.fit(distiller, loader, None, options)

        device.seconds(work(cache, ["ce", "kd", "pkt"]))  # fills the cache
        rounds, device.rounds = device.rounds, min(device.rounds, 5)
        alone = work(None, ["ce"])
        yield device.ratio("epochs, ce + kd + pkt cached / ce", work(cache, ["ce", "kd", "pkt"]), alone)
        yield device.ratio("epochs, ce + kd + pkt uncached / ce", work(teacher, ["ce", "kd", "pkt"]), alone)
        device.rounds = rounds


def speeds(device: Device) -> Iterator[dict[str, Any]]:
    """A step of `fit` as it is by default, beside one with teacher and students exactly as they are."""
    count = 128 if device.quick else 4_096
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    dataset = cg.data.ArrayDataset(pixels, torch.arange(count) % 10, classes=10, mean=[0.5] * 3, std=[0.25] * 3)
    teacher = cg.models.build("resnet20", classes=10).to(device.name)

    def step(name: str, size: int, **ways: Any) -> float:
        """Return the median seconds of a step, each to its end on the device."""
        times: list[float] = []

        def clock(event: cg.Event) -> None:
            if event.kind == "step":
                device.wait()
                times.append(time.perf_counter())

        loader = cg.data.loader(dataset, batch_size=size, augment=True)
        student = cg.models.build(name, classes=10)
        distiller = cg.Distiller(teacher, student, ["ce", "kd"], example=dataset.batch([0, 1]))
        epochs = 1 if size < count // 16 else 4
        cg.fit(distiller, loader, options=cg.FitOptions(epochs=epochs, device=device.name, callbacks=(clock,), **ways))
        return statistics.median(after - before for before, after in itertools.pairwise(times))

    for name, size in (("resnet8", 64), ("cnn3", 64), ("resnet8", 512)) if not device.quick else (("cnn3", 16),):
        pairs = [
            (step(name, size), step(name, size, teacher_speed="exact", channels_last=False))
            for _ in range(2 if device.quick else 4)
        ][1:]
        fast, exact = (statistics.median(side) for side in zip(*pairs, strict=True))
        words = f"step of fit by default / exact, resnet20 -> {name}, B={size}"
        yield figure(words, fast / exact, milliseconds=round(1e3 * fast, 3), other_milliseconds=round(1e3 * exact, 3))


SECTIONS = (soft_ranks, angles, *gpu_relations.SECTIONS, epochs, speeds, steps)  # `steps` compiles for a minute
SECONDS = 240


def tests() -> dict[str, Any]:
    """Run the tests that need a GPU; return how many passed, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", TESTS, f"--junit-xml={report}"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=420)
        if not report.exists():
            return {"passed": 0, "failed": [ended.stdout[-2000:] + ended.stderr[-2000:]]}
        cases = list(ElementTree.parse(report).iter("testcase"))
    errors = [(case.get("name"), error) for case in cases for error in case if error.tag in ("failure", "error")]
    failed = [f"{name}: {(error.get('message') or '')[:300]}" for name, error in errors]
    return {"passed": sum(len(case) == 0 for case in cases), "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU too, and step_overhead.py")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU is to be had here.")
    torch.manual_seed(0)
    device = Device(arguments.device, quick=arguments.quick)
    device_tests = {"tests": tests()} if arguments.tests else {}
    start, figures, left_out = time.monotonic(), [], []
    for section in SECTIONS:
        if time.monotonic() - start > SECONDS - 20:  # what the longest but one may take
            left_out.append(section.__name__)
            continue
        figures += section(device)
        print(f"{section.__name__}: {time.monotonic() - start:.0f} s", flush=True)
    if arguments.quick:
        print("\n".join(str(entry) for entry in figures))
        return
    write("gpu", DEFINITION, figures, arguments.device, rounds=device.rounds, left_out=left_out, **device_tests)
    for problem in device_tests.get("tests", {}).get("failed", []):
        print(f"FAILED {problem}")
    if arguments.tests:
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / "step_overhead.py"), "cuda"], check=True)


if __name__ == "__main__":
    main()

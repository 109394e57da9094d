"""Metrics of 10,000, 50,000 and a million samples: the memory they take, their seconds, and plain forms beside them.

python benchmarks/metrics.py (memory is read from /proc: Linux)
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import medians
from record import figure, resident, write
from torch import Tensor

from congruence import metrics

WIDTH, CLASSES, PLAIN, QUERIES, MILLION = 64, 10, 4000, 2000, 1_000_000
DEFINITION = (
    "over plain: ours / the plain form that holds the whole N×N matrix, medians of interleaved calls in one process, "
    "processor seconds of one thread; N=...: peak megabytes that one call adds to a fresh process, its seconds beside"
)
BARS = {
    "kernel_transfer_error over plain": 0.1,
    "linear_cka over plain": 0.1,
    "mmd_discrepancy of the polynomial kernel over plain": 0.1,
    "retrieval_map over plain": 0.25,
    "neighbour_overlap over plain": 0.75,
    "intra_class_similarity over plain": 0.25,
    "inter_class_similarity over plain": 0.25,
    "kernel_transfer_error, N=10000": 64.0,
    "linear_cka, N=10000": 64.0,
    "retrieval_map, N=10000": 128.0,
    "neighbour_overlap, N=10000": 128.0,
    "inter_class_similarity, N=10000": 128.0,
    "kernel_transfer_error, N=50000": 64.0,
    "linear_cka, N=50000": 64.0,
    "retrieval_map of 2000 queries, N=50000": 256.0,
    "knn_accuracy of 2000 queries, N=50000": 256.0,
    "inter_class_similarity, N=50000": 256.0,
    "kernel_transfer_error, N=1000000": 64.0,
    "linear_cka, N=1000000": 64.0,
    "estimate of neighbour_overlap, N=1000000": 128.0,
    "estimate of global_perception_coherence, N=1000000": 128.0,
}
Call = Callable[[], Any]


def samples(rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """A teacher with some order in its classes, a student that is the teacher and noise, and the classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    teacher = torch.empty(rows, WIDTH, dtype=dtype)
    student = torch.empty(rows, WIDTH, dtype=dtype)
    centres = torch.randn(CLASSES, WIDTH, generator=generator) / 2
    for part in torch.arange(rows).split(100_000):
        drawn = centres[labels[part]] + torch.randn(len(part), WIDTH, generator=generator)
        teacher[part] = drawn.to(dtype)
        student[part] = (drawn + torch.randn(len(part), WIDTH, generator=generator)).to(dtype)
    return student, teacher, labels


def plain_kernel_error(student: Tensor, teacher: Tensor) -> float:
    kernel = teacher.double() @ teacher.double().T
    return float((student.double() @ student.double().T - kernel).norm() / kernel.norm())


def plain_cka(student: Tensor, teacher: Tensor) -> float:
    grams = []
    for x in (student.double(), teacher.double()):
        centred = x - x.mean(0)
        grams.append(centred @ centred.T)
    return float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))


def plain_polynomial_mmd(student: Tensor, teacher: Tensor) -> float:
    pairs = ((student, student, 1), (teacher, teacher, 1), (student, teacher, -2))
    return float(sum(sign * (x.double() @ y.double().T).square().mean() for x, y, sign in pairs))


def plain_distances(x: Tensor, y: Tensor) -> Tensor:
    return ((1 - F.normalize(x.double()) @ F.normalize(y.double()).T) / 2).float()


def plain_map(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    hits = labels[plain_distances(student, teacher).argsort(dim=1, stable=True)] == labels[:, None]
    hits_so_far = hits.cumsum(1)
    precision = hits_so_far / torch.arange(1, len(labels) + 1, dtype=torch.float64)
    largest = precision.flip(1).cummax(1).values.flip(1)
    levels = torch.arange(11) * hits_so_far[:, -1:]
    return float(largest.gather(1, torch.searchsorted(10 * hits_so_far, levels)).mean())


def plain_overlap(student: Tensor, teacher: Tensor) -> float:
    near = []
    for side in (student, teacher):
        nearest = plain_distances(side, side).fill_diagonal_(torch.inf).topk(10, largest=False).indices
        near.append(torch.zeros(len(side), len(side), dtype=torch.bool).scatter_(1, nearest, value=True))
    return float((near[0] & near[1]).sum() / (10 * len(student)))


def plain_similarity(teacher: Tensor, labels: Tensor, *, same: bool) -> float:
    values = (F.normalize(teacher.double()) @ F.normalize(teacher.double()).T).exp()
    wanted = (labels[:, None] == labels) == same
    return float(values[wanted.fill_diagonal_(fill_value=False)].mean())


def comparisons() -> dict[str, tuple[Call, Call]]:
    """Ours and the plain form, of N = 4000 samples."""
    s, t, y = samples(PLAIN)
    return {
        "kernel_transfer_error": (lambda: metrics.kernel_transfer_error(s, t), lambda: plain_kernel_error(s, t)),
        "linear_cka": (lambda: metrics.linear_cka(s, t), lambda: plain_cka(s, t)),
        "mmd_discrepancy of the polynomial kernel": (
            lambda: metrics.mmd_discrepancy(s, t, kernel="polynomial"),
            lambda: plain_polynomial_mmd(s, t),
        ),
        "retrieval_map": (lambda: metrics.retrieval_map(s, y, t, y), lambda: plain_map(s, t, y)),
        "neighbour_overlap": (lambda: metrics.neighbour_overlap(s, t, k=10), lambda: plain_overlap(s, t)),
        "intra_class_similarity": (
            lambda: metrics.intra_class_similarity(t, y),
            lambda: plain_similarity(t, y, same=True),
        ),
        "inter_class_similarity": (
            lambda: metrics.inter_class_similarity(t, y),
            lambda: plain_similarity(t, y, same=False),
        ),
    }


def calls(rows: int) -> dict[str, Call]:
    """What is measured on so many samples; what ranks 50,000 of them does it for 2,000 queries, a 25th of all."""
    s, t, y = samples(rows, torch.float16 if rows == MILLION else torch.float32)
    size = f", N={rows}"
    works: dict[str, Call] = {"kernel_transfer_error" + size: lambda: metrics.kernel_transfer_error(s, t)}
    if rows == MILLION:
        draws = {"repeats": 5, "generator": torch.Generator().manual_seed(0)}

        def subset(metric: Call, size: int, **options: Any) -> Call:
            return lambda: metrics.estimate(metric, s, t, sample_size=size, **draws, **options)

        return works | {
            "linear_cka" + size: lambda: metrics.linear_cka(s, t),
            "estimate of neighbour_overlap" + size: subset(metrics.neighbour_overlap, 4000, k=10),
            "estimate of global_perception_coherence" + size: subset(metrics.global_perception_coherence, 2000),
        }
    works["linear_cka" + size] = lambda: metrics.linear_cka(s, t)
    works["inter_class_similarity" + size] = lambda: metrics.inter_class_similarity(t, y)
    if rows == 10_000:
        return works | {
            "retrieval_map" + size: lambda: metrics.retrieval_map(s, y, t, y),
            "neighbour_overlap" + size: lambda: metrics.neighbour_overlap(s, t, k=10),
        }
    part = slice(QUERIES)
    return works | {
        f"retrieval_map of {QUERIES} queries" + size: lambda: metrics.retrieval_map(s[part], y[part], t, y),
        f"knn_accuracy of {QUERIES} queries" + size: lambda: metrics.knn_accuracy(s[part], y[part], t, y),
    }


def measured(call: Call, answer: Any) -> None:
    """Send the seconds of one call, the megabytes that it adds to this process, and its value."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = resident("VmRSS"), time.process_time()
    value = call()
    seconds = time.process_time() - start
    answer.send((seconds, (resident("VmHWM") - before) / 1e6, value))


def alone(call: Call) -> tuple[float, float, Any]:
    """Measure a call in a fork of this process, so that no memory is used again that another call had freed."""
    context = multiprocessing.get_context("fork")
    answer, ask = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(call, ask))
    process.start()
    figures: tuple[float, float, Any] = answer.recv()
    process.join()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved pairs")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    figures = []
    for name, pair in comparisons().items():
        ours, plain = medians(dict(zip(("ours", "plain"), pair, strict=True)), rounds).values()
        row = {"milliseconds": round(1e3 * ours, 1), "plain_milliseconds": round(1e3 * plain, 1)}
        figures.append(figure(f"{name} over plain", ours / plain, BARS[f"{name} over plain"], **row))
    for rows in (10_000, 50_000, MILLION):
        for name, call in calls(rows).items():
            seconds, megabytes, value = alone(call)
            spread = {"mean": value.mean, "spread": value.spread} if isinstance(value, metrics.Estimate) else {}
            figures.append(figure(name, megabytes, BARS[name], seconds=round(seconds, 2), **spread))
    note = "the plain forms hold 8 N² bytes and more: 800 MB at N = 10,000, 20 GB at N = 50,000"
    write("metrics", DEFINITION, figures, width=WIDTH, rounds=rounds, note=note)


if __name__ == "__main__":
    main()

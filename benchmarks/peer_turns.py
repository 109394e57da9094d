"""Training runs of `peers.py` that take turns: each in a process of its own, an epoch at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peer_worker import Job
from record import ROOT


class Ran(NamedTuple):
    """What one training run has told."""

    seconds: list[float]
    losses: list[float]
    end: dict[str, Any]

    @property
    def total(self) -> float:
        """All of its processor seconds."""
        return sum(self.seconds) + float(self.end["end"])


class Worker:
    """A training run in a process of its own."""

    def __init__(self, job: Job, log: Path) -> None:
        self.job, self.log = job, log
        alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # a GPU would draw some loops to it, not all
        environment = {**os.environ, **alone, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, str(ROOT / "benchmarks" / "peer_worker.py"), job.line()]
        with log.open("w", encoding="utf8") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )

    def read(self) -> dict[str, Any]:
        """Wait for its next line."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            last = "\n".join(self.log.read_text(encoding="utf8", errors="replace").splitlines()[-5:])
            raise SystemExit(f"The run of {self.job.loop} with {self.job.method} ended early:\n{last}")
        return dict(json.loads(line))

    def go(self) -> dict[str, Any]:
        """Let it go on, and wait for what it tells."""
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):  # `read` says why it has ended
                self.process.stdin.write("\n")
                self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """End it."""
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def interleaved(jobs: Mapping[str, Job]) -> dict[str, Ran]:
    """Train them all, taking turns after each epoch; the order of a round is the last one's, turned round."""
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers, starts = {}, {}
        for number, (name, job) in enumerate(jobs.items()):
            workers[name] = Worker(job, logs / f"{number}.txt")
            stack.callback(workers[name].close)
            starts[name] = workers[name].read()
        same_start(starts)
        told: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
        order = list(jobs)
        for _ in range(max(job.epochs for job in jobs.values())):
            for name in order:
                if len(told[name]) < jobs[name].epochs:
                    told[name].append(workers[name].go())
            order.reverse()
        ends = {name: worker.go() for name, worker in workers.items()}
    return {
        name: Ran([each["seconds"] for each in rows], [each["loss"] for each in rows], ends[name])
        for name, rows in told.items()
    }


def same_start(starts: Mapping[str, Mapping[str, Any]]) -> None:
    """Stop where runs do not begin with the same weights and images."""
    pairs = {(each["student"], each["teacher"]) for each in starts.values()}
    off = max(each["off"] for each in starts.values())
    if len(pairs) > 1 or off > 1e-5:
        raise SystemExit(f"The runs do not train the same: {starts}")

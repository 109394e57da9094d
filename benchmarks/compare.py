"""What `congruence.compare` costs beside the forward passes that it cannot do without.

python benchmarks/compare.py [--samples 10000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from pair import pictures
from record import figure, resident, write

import congruence as cg
from congruence.evaluation.embed import embed

CLASSES, BAR = 10, 2.0
DEFINITION = (
    "processor time of comparing a cnn3 with a resnet20 (no probe, no exact plan, no latency) / of one forward pass of "
    "both over the same images of 32x32; megabytes: what the process held at most beyond what the passes needed; on "
    "one thread"
)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = pictures(samples, batch=50, views=1).dataset
    teacher, student = (cg.models.build(name, classes=CLASSES).eval() for name in ("resnet20", "cnn3"))

    def batches() -> cg.data.Loader:
        return cg.data.loader(images, batch_size=50, shuffle=False)

    few = cg.data.loader(images.subset(range(100)), batch_size=50, shuffle=False)
    cg.compare(teacher, {"student": student}, few)  # what is imported on first use
    passes = seconds(lambda: [embed(model, batches()) for model in (teacher, student)])
    before = resident("VmHWM")
    compared = seconds(lambda: cg.compare(teacher, {"student": student}, batches()))
    more = (resident("VmHWM") - before) / 1e6
    write(
        "compare",
        DEFINITION,
        [
            figure("time over forward passes", compared / passes, BAR, seconds=round(compared, 2)),
            figure("peak memory, megabytes", more),
        ],
        setting={"samples": samples, "forward_seconds": round(passes, 2)},
    )


if __name__ == "__main__":
    main()

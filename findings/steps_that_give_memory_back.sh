#!/usr/bin/env bash
# torch 2.13.0 on a CPU, glibc 2.36.
#
# Behaviour: what a training step frees is given back to the system, and the next step has the same pages mapped and
# zeroed anew. torch keeps freed memory on a GPU; on a CPU it leaves that to malloc, and glibc keeps 64 MB at most.
# Seen: a small convolutional network at batch 64: thousands of page faults in every step, for ever, and next to none
# with MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ set.
# Whom it hurts: whoever trains small students on processors: an eighth of a step of the usual ones was system time.
# This library keeps the memory while it trains and measures, and gives it back afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/steps.py" <<'PYTHON'
import resource

import torch
from torch import nn

torch.set_num_threads(1)
layers = [layer for width in (3, 16, 16, 16) for layer in (nn.Conv2d(width, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())]
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
images = torch.randn(64, 3, 32, 32)


def faults(steps: int) -> float:
    """Page faults a step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        model.zero_grad()
        model(images).sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps


faults(5)  # warms up
print(int(faults(10)))
PYTHON
plain=$("$folder/venv/bin/python" "$folder/steps.py")
kept=$(MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_THRESHOLD_=33554432 "$folder/venv/bin/python" "$folder/steps.py")
echo "page faults a step: $plain, with memory kept $kept"
test "$plain" -gt 1000 || { echo "steps keep their memory now: the behaviour has changed"; exit 1; }
test "$kept" -lt $((plain / 20)) || { echo "the settings do not keep it any more"; exit 1; }

#!/usr/bin/env bash
# torch 2.13.0, autocast to bfloat16 or float16 on an x86 processor without AVX-512 (ONEDNN_MAX_CPU_ISA=AVX2 makes any
# processor one).
#
# Behaviour: torch's fast kernels refuse both types there, and plain loops take over, without a warning. One would
# expect half precision to cost at worst a conversion to float32 and back.
# Seen: forward and backward of two convolutions of 16 channels take 13 times as long as in float32, of two linear
# layers of 256 units 7 (bfloat16) and 12 times (float16), on one thread.
# Whom it hurts: who takes a recipe with bf16 from a server to a laptop, or to a virtual machine whose processor is
# another: hours become days and nothing says why. `fit` of this library warns.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
ONEDNN_MAX_CPU_ISA=AVX2 "$folder/venv/bin/python" - <<'PYTHON'
import statistics
import time
import warnings

import torch

torch.set_num_threads(1)


def seconds(model: torch.nn.Module, inputs: torch.Tensor, dtype: torch.dtype) -> float:
    """The median time of a forward and a backward."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            output = model(inputs)
        output.float().square().mean().backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


convolutions = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)))
linear = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(2)))
with warnings.catch_warnings():
    warnings.simplefilter("error")  # a warning would end this
    for name, model, inputs in (
        ("two convolutions", convolutions, torch.randn(16, 16, 32, 32)),
        ("two linear layers", linear, torch.randn(512, 256)),
    ):
        plain = seconds(model, inputs, torch.float32)
        for dtype in (torch.bfloat16, torch.float16):
            ratio = seconds(model, inputs, dtype) / plain
            print(f"{name}: {dtype} takes {ratio:.1f} times as long as float32")
            assert ratio > 2
PYTHON

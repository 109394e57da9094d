#!/usr/bin/env bash
# torch 2.13.0, torch.optim.SGD(momentum=0.9, fused=True) with torch.amp.GradScaler.
#
# Behaviour: where the scaler skips the optimizer's FIRST step (its gradient overflowed, as at the starting scale of
# 65536 it often does), the momentum is left as uninitialised memory, and the second step moves the parameters by it.
# SGD without `fused`, and the fused Adam and AdamW, start from nothing, as they should.
# Seen: after one skipped step and one with a gradient of 1, parameters of NaN or of 1e20 where 0.9 is right, on a CPU
# and on a GPU; fp16 runs that come to NaN at their second step, once in a while.
# Whom it hurts: who trains a student in fp16 with fused SGD in a loop of their own. Steps that this library makes give
# the optimizer a momentum of 0 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def after_one_skipped_step(fused: bool) -> bool:
    """Whether the parameter is right after a step that overflows and one with a gradient of 1."""
    parameter = torch.nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    used = [torch.full((1000,), float("nan")) for _ in range(20)]
    del used  # so that fresh memory is not zero by chance
    for gradient in (float("inf"), 1.0):
        scaler.scale(torch.ones(()))
        parameter.grad = torch.full((1000,), gradient) * (scaler.get_scale() if gradient == 1.0 else 1.0)
        scaler.step(optimizer)
        scaler.update()
    return bool(torch.allclose(parameter, torch.full((1000,), 0.9)))


plain = [after_one_skipped_step(False) for _ in range(5)]
fused = [after_one_skipped_step(True) for _ in range(5)]
print(f"right after a skipped first step: plain {plain}, fused {fused}")
assert all(plain), "SGD without fused is no longer right"
assert not all(fused), "fused SGD is right now: the behaviour has changed"
PYTHON

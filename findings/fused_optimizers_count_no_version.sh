#!/usr/bin/env bash
# torch 2.13.0, optimizers with fused=True.
#
# Behaviour: a step of a fused optimizer changes the parameters in place and does not count it in `tensor._version`, as
# every other in-place change does. Autograd therefore does not notice a backward through values that are gone, either.
# Seen: SGD and AdamW on a CPU, version 0 before and after the step with fused=True, larger after it without.
# Whom it hurts: who asks by the version whether a layer has been trained or a cached teacher has moved: after a run with
# the Trainer of transformers, whose default optimizer is fused, the answer is no. This library compares bits instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def counted(optimizer: type[torch.optim.Optimizer], fused: bool) -> tuple[bool, bool]:
    """Whether a step moved a parameter, and whether its version says so."""
    parameter = torch.nn.Parameter(torch.ones(8))
    parameter.grad = torch.ones(8)
    before, version = parameter.detach().clone(), parameter._version
    optimizer([parameter], lr=0.1, fused=fused).step()
    return not torch.equal(parameter, before), parameter._version > version


for optimizer in (torch.optim.SGD, torch.optim.AdamW):
    plain, fused = counted(optimizer, False), counted(optimizer, True)
    print(f"{optimizer.__name__}: moved and counted {plain}, fused {fused}")
    assert plain == (True, True), "without fused a step is no longer counted"
    assert fused == (True, False), "a fused step is counted now: the behaviour has changed"
PYTHON

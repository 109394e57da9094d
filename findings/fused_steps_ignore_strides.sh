#!/usr/bin/env bash
# torch 2.13.0, optimizers with fused=True on a CPU.
#
# Behaviour: the fused kernels walk through memory and do not look at strides. Where a gradient, or what the optimizer
# keeps of it, has another memory format than its parameter, values are added to the wrong weights, without a word.
# Seen: SGD with momentum and AdamW, a parameter with its channels last and a gradient with them first, as a mean over
# ranks of flattened gradients gives; and a parameter that was turned to channels last between two steps. Without fused
# both are right. Other optimizers and CUDA were not looked at.
# Whom it hurts: who turns a model to channels_last after the first step, resumes it in the other order, or replaces
# `.grad`, with the optimizer that several trainers take by default. This library gives gradients and state the order
# of their parameters before each fused step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def trained(optimizer: type[torch.optim.Optimizer], fused: bool, turned: bool, **options: float) -> torch.Tensor:
    """Three steps of a parameter that has its channels last, with gradients that have them first."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator)
    parameter = torch.nn.Parameter(weight if turned else weight.to(memory_format=torch.channels_last))
    steps = optimizer([parameter], lr=0.1, fused=fused, **options)
    for step in range(3):
        if step == 1 and turned:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
        gradient = torch.randn(4, 3, 3, 3, generator=generator)
        parameter.grad = gradient.contiguous(memory_format=torch.channels_last) if turned and step else gradient
        steps.step()
    return parameter.detach()


for optimizer, options in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {})):
    for turned in (False, True):
        apart = (trained(optimizer, True, turned, **options) - trained(optimizer, False, turned, **options)).abs().max()
        what = "turned after the first step" if turned else "gradients in the other order"
        print(f"{optimizer.__name__}, {what}: fused and plain differ by {float(apart):.3g}")
        assert apart > 0.01, "fused steps follow the strides now: the behaviour has changed"
PYTHON

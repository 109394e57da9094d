#!/usr/bin/env bash
# torch 2.13.0, torch.optim.SGD with momentum and fused=True.
#
# Behaviour: a step raises a TypeError where some parameters have had a gradient before and others get their first one
# now. Without fused, and with foreach, the late ones begin with a momentum of their own.
# Seen: two parameters on a CPU, the second of which has no gradient in the first step.
# Whom it hurts: whoever trains a part of a model from a later epoch on (a projector, an auxiliary head, a term with a
# start) with one optimizer for all: the run ends at the first step of that epoch. This library gives such parameters
# the momentum of 0 that a first step starts from.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def trained(**options: bool) -> str:
    """Two steps, of which the second parameter has a gradient in the second alone."""
    early, late = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([early, late], lr=0.1, momentum=0.9, **options)
    for step in range(2):
        early.grad, late.grad = torch.ones(2), torch.ones(2) if step else None
        try:
            optimizer.step()
        except TypeError as error:
            return f"TypeError: {error}"
    return str(late.tolist())


found = {name: trained(**{name: True}) for name in ("foreach", "fused")}
for name, what in found.items():
    print(f"{name}: {what}")
assert not found["foreach"].startswith("TypeError"), "the other ways raise, too"
assert found["fused"].startswith("TypeError"), "fused steps take late parameters now: the behaviour has changed"
PYTHON

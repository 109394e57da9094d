#!/usr/bin/env bash
# torch 2.13.0, torchao 0.18.0, quantize_(layer, Int8DynamicActivationInt8WeightConfig()).
#
# Behaviour: a layer quantised so gives its input no gradient, without a warning or an error: what lies before it gets
# `.grad is None`, while the loss has a gradient of what comes after it, so that `backward` runs. With the weights alone
# quantised (Int8WeightOnlyConfig) the same network gives the earlier layer its gradient.
# Seen: the gradient of the first of three layers, the middle one frozen and quantised either way.
# Whom it hurts: who trains something in front of a frozen quantised part, a head or a perceptual loss: it stays as it
# was, and the loss goes down by the last layer alone. This library tells such a layer in the first batch, by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 torchao==0.18.0
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

found = {}
for how in (Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig):
    torch.manual_seed(0)
    first, middle, last = nn.Linear(16, 32), nn.Sequential(nn.Linear(32, 8)), nn.Linear(8, 2)
    quantize_(middle, how())
    middle.requires_grad_(False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        last(middle(first(torch.randn(5, 16)))).sum().backward()
    assert last.weight.grad is not None
    found[how.__name__] = (first.weight.grad is not None, len(told))
print(f"gradient of the first layer, warnings: {found}")
assert found["Int8WeightOnlyConfig"] == (True, 0)
assert found["Int8DynamicActivationInt8WeightConfig"] == (False, 0), "the gradient goes on, or is warned of: it has changed"
PYTHON

#!/usr/bin/env bash
# torch 2.13.0, torch.nn.TransformerEncoder(..., enable_nested_tensor=True), which is the default.
#
# Behaviour: in evaluation mode, without gradient and with a padding mask, hooks on the inner layers get a nested tensor
# of the unpadded sequences, of which even `.shape` raises; in training mode, or without a mask, or where gradient is
# wanted, the same hooks get an ordinary tensor [B, T, D]. What leaves the encoder is ordinary in all cases.
# Seen: is_nested True for the inner layer, and the error, in one of the two modes of one model.
# Whom it hurts: who reads hidden layers of a teacher (frozen, in evaluation) by hooks that worked on a student in
# training. This library refuses such a layer with the remedy, enable_nested_tensor=False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch
from torch import nn

warnings.filterwarnings("ignore")  # that nested tensors are a prototype
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
encoder = nn.TransformerEncoder(layer, 2)
tokens, padding = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
padding[0, 3:] = True
taken = []
encoder.layers[1].register_forward_hook(lambda module, inputs, output: taken.append(output))
encoder.train()(tokens, src_key_padding_mask=padding)
with torch.no_grad():
    left = encoder.eval()(tokens, src_key_padding_mask=padding)
nested = [tensor.is_nested for tensor in taken]
print(f"nested in training, in evaluation: {nested}")
assert list(taken[0].shape) == [3, 5, 8]
assert nested == [False, True], "hooks get the same kind of tensor in both modes now: the behaviour has changed"
try:
    print(taken[1].shape)
    raise SystemExit("a nested tensor has a shape now: the behaviour has changed")
except RuntimeError as error:
    print(f"its shape: {error}")
assert not left.is_nested
PYTHON

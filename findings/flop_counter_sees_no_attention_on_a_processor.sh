#!/usr/bin/env bash
# torch 2.13.0, torch.utils.flop_counter.FlopCounterMode, on a processor.
#
# Behaviour: scaled dot-product attention by its default backend, a TransformerEncoderLayer in evaluation mode, an LSTM
# and a product of a matrix with a vector count as no operation at all, in silence; the same attention by the MATH
# backend, and the same layer in training mode, are counted. So a model's count depends on its mode.
# Seen: 0 for the encoder layer in evaluation, 5242880 in training; 0 for attention, 1048576 by the MATH backend.
# Whom it hurts: who states a student's cost from this counter: a transformer looks cheaper than its convolutional
# rival by whatever its attention costs, and a student that is an encoder layer costs nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention
from torch.utils.flop_counter import FlopCounterMode


def counted(call):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def by_products():
    with sdpa_kernel(SDPBackend.MATH):
        attention(heads, heads, heads)


heads, words = torch.randn(1, 4, 64, 16), torch.randn(1, 64, 64)
layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
found = {
    "attention": counted(lambda: attention(heads, heads, heads)),
    "attention, MATH": counted(by_products),
    "encoder layer, training": counted(lambda: layer.train()(words)),
    "encoder layer, evaluation": counted(lambda: layer.eval()(words)),
    "LSTM": counted(lambda: nn.LSTM(32, 64).eval()(torch.randn(10, 1, 32))),
    "matrix and vector": counted(lambda: torch.randn(100, 50) @ torch.randn(50)),
}
print(found)
assert found["attention, MATH"] == 2 * 2 * 4 * 64 * 64 * 16, "attention taken apart is counted otherwise now"
assert found["encoder layer, training"] > 5_000_000, "the layer in training is counted otherwise now"
silent = ("attention", "encoder layer, evaluation", "LSTM", "matrix and vector")
assert not any(found[name] for name in silent), "the counter sees more now: the behaviour has changed"
PYTHON

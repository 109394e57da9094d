#!/usr/bin/env bash
# torch 2.13.0, torch.nn.MultiheadAttention(batch_first=True) in evaluation mode, a row whose keys are all padding.
#
# Behaviour: the same module with the same weights and inputs gives NaN for that row where no gradient is wanted (its
# fast path) and finite numbers where one is wanted. The other rows agree.
# Seen: NaN under no_grad, finite with gradient, for one sample of padding alone beside a usual one.
# Whom it hurts: who distils from a frozen teacher on batches with empty samples: the teacher's row is NaN where the same
# network as a student is finite, so the loss is NaN from its first step and the learning rate gets the blame. A run of
# this library names the teacher's layer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
tokens, padding = torch.randn(2, 4, 8), torch.zeros(2, 4, dtype=torch.bool)
padding[0] = True
with torch.no_grad():
    frozen = attention(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)[0]
trained = attention(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)[0].detach()
print(f"finite rows without gradient {frozen.isfinite().all(-1).all(-1).tolist()}, with "
      f"{trained.isfinite().all(-1).all(-1).tolist()}")
torch.testing.assert_close(frozen[1], trained[1])
assert frozen[0].isnan().all(), "a row of padding is no longer NaN without gradient: the behaviour has changed"
assert trained[0].isfinite().all(), "a row of padding is no longer finite with gradient: the behaviour has changed"
PYTHON

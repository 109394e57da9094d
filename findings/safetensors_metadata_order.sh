#!/usr/bin/env bash
# safetensors 0.8.0, save(tensors, metadata={...}) with two or more metadata entries.
#
# Behaviour: the entries are written in another order each time, so that the same tensors with the same metadata give
# files of different bytes. The tensors' own order is fixed, and with at most one entry the bytes are equal.
# Seen: several different files among 40 writes of one tensor with three entries, in one process.
# Whom it hurts: who tells weights files apart by their hash: a cache, a registry or a test finds the same student to be
# another one after each save. Files that this library writes have their metadata in a fixed order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
from safetensors.numpy import save

tensors = {"weight": numpy.ones(4, dtype=numpy.float32)}
three = {save(tensors, metadata={"format": "pt", "classes": "10", "epoch": "3"}) for _ in range(40)}
one = {save(tensors, metadata={"format": "pt"}) for _ in range(40)}
print(f"different files: {len(three)} with three entries, {len(one)} with one")
assert len(one) == 1, "one entry no longer gives equal bytes"
assert len(three) > 1, "several entries give equal bytes now: the behaviour has changed"
PYTHON

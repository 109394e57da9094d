#!/usr/bin/env bash
# torch 2.13.0, torch.onnx.export(model, args, "model.onnx") by its default exporter, onnx 1.23.2, onnxruntime 1.32.0.
#
# Behaviour: the weights of a model of any size, 105 parameters here, go into a second file, model.onnx.data; the call
# names one file and says nothing of another. Below 2 GB one file could hold them (external_data=False).
# Seen: model.onnx of 1.7 kB beside model.onnx.data of 400 bytes. Moved alone, the first fails to open in onnxruntime.
# Whom it hurts: who uploads or copies the file that was asked for: it opens where it was made, so that tests of the
# export pass, and fails on the machine that it was made for. An export of this library is one file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import shutil
import sys
from pathlib import Path

import onnxruntime
import torch
from torch import nn

made, moved = Path(sys.argv[1]) / "made", Path(sys.argv[1]) / "moved"
made.mkdir(), moved.mkdir()
torch.onnx.export(nn.Linear(20, 5), (torch.randn(2, 20),), str(made / "model.onnx"), verbose=False)
files = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
print(f"written: {files}")
onnxruntime.InferenceSession(str(made / "model.onnx"))
shutil.copy(made / "model.onnx", moved)
try:
    onnxruntime.InferenceSession(str(moved / "model.onnx"))
    opened = True
except Exception as error:
    opened = False
    print(f"moved alone: {type(error).__name__}: {str(error)[:90]}")
assert "model.onnx.data" in files, "the weights are in the one file now: the behaviour has changed"
assert not opened, "the file opens without its weights: the behaviour has changed"
PYTHON

"""The accuracy of an exported student on raw images, with NumPy and onnxruntime alone: clean_onnx.py FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(sys.argv[1])
facts = json.loads((folder / "model.json").read_text())
test = np.load(folder / "test.npz")
mean, std = (np.asarray(facts[key], dtype=np.float32)[None, :, None, None] for key in ("mean", "std"))
session = onnxruntime.InferenceSession(str(folder / "student.onnx"), providers=["CPUExecutionProvider"])
images = (test["images"].astype(np.float32) / 255 - mean) / std
(name,) = [each["name"] for each in facts["export"]["inputs"]]
logits = session.run(["logits"], {name: images})[0]
assert not {"torch", "congruence"} & set(sys.modules)
print(float((logits.argmax(1) == test["labels"]).mean()))

#!/usr/bin/env bash
# onnxruntime 1.32.0, onnxruntime.quantization.quantize_dynamic on a model of two matrix products.
#
# Behaviour: the activations get one scale for the whole batch, so that what the model says of a sample depends on the
# others in its batch: with a large mate a sample's answer is another, by far more than rounding.
# Seen: the same sample beside itself and beside one that is 50 times larger, quantised and not.
# Whom it hurts: who stores a quantised model's answers (a cache for distillation, an index of embeddings) and compares
# them with what it says later in other batches. This library's cache finds it out and tells it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save
from onnxruntime.quantization import QuantType, quantize_dynamic

plain, quantised = (f"{sys.argv[1]}/{name}.onnx" for name in ("plain", "quantised"))
random = np.random.default_rng(0)
weights = [random.standard_normal(shape).astype(np.float32) for shape in ((16, 32), (32, 4))]
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["y"]),
    ],
    "net",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), plain)
quantize_dynamic(plain, quantised, weight_type=QuantType.QInt8)
sample = random.standard_normal((1, 16)).astype(np.float32)
moved = {}
for name, path in (("plain", plain), ("quantised", quantised)):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    own, beside = (session.run(None, {"x": np.concatenate([sample, mate])})[0][0] for mate in (sample, 50 * sample))
    moved[name] = float(np.linalg.norm(own - beside) / np.linalg.norm(own))
print(f"how far a sample's answer moves with its mate: {moved}")
assert moved["plain"] < 1e-5
assert moved["quantised"] > 0.05, "a sample's answer no longer depends on its mate: the behaviour has changed"
PYTHON

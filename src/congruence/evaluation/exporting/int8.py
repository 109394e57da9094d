"""An ONNX file in int8, by onnxruntime: calibrated on training images, or with weights alone for texts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from congruence.core import check
from congruence.core.devices import tensors
from congruence.evaluation.exporting.formats import quiet, require
from congruence.evaluation.exporting.graph import Graph
from congruence.evaluation.exporting.sameness import Samples

DYNAMIC = "dynamic: activations scaled by the range of each batch"
CALIBRATED_ON = 256  # samples
_BATCH = 32


def quantise(source: Path, path: Path, graph: Graph, samples: Samples | None) -> str:
    """Write an ONNX file in int8 and return how, in words: static for images, dynamic for inputs of whole numbers.

    Static: weights (a scale a channel) and activations in int8; the activations' ranges are those of `CALIBRATED_ON`
    samples, so that what a sample gets does not depend on its batch. Dynamic: weights in int8, activations as each
    batch's range tells.

    Args:
        source: the file in float32.
        path: of the new one.
        graph: from which the first was made.
        samples: training samples; static quantisation needs them.

    Raises:
        ValueError: without onnxruntime or samples, or where it cannot quantise the file.
    """
    require("onnx", "onnxruntime")
    if samples is None:
        raise ValueError("int8 needs training data to find the ranges of the activations: give data= (--data).")
    whole = _are_whole(samples)
    with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = Path(folder) / "prepared.onnx"
        kind = quantization.QuantType.QInt8
        try:
            quant_pre_process(str(source), str(prepared))
            if whole:
                quantization.quantize_dynamic(str(prepared), str(path), weight_type=kind)
                return DYNAMIC
            quantization.quantize_static(
                str(prepared),
                str(path),
                _reader(graph, samples),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=kind,
                weight_type=kind,
            )
        except Exception as error:  # onnxruntime may raise anything
            raise ValueError(f"onnxruntime cannot make an int8 file of the model: {check.sentence(error)}") from error
    return f"static: calibrated on {min(CALIBRATED_ON, samples.count)} training samples"


def _are_whole(samples: Samples) -> bool:
    given = tensors(samples.take(torch.zeros(1, dtype=torch.int64)))
    return not any(each.is_floating_point() for each in given)


def _reader(graph: Graph, samples: Samples) -> Any:
    """Return what onnxruntime asks for batches by name, until it gets None."""
    from onnxruntime.quantization import CalibrationDataReader

    def batches() -> Iterator[dict[str, Any]]:
        for at in samples.spread(CALIBRATED_ON).split(_BATCH):
            arguments = graph.arguments(samples.take(at))
            yield {
                name: np.ascontiguousarray(tensor.numpy()) for name, tensor in zip(graph.inputs, arguments, strict=True)
            }

    class Reader(CalibrationDataReader):
        """The batches, once."""

        def __init__(self) -> None:
            self.left = batches()

        def get_next(self) -> dict[str, Any] | None:
            """Return the next one."""
            return next(self.left, None)

    return Reader()

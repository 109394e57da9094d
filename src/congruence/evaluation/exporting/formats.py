"""The formats: which there are, what writes each, and what runs it again."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.devices import tensors
from congruence.core.files import naming
from congruence.evaluation.exporting.graph import Graph
from congruence.models.adapters import kind_of
from congruence.models.evaluating import evaluating
from congruence.models.onnx_model import OnnxModel

FORMATS = ("onnx", "torch-export", "safetensors", "hf", "st", "timm")
TRACED = {"onnx": "student.onnx", "torch-export": "student.pt2"}
INT8 = "student.int8.onnx"
OPSET = 20
LIBRARIES = {"hf": "transformers", "st": "sentence-transformers", "timm": "timm"}
_MOST = 2**31 - 2**20  # bytes of one protobuf message, with some room for the graph
Run = Callable[[Any], dict[str, Tensor]]  # from a batch of inputs to the outputs by name


def check_format(to: str, model: nn.Module | None = None) -> None:
    """Refuse a format that is not there, whose packages are missing, or that is of another library than the model.

    Example:
        >>> check_format("onx")
        Traceback (most recent call last):
        ValueError: `export`: `to` must be one of onnx, torch-export, safetensors, hf, st, timm, got 'onx'. Did you...
    """
    if to not in FORMATS:
        check.fail("export", "to", f"one of {', '.join(FORMATS)}", f"{to!r}.{check.near(str(to), FORMATS)}"[:-1])
    if to == "onnx":
        require("onnx", "onnxscript", "onnxruntime")
    if to in LIBRARIES and model is not None and kind_of(model) != to:
        raise ValueError(
            f"The model is no model of {LIBRARIES[to]} ({type(model).__name__}), so that library has no folder for it: "
            f"export it to onnx, torch-export or safetensors."
        )


def require(*packages: str) -> None:
    """Refuse in one sentence where a package of the extra `export` is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, RuntimeError):
            raise ValueError(
                f"Export to ONNX needs {package}, which is not there: pip install 'congruence[export]'."
            ) from None


def write_onnx(graph: Graph, example: Any, path: Path) -> None:
    """Write a graph as one ONNX file with its weights inside, whose batch is of any size.

    Raises:
        ValueError: for weights that one file cannot hold, or a model that torch's exporter refuses.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*graph.parameters(), *graph.buffers()))
    if size > _MOST:
        raise ValueError(
            f"The model's weights are {size / 2**30:.1f} GB, and one ONNX file holds 2 GB at most: export it to "
            "torch-export or safetensors."
        )
    arguments = graph.arguments(example)
    with _tracing(graph, "ONNX"):
        program = torch.onnx.export(
            graph,
            arguments,
            dynamo=True,
            dynamic_shapes=_any_batch(arguments),
            input_names=list(graph.inputs),
            output_names=list(graph.paths),
            opset_version=OPSET,
            verbose=False,
        )
        if program is None:
            raise ValueError("torch's exporter gave nothing")
        with naming(path):
            program.save(str(path), external_data=False)


def write_program(graph: Graph, example: Any, path: Path) -> None:
    """Write a graph as an exported program of torch, whose batch is of any size.

    Raises:
        ValueError: for a model that torch's exporter refuses.
    """
    arguments = graph.arguments(example)
    with _tracing(graph, "torch.export"):
        program = torch.export.export(graph, arguments, dynamic_shapes=_any_batch(arguments))
        with naming(path):
            torch.export.save(program, str(path))


def run_onnx(path: Path, graph: Graph) -> Run:
    """Return what runs an ONNX file on a batch of inputs."""
    model = OnnxModel(path)

    def run(inputs: Any) -> dict[str, Tensor]:
        given = model(**dict(zip(graph.inputs, graph.arguments(inputs), strict=True)))
        return given if isinstance(given, dict) else {next(iter(graph.paths)): given}

    return run


def run_program(path: Path, graph: Graph) -> Run:
    """Return what runs an exported program on a batch of inputs."""
    with quiet():
        module = torch.export.load(str(path)).module()

    @torch.no_grad()
    def run(inputs: Any) -> dict[str, Tensor]:
        return dict(zip(graph.paths, module(*graph.arguments(inputs)), strict=True))

    return run


def _any_batch(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if not all(isinstance(each, Tensor) for each in arguments):
        check.fail("export", "example", "tensors", ", ".join(type(each).__name__ for each in arguments))
    batch = torch.export.Dim("batch", min=1)
    return {"inputs": tuple({0: batch} for _ in arguments)}


@contextlib.contextmanager
def _tracing(graph: Graph, what: str) -> Iterator[None]:
    """Hold a graph in evaluation mode, and say in one sentence why it cannot be traced."""
    with evaluating(graph), torch.no_grad(), quiet():
        try:
            yield
        except Exception as error:  # torch's exporters may raise anything
            if isinstance(error, OSError) and error.filename is not None:  # of the disk
                raise
            raise ValueError(f"The model cannot be exported by {what}: {_reason(error)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what exporters tell about themselves: by loggers of their own, and graphs that they print."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unread = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """Return the first line of what an error rests on: the exporters' own text is advice to their authors."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return check.sentence(error)[:400]


def described(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the names, types and shapes of inputs or outputs as plain values; the batch is named, not counted."""
    return [
        {"name": name, "dtype": str(t.dtype).removeprefix("torch."), "shape": ["batch", *t.shape[1:]]}
        for name, value in values.items()
        for t in tensors(value)
    ]

"""An ONNX file as a frozen model: onnxruntime runs it, on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from congruence.core import check

_TYPES = {  # of onnxruntime's inputs
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxModel(nn.Module):
    """An ONNX file as a frozen network, for use as a teacher or in comparisons.

    It has no parameters and gives no gradient. onnxruntime runs it on the CPU: tensors on another device are moved
    there, and its outputs are moved back. Inputs are given by position in the file's order, or by name; floating-point
    inputs are converted to the file's precision. A file with one output returns a tensor, a file with several a mapping
    by name, whose parts terms read as "output[NAME]". Inner layers cannot be read, so for methods of features, export a
    model with its embedding as an output (called "embedding") in addition to "logits".
    A file with a fixed batch size is run in chunks of that size, the last one padded with its first samples: export
    with a dynamic batch for speed.

    Args:
        path: path of the file; large weights are in a file next to it (`torch.onnx.export` writes "FILE.data").
        threads: number of onnxruntime's threads; None for torch's number.

    Shape:
        Inputs and outputs as in the file, with the batch first.

    Raises:
        ValueError: if onnxruntime is not installed, or the file is absent, damaged or without its weights; at a call,
            for inputs that the file does not accept.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        super().__init__()
        if not (threads is None or check.COUNT.accepts(threads)):
            check.fail("OnnxModel", "threads", "None or a whole number >= 1", repr(threads))
        self.path = Path(path).expanduser().absolute()
        self._session = _Session(self.path, threads)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what it takes, in order."""
        return tuple(each.name for each in self._session.opened.get_inputs())

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return tuple(each.name for each in self._session.opened.get_outputs())

    def extra_repr(self) -> str:
        """Name the file."""
        return f"path='{self.path}'"

    @torch.no_grad()
    def forward(self, *args: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
        """Return what the file says of a batch."""
        given = self._by_name(args, named)
        device = next(iter(given.values())).device
        fed = {each.name: self._array(each, given[each.name]) for each in self._session.opened.get_inputs()}
        answers = self._run(fed)
        parts = {name: torch.from_numpy(answer).to(device) for name, answer in zip(self.outputs, answers, strict=True)}
        return next(iter(parts.values())) if len(parts) == 1 else parts

    def _by_name(self, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> dict[str, Tensor]:
        given = {**dict(zip(self.inputs, args, strict=False)), **named}
        if len(args) > len(self.inputs) or len(given) < len(args) + len(named) or set(given) != set(self.inputs):
            got = ", ".join([*([f"{len(args)} by position"] if args else []), *named]) or "none"
            raise ValueError(f"The ONNX file '{self.path}' takes {', '.join(self.inputs)}, got {got}.")
        wrong = next((name for name, tensor in given.items() if not isinstance(tensor, Tensor)), None)
        if wrong is not None:
            kind = type(given[wrong]).__name__
            raise ValueError(f"The ONNX file '{self.path}' takes a tensor as '{wrong}', got {kind}.")
        return given

    def _array(self, each: Any, tensor: Tensor) -> Any:
        """Return an input as the file takes it: of its precision, and of its sizes."""
        wanted = _TYPES.get(each.type)
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()
        kinds = (np.floating, np.integer, np.bool_)
        if wanted is None or not any(
            np.issubdtype(wanted, kind) and np.issubdtype(array.dtype, kind) for kind in kinds
        ):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"The ONNX file '{self.path}' takes {each.type} as '{each.name}', got {dtype}.")
        sizes = [(is_, got) for is_, got in zip(each.shape[1:], array.shape[1:], strict=False) if isinstance(is_, int)]
        if len(each.shape) != array.ndim or any(is_ != got for is_, got in sizes):
            raise ValueError(
                f"The ONNX file '{self.path}' takes {_sizes(each)} as '{each.name}', got {check.shape(tensor)}."
            )
        return np.ascontiguousarray(array, dtype=wanted)

    def _run(self, fed: dict[str, Any]) -> list[Any]:
        """Run the file over a batch, in chunks where it has a batch size of its own."""
        sizes = {each.name: each.shape[0] if each.shape else 0 for each in self._session.opened.get_inputs()}
        rows = {name: len(array) if array.ndim else 0 for name, array in fed.items()}
        if all(not isinstance(size, int) or size == rows[name] for name, size in sizes.items()):
            return self._session.run(fed)
        size, count = next(iter(sizes.values())), next(iter(rows.values()))
        if len(set(sizes.values())) > 1 or len(set(rows.values())) > 1:
            self._refuse_sizes(", ".join(str(array.shape[:1]) for array in fed.values()))
        chunks = []
        for start in range(0, count, size):
            # The last chunk is filled up with its own rows, from the first on.
            at = np.resize(np.arange(start, min(start + size, count)), size)
            answers = self._session.run({name: array[at] for name, array in fed.items()})
            if any(answer.ndim == 0 or len(answer) != size for answer in answers):
                self._refuse_sizes(str(count))
            chunks.append([answer[: count - start] for answer in answers])
        return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]

    def _refuse_sizes(self, got: str) -> None:
        session = self._session.opened
        every = [*session.get_inputs(), *session.get_outputs()]
        raise ValueError(
            f"The ONNX file '{self.path}' has fixed sizes ({', '.join(map(_described, every))}) that do not say how to "
            f"run a batch of {got}: export it with a dynamic batch."
        )


class _Session:
    """What onnxruntime holds of a file, which a copy, and another process, opens anew."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.path, self.threads = path, threads
        self.opened = _open(path, threads)

    def __getstate__(self) -> tuple[Path, int | None]:
        return self.path, self.threads

    def __setstate__(self, state: tuple[Path, int | None]) -> None:
        self.path, self.threads = state
        self.opened = _open(self.path, self.threads)

    def run(self, fed: dict[str, Any]) -> list[Any]:
        """Return the outputs, in order.

        Raises:
            ValueError: if onnxruntime fails, with its text.
        """
        try:
            answers = self.opened.run(None, fed)
        except Exception as error:  # of onnxruntime's own classes
            raise ValueError(f"The ONNX file '{self.path}' failed with {_text(error)}") from error
        for each, answer in zip(self.opened.get_outputs(), answers, strict=True):
            if not isinstance(answer, np.ndarray):
                raise ValueError(
                    f"The ONNX file '{self.path}' gives no tensor as '{each.name}': export it without that."
                )
        return list(answers)


def _open(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except (ImportError, RuntimeError):
        raise ValueError(
            "An ONNX file is run by onnxruntime, which is not there: pip install 'congruence[export]'."
        ) from None
    if not path.is_file():
        raise ValueError(f"There is no ONNX file '{path}'.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors: they are raised as well
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own classes
        beside = ": its large weights lie in a file beside it, which must be moved along"
        hint = beside if "External data" in str(error) else ""
        raise ValueError(f"The ONNX file '{path}' cannot be read{hint} ({_text(error)}).") from error


def _text(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _sizes(each: Any) -> str:
    return "[" + ", ".join(map(str, each.shape)) + "]"


def _described(each: Any) -> str:
    return f"'{each.name}' {_sizes(each)}"

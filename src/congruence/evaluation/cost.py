"""The cost of a model: parameters, multiply-adds, the time of a call and its memory."""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from congruence.core import check, rng
from congruence.core.devices import private, row_count, take_rows, to_device
from congruence.core.inputs import STUDENT, TEACHER, inputs_of
from congruence.models.evaluating import set_mode
from congruence.models.forward import call, describe, in_own_precision
from congruence.models.layers import has_compiled, unwrap
from congruence.models.neutral import unchanged
from congruence.models.onnx_model import OnnxModel
from congruence.models.parameters import count_parameters
from congruence.models.teacher import called

CALLS = 20
_WARM, _LEAST, _SECONDS = 2, 3, 10.0  # calls before any counts; rounds that are timed at least, and how long at most
OUTSIDE = "onnxruntime runs it, outside torch"
# Names of torch's own operations that multiply and have no formula in its counter.
_UNCOUNTED = (
    *("rnn", "lstm", "gru", "native_multi_head", "transformer_encoder", "flash_attention_for_cpu", "int_mm"),
    *("int8pack", "int4pack", "grouped_mm", "trilinear", "sparse", "mkldnn", "quantized"),
)


def runs_outside(model: nn.Module) -> bool:
    """Whether torch sees nothing of what a model does, and of its parameters.

    Example:
        >>> runs_outside(nn.Linear(2, 2))
        False
    """
    return any(isinstance(part, OnnxModel) for part in model.modules())


class Cost(dict[str, float | int | None]):
    """A model's costs by name, see `cost`; `left_out` says why a number is None.

    Example:
        >>> Cost({"parameters": None}, {"parameters": "onnxruntime runs it, outside torch"})["parameters"]
    """

    left_out: dict[str, str]

    def __init__(self, values: Mapping[str, float | int | None], left_out: Mapping[str, str]) -> None:
        super().__init__(values)
        self.left_out = dict(left_out)


def cost(
    model: nn.Module,
    inputs: Any,
    *,
    batches: Sequence[int] = (1, 64),
    calls: int = CALLS,
    device: str | torch.device | None = None,
) -> Cost:
    """Measure a model's cost, in evaluation mode and without gradients.

    The mapping has these keys:

    - `parameters`: their number, counting shared ones once.  - `multiply_adds`: of one sample, in convolutions, matrix
    products and attention, as torch's counter of operations
      finds them. Attention is counted in full, including pairs that a mask leaves out.
    - `latency_1_ms`, `latency_64_ms` (one for each of `batches`): the median of the calls, in milliseconds, with the
      batch on the device. On a CPU, with torch's number of threads.
    - `peak_memory_mb`: what a forward of the largest batch needs beyond weights and inputs, in 10⁶ bytes: on CUDA the
      allocator's peak (whose statistics are reset), elsewhere the largest total size of live tensors returned by
      operations. This does not include memory inside an operation, which is below a tenth of the total for
      convolutional networks, but can exceed the measured part for recurrent layers. torch's encoder layers are counted
      unfused.
    Models that run outside torch (`OnnxModel`) only have times. The model's modes and buffers and the process's
    generators are restored; the model is on `device` afterwards.

    Args:
        model: any module.
        inputs: inputs of some samples, as `fit` takes them: a tensor, a tuple, a mapping or `congruence.Inputs`, whose
            entry for the student is used. The first samples are repeated to fill a batch.
        batches: batch sizes.
        calls: number of timed calls; fewer if they take more than 10 seconds, but at least 3.
        device: device to which the model is moved; None leaves it where it is.

    Returns:
        Cost: a dict. Its attribute `left_out` gives the reason for each number that is None.

    Raises:
        ValueError: for invalid arguments, and a model that fails on the inputs in every batch size.

    Example:
        >>> found = cost(nn.Linear(4, 2), torch.randn(8, 4), batches=(1, 16), calls=3)
        >>> list(found)
        ['parameters', 'multiply_adds', 'latency_1_ms', 'latency_16_ms', 'peak_memory_mb']
        >>> found["parameters"], found["multiply_adds"], found["peak_memory_mb"]
        (10, 8, 0.000128)
    """
    if not isinstance(model, nn.Module):
        check.fail("cost", "model", "a torch module", type(model).__name__)
    return costs({STUDENT: model}, inputs, batches=batches, calls=calls, device=device)[STUDENT]


def costs(
    models: Mapping[str, nn.Module],
    inputs: Any,
    *,
    batches: Sequence[int] = (1, 64),
    calls: int = CALLS,
    device: str | torch.device | None = None,
) -> dict[str, Cost]:
    """Measure the costs of several models, as `cost` does; they are called in turn, so that noise affects all equally.


    Args:
        models: models by name; from `congruence.Inputs` each takes its own entry, else "teacher" takes the teacher's
            and others the student's.
        inputs: see `cost`.
        batches: see `cost`.
        calls: see `cost`.
        device: see `cost`.

    Raises:
        ValueError: see `cost`.

    Example:
        >>> models = {"teacher": nn.Linear(4, 200), "small": nn.Linear(4, 2)}
        >>> {name: found["parameters"] for name, found in costs(models, torch.randn(8, 4), calls=3).items()}
        {'teacher': 1000, 'small': 10}
    """
    if not isinstance(models, Mapping) or not models or not all(isinstance(m, nn.Module) for m in models.values()):
        check.fail("costs", "models", "modules by name", type(models).__name__ if models else "none")
    sizes = tuple(batches) if isinstance(batches, Sequence) else ()
    if not sizes or not all(check.COUNT.accepts(size) for size in sizes):
        check.fail("cost", "batches", "whole numbers >= 1", repr(batches))
    check.hyperparameters("cost", {"calls": check.COUNT}, calls=calls)
    sizes = tuple(dict.fromkeys(sizes))
    tried = {name: _Tried(name, model, inputs, device) for name, model in models.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(rng.untouched())
        stack.enter_context(torch.no_grad())
        for each in tried.values():
            stack.enter_context(each.as_it_was())
        for size in sizes:
            _time(tried.values(), size, calls)
        for each in tried.values():
            each.count(sizes)
    return {name: each.found(sizes) for name, each in tried.items()}


@dataclass
class _Tried:
    """A model with its inputs, and what has been found of it."""

    name: str
    model: nn.Module
    inputs: Any
    device: str | torch.device | None
    values: dict[str, float | int | None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = TEACHER if self.name == TEACHER else STUDENT
        given = inputs_of(self.inputs, self.name, kind)
        self.rows = row_count(given) or 0
        if not self.rows:
            got = describe(given)
            check.fail("cost", "inputs", "a tensor, tuple or mapping with a sample", got)
        if self.device is not None:
            self.model.to(self.device)
        first = next(self.model.parameters(), None)
        self.place = torch.device(self.device or (torch.device("cpu") if first is None else first.device))
        self.inputs = in_own_precision(self.model, to_device(given, self.place))
        self.outside = runs_outside(self.model)
        if self.outside:
            self.left_out |= dict.fromkeys(("parameters", "multiply_adds", "peak_memory_mb"), OUTSIDE)
        else:
            self.values["parameters"] = count_parameters(self.model)

    @contextlib.contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Hold the model in evaluation mode, and put everything back afterwards."""
        inner = unwrap(self.model)
        with unchanged(inner, set(), parameters=False):
            set_mode(self.model, training=False)
            yield

    def batch(self, size: int) -> Any:
        """Return a batch of the first samples, repeated."""
        return take_rows(self.inputs, torch.arange(size) % self.rows, self.rows)

    def seconds(self, batch: Any) -> float:
        """Time one call on inputs that it may write into."""
        mine = private(batch)
        self.wait()
        start = time.perf_counter()
        call(self.model, mine)
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait for what the device is doing."""
        if self.place.type != "cpu":
            getattr(torch, self.place.type).synchronize()

    def count(self, sizes: Sequence[int]) -> None:
        """Count what needs no clock: the multiply-adds of one sample, and the memory of the largest batch."""
        failed = [size for size in sizes if f"latency_{size}_ms" in self.left_out]
        if len(failed) == len(sizes):
            why = self.left_out[f"latency_{sizes[0]}_ms"]
            raise ValueError(f"`cost`: {_called(self.name)}'s forward {why}.")
        if self.outside:
            return
        with torch.compiler.set_stance("force_eager") if has_compiled(self.model) else contextlib.nullcontext():
            for key, measure in (("multiply_adds", self._products), ("peak_memory_mb", self._peak)):
                try:
                    self.values[key] = measure(max(set(sizes) - set(failed)))
                except Exception as error:  # the model, or the counter, may raise anything
                    self.left_out[key] = _why(error, self.batch(1))

    def _products(self, _: int) -> int | None:
        seen = _Seen()
        # The formulas are of plain operations: what runs as a fused one, or as one of a library's, is taken apart.
        with _taken_apart(), seen, FlopCounterMode(display=False, custom_mapping=_VECTORS) as counter:
            call(self.model, private(self.batch(1)))
        if seen.uncounted:
            self.left_out["multiply_adds"] = f"torch's counter has no formula for {', '.join(sorted(seen.uncounted))}"
            return None
        return counter.get_total_flops() // 2

    def _peak(self, size: int) -> float:
        batch = private(self.batch(size))
        if self.place.type == "cuda":
            self.wait()
            torch.cuda.reset_peak_memory_stats(self.place)
            before = torch.cuda.memory_allocated(self.place)
            call(self.model, batch)
            return (torch.cuda.max_memory_allocated(self.place) - before) / 1e6
        with _unfused(), _Live() as live:
            call(self.model, batch)
        return live.peak / 1e6

    def found(self, sizes: Sequence[int]) -> Cost:
        """Return all numbers, in one order."""
        keys = ["parameters", "multiply_adds", *(f"latency_{size}_ms" for size in sizes), "peak_memory_mb"]
        return Cost({key: self.values.get(key) for key in keys}, self.left_out)


def _time(tried: Any, size: int, calls: int) -> None:
    """Call the models in turn on batches of one size; who does not take such a batch is left out."""
    key, times = f"latency_{size}_ms", {}
    batches = {}
    for each in tried:
        batch = each.batch(size)
        try:
            for _ in range(_WARM):
                each.seconds(batch)
        except Exception as error:  # the model may raise anything
            each.left_out[key] = _why(error, batch)
            continue
        batches[each.name], times[each.name] = batch, list[float]()
    turns = [each for each in tried if each.name in batches]
    start = time.perf_counter()
    for number in range(calls if turns else 0):
        if number >= _LEAST and time.perf_counter() - start > _SECONDS:
            break
        for each in turns:
            times[each.name].append(each.seconds(batches[each.name]))
    for each in turns:
        each.values[key] = 1e3 * statistics.median(times[each.name])


def _why(error: Exception, batch: Any) -> str:
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"on {describe(batch)} failed with {type(error).__name__}" + (f": {text}" if text else "")


def _called(name: str) -> str:
    if name == TEACHER:
        return f"the {called(name)}"
    return f"the {name}" if name == STUDENT else f"the student '{name}'"


# Counting


def _product(matrix: Any, vector: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Operations of a matrix's, or a vector's, product with a vector."""
    return int(2 * torch.Size(matrix).numel())


def _added(_: Any, matrix: Any, vector: Any, *__: Any, out_shape: Any = None, **___: Any) -> int:
    return _product(matrix, vector)


_VECTORS = {torch.ops.aten.mv: _product, torch.ops.aten.dot: _product, torch.ops.aten.addmv: _added}


class _Seen(TorchDispatchMode):
    """Notes the operations that multiply, as far as their names tell, and that no formula counts."""

    def __init__(self) -> None:
        super().__init__()
        self.uncounted: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(function, "_overloadpacket", function)
        name = str(packet)
        foreign = not name.startswith(("aten.", "prim.", "prims."))
        heavy = any(word in name for word in _UNCOUNTED) and "_thnn_fused" not in name  # what these do is pointwise
        if packet not in flop_registry and packet not in _VECTORS and (foreign or heavy):
            self.uncounted.add(name)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Let encoder layers run operation by operation, which they do anyway while they are trained."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _taken_apart() -> Iterator[None]:
    """Let recurrent layers and attention run as products of matrices."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with warnings.catch_warnings(), _unfused(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # setting the flags warns; what the model has to say it said when it was timed
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


class _Live(TorchDispatchMode):
    """Follows the memory of what operations return, from the first tensor on it to the end of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: Counter[int] = Counter()
        self.held = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {place[0] for value in tree_leaves((args, kwargs)) if (place := _place(value))}
        found = function(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            place = _place(value)
            if place is None or (place[0] in given and place[0] not in self.tensors):
                continue  # a view of what was there before, a weight's or an input's
            if not self.tensors[place[0]]:
                self.held += place[1]
                self.peak = max(self.peak, self.held)
            self.tensors[place[0]] += 1
            weakref.finalize(value, self._forget, *place)
        return found

    def _forget(self, place: int, size: int) -> None:
        self.tensors[place] -= 1
        if not self.tensors[place]:
            del self.tensors[place]
            self.held -= size


def _place(value: Any) -> tuple[int, int] | None:
    """Return which memory a tensor lies in, and its bytes."""
    if not isinstance(value, Tensor):
        return None
    try:
        storage = value.untyped_storage()
    except (NotImplementedError, RuntimeError):  # of a sparse one, say
        return None
    return storage._cdata, storage.nbytes()

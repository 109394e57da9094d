"""Runs each model once over each view that the terms need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core.devices import row_count
from congruence.core.inputs import STUDENT, TEACHER, check_rows_agree, entry_of, made
from congruence.distiller.as_found import as_found
from congruence.distiller.bindings import Binding
from congruence.distiller.micro import in_chunks
from congruence.distiller.norms import untracked
from congruence.distiller.recall import Recall
from congruence.methods.method import Key
from congruence.models.taps import Taps
from congruence.models.teacher import Teacher

Tapped = tuple[dict[Key, Tensor], dict[tuple[str, str], Any]]  # by (model, view, path); outputs by (model, view)
# what exported programs raise for sizes that they were not exported for
_OF_EXPORTED = ("Guard failed", "Expected input at")
_OF_DDP = "Expected to have finished reduction in the prior iteration"


def paths_to_read(bindings: Sequence[Binding], given: Mapping[str, Any]) -> dict[tuple[str, str], set[str]]:
    """Return the paths to read by (model, view); raise if the batch lacks a view."""
    paths_of: dict[tuple[str, str], set[str]] = {}
    for binding in bindings:
        for view in binding.method.needs.views:
            if view not in given:
                raise ValueError(
                    f"The term '{binding.term}' needs the views {', '.join(binding.method.needs.views)}, the batch has "
                    f"{', '.join(given)}: make them with congruence.data.loader(..., views=...)."
                )
            for (model, _), paths in binding.paths.items():
                paths_of.setdefault((binding.models[model], view), set()).update(paths)
    return paths_of


def describe_sample(inputs: Any) -> str:
    """Describe one sample of some inputs by shapes and dtypes."""
    if isinstance(inputs, Tensor):
        kind = str(inputs.dtype).removeprefix("torch.")
        return f"{kind} {list(inputs.shape[1:])}" if inputs.dim() else kind
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name}: {describe_sample(item)}" for name, item in inputs.items()) + "}"
    if isinstance(inputs, (tuple, list)):
        return "(" + ", ".join(map(describe_sample, inputs)) + ")"
    return type(inputs).__name__


def read(
    model: str, reader: Taps | Teacher, inputs: Any, paths: set[str], example: str
) -> tuple[Any, dict[str, Tensor]]:
    """Run a model and return its output and the tapped tensors.

    Raises:
        ValueError: if the forward fails on samples whose shapes differ from those of `example`.
    """
    try:
        return reader.read(inputs, only=paths)
    except (RuntimeError, TypeError, IndexError, AssertionError) as error:
        samples = describe_sample(inputs)
        reason = " ".join(str(error).split())
        if reason.startswith(_OF_EXPORTED):
            raise ValueError(
                f"The {model} is an exported program and refuses a batch of {row_count(inputs)} samples {samples} "
                f"({reason}): export it with dynamic_shapes."
            ) from error
        if reason.startswith(_OF_DDP):
            raise ValueError(
                f"The {model} is inside DistributedDataParallel, which waits for gradients of parameters that no term "
                "reaches: wrap the distiller instead, with find_unused_parameters=True, or freeze them "
                "(requires_grad_(False))."
            ) from error
        if samples == example:
            raise
        raise ValueError(
            f"The {model} cannot take this batch: its samples are {samples}, those of the example were {example} "
            f"({reason})."
        ) from error


def forwards(
    bindings: Sequence[Binding],
    given: Mapping[str, Any],
    readers: Mapping[str, Taps | Teacher],
    examples: Mapping[str, str],
    recall: Mapping[str, Recall] | None = None,
    micro_batch: int | None = None,
    *,
    runs: Callable[[str, str], bool] = lambda model, view: True,
    distorted: Collection[str] = (),
) -> Tapped:
    """Run each model once over each view that a binding needs; return the tapped tensors and the models' outputs.

    `runs` says whether a model is to run on a view. The `distorted` views leave the running statistics of the students'
    batch norms alone.
    `examples` describes a sample of each model's example (`describe_sample`). For a teacher in `recall`, the stored
    tensors are read; it has no output.  With `micro_batch` the models run over chunks of at most that many samples, see
    `congruence.distiller.micro`.
    """
    tensors: dict[Key, Tensor] = {}
    outputs: dict[tuple[str, str], Any] = {}
    for inputs in given.values():
        check_rows_agree(inputs)
    for (model, view), paths in paths_to_read(bindings, given).items():
        if not runs(model, view):
            continue
        reader = readers[model]
        inputs = entry_of(given[view], model, TEACHER if isinstance(reader, Teacher) else STUDENT)
        if recall is not None and model in recall:
            recalled = recall[model](view, paths, inputs)
            tensors.update({(model, view, path): tensor for path, tensor in recalled.items()})
            continue
        inputs = made(inputs)
        name, module = (reader.taps.name, reader.module) if isinstance(reader, Teacher) else (model, reader.model)
        run = functools.partial(read, name, reader, paths=paths, example=examples.get(model, ""))
        if view in distorted and not isinstance(reader, Teacher):
            run = untracked(module)(run)  # around each call, the second pass over chunks too
        outputs[model, view], tapped = in_chunks(run, module, inputs, micro_batch)
        tensors.update({(model, view, path): tensor for path, tensor in tapped.items()})
    return tensors, outputs


def forwards_beside(
    teaching: Sequence[Binding], looking_on: Sequence[Binding], run: Callable[..., Tapped], students: nn.ModuleDict
) -> Tapped:
    """Return what `run` gives for all bindings; student runs that only terms of weight 0 need change no state.

    Args:
        teaching: bindings of terms that move the students.
        looking_on: bindings of terms of weight 0.
        run: `forwards`, with all arguments but the bindings given.
        students: the students, whose buffers are restored, as the random generators are, after runs only for
            `looking_on`.
    """
    # Of the terms that teach: one of weight 0 changes nothing.
    run = functools.partial(run, distorted={view for binding in teaching for view in binding.method.needs.distorted})
    if not looking_on:
        return run(teaching)
    taught = {
        (binding.models[model], view)
        for binding in teaching
        for view in binding.method.needs.views
        for model, _ in binding.paths
    }
    both = [*teaching, *looking_on]
    tensors, outputs = run(both, runs=lambda model, view: model not in students or (model, view) in taught)
    with torch.no_grad(), as_found(students):
        more = run(both, runs=lambda model, view: model in students and (model, view) not in taught)
    return {**tensors, **more[0]}, {**outputs, **more[1]}

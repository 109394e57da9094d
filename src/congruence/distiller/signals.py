"""From captured tensors to each method's signals: roles, rows, constants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from congruence.core import check
from congruence.core.devices import on_tensors
from congruence.core.inputs import inputs_of
from congruence.distiller.bindings import Binding, mask_of
from congruence.distiller.captured import Captured
from congruence.distiller.dense import as_rows
from congruence.distiller.forwards import describe_sample, forwards
from congruence.distiller.norms import at_rest
from congruence.distiller.sitting_out import missing_of
from congruence.methods.method import Clock, Key, Method, Signals
from congruence.models.layouts import check_rows
from congruence.models.projectors import rows
from congruence.models.taps import Taps
from congruence.models.teacher import Teacher
from congruence.models.tokens import Patches, as_maps, tokens_of


def check_needs(binding: Binding, captured: Captured, *, epochs_begun: bool) -> None:
    """Raise if a batch or a loop lacks what a method needs."""
    needs = binding.method.needs
    for need, present, hint in (
        ("labels", captured.labels, "the batch is (inputs, labels), or a mapping with 'labels' (or 'label')"),
        ("index", captured.index, "wrap the dataset in congruence.data.indexed"),
    ):
        if getattr(needs, need) and present is None:
            raise ValueError(f"The term '{binding.term}' needs {need}, the batch has none: {hint}.")
    if needs.epochs and not epochs_begun:
        raise ValueError(
            f"The term '{binding.term}' works by epochs: call distiller.begin_epoch(epoch) before the first batch of "
            f"each epoch and distiller.end_epoch() after its last."
        )


_TOKENS = 3  # dimensions of a layer of tokens
_DRAWS = 16  # the most forwards that are tried until layers that drop out at random have run
Runner = Callable[[Mapping[str, Any]], Signals]
# results by the id of the argument, which is kept alive so that its id stays unique
ByTensor = dict[int, tuple[Tensor, Tensor]]


def _computed_once(function: Callable[[Tensor], Tensor], tensor: Tensor, done: ByTensor) -> Tensor:
    if id(tensor) not in done:
        done[id(tensor)] = (tensor, function(tensor))
    return done[id(tensor)][1]


def signals_of(binding: Binding, captured: Captured, clock: Clock, runner: Runner, pooled: ByTensor) -> Signals:
    """Return a method's view of what was captured: its roles, and its student under the name "student"."""
    needs = binding.method.needs
    tensors: dict[Key, tuple[Tensor, ...]] = {}
    masks: dict[Key, tuple[Tensor | None, ...]] = {}
    grids: dict[Key, tuple[tuple[int, int] | None, ...]] = {}
    if binding.second and captured.micro_batch is not None:
        raise ValueError(
            f"`micro_batch` splits the first dimension of the inputs, but the term '{binding.term}' reads a layer "
            f"whose batch is another dimension: give inputs that have the batch first, or leave `micro_batch` out."
        )
    for view in needs.views:
        for (model, role), paths in binding.paths.items():
            reader = binding.models[model]
            layers = [captured.tensors[reader, view, path] for path in paths]
            real = []
            for path, tensor in zip(paths, layers, strict=True):
                what = f"The term '{binding.term}': the {binding.called(model)}'s layer '{path}'"
                if tensor.dim() > 2:  # nothing was assumed about rows [B, C]
                    samples = captured.samples(reader, view, tensor.shape, named=binding.named)
                    check_rows(what, tensor.shape, samples)
                # Only tokens may be padded; for other layers the inputs of a cached teacher need not be made.
                padded = role != "logits" and tensor.dim() == _TOKENS
                inputs = captured.given(reader, view) if padded else None
                real.append(mask_of(binding, model, role, path, tensor, inputs) if padded else None)
            if role == "features":
                parts = zip(paths, layers, real, strict=True)
                tensors[model, view, role] = tuple(
                    _row(binding, model, path, tensor, mask, pooled) for path, tensor, mask in parts
                )
                continue
            seen = [
                _in_role(role, tensor, mask, _lie(binding, model, path, tensor))
                for path, tensor, mask in zip(paths, layers, real, strict=True)
            ]
            tensors[model, view, role] = tuple(tensor for tensor, _, _ in seen)
            if any(mask is not None for _, mask, _ in seen):
                masks[model, view, role] = tuple(mask for _, mask, _ in seen)
            if role == "tokens":
                grids[model, view, role] = tuple(grid for _, _, grid in seen)
    kept = {view: _students_inputs(binding, captured, view) for view in needs.views} if needs.inputs else {}
    signals = Signals(tensors, binding.students, clock, captured.labels, captured.index, kept, runner, masks, grids)
    return as_rows(binding, captured, signals) if needs.dense else signals


def _students_inputs(binding: Binding, captured: Captured, view: str) -> Any:
    """Return the students' inputs, for methods that run the students again."""
    if len(binding.students) == 1:
        return captured.given(binding.models[binding.students[0]], view)
    return captured.inputs[view]


def _in_role(
    role: str, tensor: Tensor, mask: Tensor | None, patches: Patches | None
) -> tuple[Tensor, Tensor | None, tuple[int, int] | None]:
    """Return a layer's tensor in the form of a role, the mask of its real tokens, and their grid in an image."""
    grid = None
    if role == "tokens":
        tensor, grid = tokens_of(tensor, patches)
        mask = mask if mask is None or patches is None else mask[:, patches.before :]
    elif role == "maps" and patches is not None and mask is None:
        tensor = as_maps(tensor, patches)
    return tensor if mask is None else tensor.masked_fill(~mask.unsqueeze(2), 0), mask, grid


def _lie(binding: Binding, model: str, path: str, tokens: Tensor) -> Patches | None:
    """Return the grid of a batch's tokens in their image, None if the dry run found none."""
    patches = binding.patches.get((model, path))
    if patches is None:
        return None
    found = patches.of_count(tokens.shape[1])
    if found is None:
        raise ValueError(
            f"The term '{binding.term}': the {binding.called(model)}'s layer '{path}' gives {tokens.shape[1]} tokens, "
            f"no grid of the example's proportions ({patches.before} before {patches.height}×{patches.width})."
        )
    return found


def _row(binding: Binding, model: str, path: str, tensor: Tensor, mask: Tensor | None, done: ByTensor) -> Tensor:
    """Return one row for each sample; terms with the same tap, mask and pool share the rows."""
    pool = binding.pools.get(model)
    if pool == "cls":
        return tensor[:, 0]
    if pool == "mean" and (patches := _lie(binding, model, path, tensor)) is not None:
        tensor, mask = tensor[:, patches.before :], None if mask is None else mask[:, patches.before :]
        return rows(tensor, mask)
    return _computed_once(rows, tensor, done) if mask is None else rows(tensor, mask)


def rerunner(binding: Binding, readers: Mapping[str, Taps | Teacher], clock: Clock, micro_batch: int | None) -> Runner:
    """Return a function that runs a method's students again, on inputs by view."""

    def run(views: Mapping[str, Any]) -> Signals:
        pruned = binding.without_teacher()
        of = [readers[model] for model in pruned.models.values()]
        with at_rest(*(reader.model for reader in of if isinstance(reader, Taps))):
            if micro_batch is not None:  # the second pass comes after `update`, which may overwrite these inputs
                views = on_tensors(torch.Tensor.clone, views)
            given = next(iter(views.values()))
            like = {model: describe_sample(inputs_of(given, model)) for model in pruned.models.values()}
            for _ in range(_DRAWS):  # a layer that drops out at random runs in one of the tries
                tensors, outputs = forwards([pruned], views, readers, like, micro_batch=micro_batch)
                again = Captured(tensors, outputs, views, None, None, micro_batch)
                if not (missing := missing_of(pruned, again)):
                    break
            else:
                raise ValueError(
                    f"The term '{binding.term}' runs the student again on inputs that it keeps, but its layer "
                    f"'{missing[0]}' does not run then: name another layer."
                )
        return binding.method.embed(signals_of(pruned, again, clock, run, {}))

    return run


def features_of(
    bindings: Iterable[Binding], readers: Mapping[str, Taps | Teacher], clock: Clock, inputs: Any
) -> dict[str, Tensor]:
    """Run the students only; return by name the feature rows [B, D] that the first term with features reads of each."""
    rows: dict[str, Tensor] = {}
    for binding in bindings:
        if "features" in binding.method.needs.roles:
            of = rerunner(binding, readers, clock, None)(dict.fromkeys(binding.method.needs.views, inputs))
            for student in binding.students:
                layers = of.tensors[student, binding.method.needs.views[0], "features"]
                rows.setdefault(binding.models[student], layers[-1])
    return rows


def embedded(
    captured: Captured,
    readers: Mapping[str, Taps | Teacher],
    clock: Clock,
    pooled: ByTensor,
    epochs_begun: bool,
    binding: Binding,
) -> Signals:
    """Return the signals of this rank's samples, passed through the method's modules.

    Args:
        captured: the batch.
        readers: of the models.
        clock: the position of the run.
        pooled: computations that terms with the same tap share.
        epochs_begun: whether the loop has begun an epoch.
        binding: of the term.

    Raises:
        ValueError: if the batch or the loop lacks what the method needs.
    """
    check_needs(binding, captured, epochs_begun=epochs_begun)
    runner = rerunner(binding, readers, clock, captured.micro_batch)
    return binding.method.embed(signals_of(binding, captured, clock, runner, pooled))


def loss_of(binding: Binding, signals: Signals) -> Mapping[str, Tensor]:
    """Return a method's losses by part."""
    with buffers_copied_for_backward(binding.method):
        parts = binding.method.loss(signals)
    share = signals.share
    return parts if share is None else {part: value * share.to(value.dtype) for part, value in parts.items()}


def named_parts(term: str, parts: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Return a loss's parts by the names they are logged under: the term's name, with ".PART" if there are several."""
    for part, value in parts.items():
        if not isinstance(value, Tensor) or value.dim() != 0:
            got = check.shape(value) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"The term '{term}' must return tensors of shape [], got {got} for '{part}'.")
    if not parts:
        raise ValueError(f"The term '{term}' must return at least one loss, got none.")
    return {term if len(parts) == 1 else f"{term}.{part}": (part, value) for part, value in parts.items()}


def buffers_copied_for_backward(method: Method) -> contextlib.AbstractContextManager[object]:
    """Copy the buffers that a loss saves for its backward: `update` may overwrite them before that runs.

    Only buffers that are really saved are copied: rows taken from a bank by index are already a copy.
    """
    if type(method).update is Method.update:
        return contextlib.nullcontext()
    owned = {buffer.untyped_storage().data_ptr() for buffer in method.buffers() if buffer.numel()}

    def pack(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.untyped_storage().data_ptr() in owned else tensor

    return saved_tensors_hooks(pack, lambda tensor: tensor)


def without_gradient(signals: Signals) -> Signals:
    """Return the signals without gradient."""
    tensors = {key: tuple(tensor.detach() for tensor in value) for key, value in signals.tensors.items()}
    return replace(signals, tensors=tensors)

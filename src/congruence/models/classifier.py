"""Finds the layers that hold a model's features and class logits, from one forward."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from congruence.core import check

# What a model may make of its logits and still mean them; the first are logits themselves.
_LOGITS: tuple[Callable[[Tensor], Tensor], ...] = (lambda z: z, lambda z: z.log_softmax(1))
_ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (*_LOGITS, lambda z: z.softmax(1), torch.sigmoid)
_NO_EMBEDDING = "its output holds probabilities that are not those of a Linear"
# What makes an embedding of a Linear's values: no score of a class is bent like this.
_BENDS: tuple[Callable[[Tensor], Tensor], ...] = (torch.tanh, torch.relu, F.gelu, F.normalize)
# What encoders of transformers call their tokens, and the row that they make of them.
_HIDDEN, _POOLED, _OF_ENCODER = "[last_hidden_state]", "[pooler_output]", "[encoder_last_hidden_state]"
_BRANCHES = 8  # the last Linears of the output's shape that are tried for a sum
# A part of an output that says by its name that it is an embedding: a Linear's values, maybe, but no scores of classes.
_EMBEDDED = re.compile(r"\[\w*(embeds?|embeddings?)\]$")
_CLOSE = 1e-3  # relative: half precision counts as equal


@dataclass(frozen=True)
class LinearCall:
    """One run of a Linear: the path that reads it, what left it (a copy), what had entered, and what it gave itself."""

    path: str
    left: Tensor
    entered: Tensor | None = None
    given: Tensor | None = None


@dataclass(frozen=True)
class Defaults:
    """The default layers for a model's features and logits, each None if unknown, with the reason.

    Attributes:
        head: path of the Linear that gives the logits, if its values are in the output.
        features: path of the embedding.
        logits: path of the class logits.
        made_of: the Linears whose values, or sum, are the logits; empty if unknown.
        dense: path of an output that may be dense logits ([B, T, C], [B, C, H, W]) if `logits` is None. Only its shape
            suggests it, so only methods that read dense logits take it.
        probabilities: path of an output that holds class probabilities, from which logits cannot be read.
        why: by role, the reason why there is no layer, as the end of "The student has no default layer for 'logits',
            since …".
    """

    head: str | None = None
    features: str | None = None
    logits: str | None = None
    made_of: frozenset[str] = frozenset()
    probabilities: str | None = None
    dense: str | None = None
    why: Mapping[str, str] = field(default_factory=dict)


def find_defaults(
    linears: Sequence[LinearCall], last: nn.Module | None, output: Any, *, words: bool = False
) -> Defaults:
    """Return the layers that stand for "features" and "logits".

    The output decides: a Linear is the head if the output holds its values, their probabilities, or a weighted sum of
    it and others. Otherwise, the output of an encoder (rows pooled from tokens, features after a norm, a Linear's
    values after tanh or ReLU or normalised) is the embedding, and there are no logits. Any other output [B, C] is taken
    as the logits. An output of several tensors is searched for one with the head's values, or called "logits"; if there
    are several, none is chosen. For an encoder of transformers, "pooler_output" is the embedding, unless it is made
    from the first token by a Linear and an activation, which is often an untrained classifier. Texts are then read from
    all tokens, and images from the first, as their classifiers do.

    Args:
        linears: every run of a Linear, in order.
        last: the last module with its own parameters that ran.
        output: the model's output.
        words: whether the model's inputs hold only tokens.

    Example:
        >>> z = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> calls = [LinearCall("fc", z)]
        >>> found = find_defaults(calls, None, z.softmax(1))
        >>> found.features, found.logits
        ('input:fc', 'fc')
        >>> found = find_defaults(calls, None, z.tanh())
        >>> found.features, found.logits
        ('output', None)
        >>> find_defaults(calls, None, (z, z.flip(0), z)).logits
        'fc'
    """
    if isinstance(output, Tensor):
        return _of_tensor(linears, last, output)
    return _of_several(linears, dict(_parts(output, "output")), words)


def default_layer(
    role: str,
    model: str,
    defaults: Defaults,
    in_evaluation: Defaults | None,
    *,
    stages: Mapping[str, torch.Size],
    closed: str,
) -> str:
    """Return the layer that a role stands for in a model.

    Args:
        role: "features" or "logits"; any other has no default.
        model: its name.
        defaults: in the mode of its use.
        in_evaluation: those of evaluation, where it is used in training.
        stages: its default maps, see `Taps`.
        closed: why no layer of it can be read, "" if they can.

    Raises:
        ValueError: if nothing tells, or training and evaluation differ, asking for a layer by name.
    """
    argument = f"{model}_layer=" if model in ("student", "teacher") else "student_layer= or teacher_layer="
    # Known to be made of other Linears, that is; of what is not known to be made of any, nothing is said.
    sides = [each.made_of for each in (defaults, in_evaluation) if each is not None and each.made_of]
    if role == "logits" and len(set(sides)) > 1:
        here, there = (", ".join(f"'{path}'" for path in sorted(side)) for side in sides)
        raise ValueError(
            f"The {model}'s output is made of {here} in training and of {there} in evaluation: name the layer whose "
            f"{role!r} are taught with {argument}; what is measured is the output in evaluation."
        )
    found = {"features": defaults.features, "logits": defaults.logits}.get(role)
    guessed = role == "features" and defaults.features == defaults.logits and not defaults.made_of
    if guessed and in_evaluation is not None and in_evaluation.head is not None:
        found = in_evaluation.features  # the head is seen there alone, behind a dropout, say
    if found is not None:
        return found
    if closed:
        why = f" and {defaults.why[role]}" if defaults.why.get(role) else ""
        raise ValueError(
            f"The {model} has no {role!r} to read, because {closed}{why}: give the plain module, or name what is read "
            f"with {argument}, 'output' or a part of it as 'output[NAME]' (of several the parts called 'embedding' and "
            "'logits' are found)."
        )
    why = f"has no default layer for {role!r}"
    if defaults.why.get(role):
        why += f", since {defaults.why[role]}"
    elif role in ("features", "logits"):
        why = f"runs no Linear layer to find {role!r} by"
    if role == "maps" and stages:
        maps = ", ".join(f"'{path}' {list(shape)}" for path, shape in stages.items())
        raise ValueError(f"The {model} {why}: name some with {argument}, of its stages {maps}.")
    raise ValueError(f"The {model} {why}: name one with {argument}.")


def says_embedding(path: str | None) -> bool:
    """Whether a part of an output says by its name that it is an embedding.

    Example:
        >>> says_embedding("output[embedding]"), says_embedding("output")
        (True, False)
    """
    return path is not None and _EMBEDDED.search(path) is not None


def _of_tensor(linears: Sequence[LinearCall], last: nn.Module | None, output: Tensor) -> Defaults:
    final = linears[-1] if linears else None
    if final is not None and (final.left.is_meta or output.is_meta):
        return _head(final.path)
    head = _equal_to(linears, output)
    if head is not None:
        return _of_head(head, output, "output")
    if output.dim() != 2:
        why = f"its output {check.shape(output)} is not that of a Linear"
        features = "output" if output.dim() > 2 else None
        normed = last is not None and "Norm" in type(last).__name__  # of maps or tokens, not of classes
        dense = None if normed else _of_positions({"output": output})
        return Defaults(features=features, dense=dense, why={"logits": why, "features": why})
    if _sum_to_one(output):
        why = f"its output {check.shape(output)} holds probabilities, and logits are wanted (their logarithm does)"
        return Defaults(probabilities="output", why={"logits": why, "features": _NO_EMBEDDING})
    sum_of = _shifted(linears, output) or _summed(linears, output)
    if sum_of and final is not None:
        return Defaults(sum_of[-1], f"input:{sum_of[-1]}", "output", frozenset(sum_of))
    embedding = _embedding(linears, last, output)
    if embedding:
        why = f"its output {check.shape(output)} {embedding}: 'output' if these are scores of classes"
        return Defaults(features="output", why={"logits": why})
    if final is None and isinstance(last, nn.Embedding | nn.EmbeddingBag):
        why = f"its output {check.shape(output)} comes from a table of embeddings: 'output' if these are class scores"
        return Defaults(features="output", why={"logits": why})
    if final is None:
        is_head = isinstance(last, nn.modules.conv._ConvNd)  # a convolution that gives the classes
        return Defaults(features=None if is_head else "output", logits="output")
    if final.left.shape == output.shape:
        return Defaults(features="output", logits="output")
    # A gate or a side branch. What the embedding is, nothing tells.
    why = f"its output is not that of its last Linear '{final.path}'"
    return Defaults(logits="output", why={"features": why})


def _head(path: str, logits: str = "") -> Defaults:
    """Return the layers of a model whose head is a Linear; its logits are read there, or elsewhere."""
    return Defaults(path, f"input:{path}", logits or path or "output", frozenset({path}))  # "": the model is the Linear


def _of_head(head: LinearCall, output: Tensor, path: str) -> Defaults:
    """Return the layers of a model in whose output a Linear's values are: that Linear's, if it gives a row a sample.

    Of a Linear that gives tokens [B, N, C], of which the output keeps one or the mean, the output has the logits. So
    it has of one with an adapter beside it, which adds 0 before it is trained: the output is another tensor then.
    """
    if head.left.shape == output.shape:
        added = head.given is not None and head.given.data_ptr() != output.data_ptr() and _alike(head.left, output)
        return _head(head.path, path if added else "")
    values = _of_tokens(head.left.to(output.dtype))
    if any(torch.allclose(bend(each), output, rtol=_CLOSE, equal_nan=True) for each in values for bend in _LOGITS):
        return _head(head.path, path)
    why = f"its output holds probabilities, and its last Linear '{head.path}' gives tokens {check.shape(head.left)}"
    return Defaults(features=f"input:{head.path}", probabilities=path, why={"logits": why})


def _alike(left: Tensor, output: Tensor) -> bool:
    return left.dtype == output.dtype and torch.allclose(left, output, rtol=_CLOSE, equal_nan=True)


def _of_tokens(values: Tensor) -> list[Tensor]:
    return [values.mean(1), values[:, 0], values[:, -1]] if values.dim() == 3 else []


def _sum_to_one(output: Tensor) -> bool:
    """Whether an output [B, C] holds probabilities of classes."""
    if not output.is_floating_point() or output.shape[1] < 2 or not bool((output >= 0).all()):
        return False
    return bool(((output.float().sum(1) - 1).abs() < _CLOSE).all())


def _of_several(linears: Sequence[LinearCall], parts: Mapping[str, Tensor], words: bool) -> Defaults:
    if not parts:  # an object that shows no tensors
        final = linears[-1] if linears else None
        return Defaults() if final is None or final.left.dim() != 2 else _head(final.path)
    embedded = [part for part in parts if _EMBEDDED.search(part) and parts[part].dim() == 2]
    hidden = f"output{_HIDDEN}" if f"output{_HIDDEN}" in parts else ""
    encoded = [part for part in parts if hidden and part.endswith((_HIDDEN, _POOLED))]
    others = {part: tensor for part, tensor in parts.items() if part not in (*embedded, *encoded)}
    heads = {part: head for part, tensor in others.items() if (head := _equal_to(linears, tensor)) is not None}
    named = next((part for part in parts if part.endswith("[logits]") and parts[part].dim() == 2), None)
    listed = ", ".join(f"'{part}' {check.shape(tensor)}" for part, tensor in parts.items())
    if named is not None:
        if named in heads:
            return _of_head(heads[named], parts[named], named)
        if not linears and len(embedded) == 1:  # no layer is seen, and both say what they are
            return Defaults(features=embedded[0], logits=named)
        return Defaults(logits=named, why={"features": f"its '{named}' is not that of one Linear"})
    distinct = list(dict.fromkeys(head.path for head in heads.values()))
    if len(distinct) == 1:
        part, head = min(heads.items(), key=lambda item: parts[item[0]].dim())  # rows before tokens
        return _of_head(head, parts[part], part)
    if distinct:
        several = ", ".join(f"'{part}' {check.shape(parts[part])}" for part in heads)
        why = f"its output holds several ({several})"
        entered = {id(head.entered) for head in heads.values()}  # heads on one embedding leave no choice of it
        features = f"input:{distinct[-1]}" if len(entered) == 1 and entered != {id(None)} else None
        return Defaults(features=features, why={"logits": why, "features": why})
    rows = [part for part, tensor in parts.items() if tensor.is_floating_point() and tensor.dim() >= 2]
    embedding = next((part for part in embedded if part.endswith("[sentence_embedding]")), None)
    for only in (embedded, rows):
        if embedding is None and len(only) == 1:
            embedding = only[0]
    if embedding is None and hidden and not embedded and f"output{_OF_ENCODER}" not in parts:
        embedding = _encoded(linears, parts[hidden], parts.get(f"output{_POOLED}"), words)
    why = f"none of the parts of its output ({listed}) is that of a Linear"
    features = f"its output has several parts ({listed})"
    return Defaults(features=embedding, dense=_of_positions(others), why={"logits": why, "features": features})


def _of_positions(parts: Mapping[str, Tensor]) -> str | None:
    """Return the part that may be logits of positions: called so, or the only one.

    Never what is nowhere negative: probabilities, or maps behind a ReLU.
    """
    maybe = {path: part for path, part in parts.items() if part.is_floating_point() and part.dim() in (3, 4, 5)}
    named = [path for path in maybe if path.endswith(("[logits]", "[out]"))]
    path = named[0] if named else next(iter(maybe)) if len(maybe) == 1 else None
    return path if path is None or maybe[path].is_meta or not bool((maybe[path] >= 0).all()) else None


def _encoded(linears: Sequence[LinearCall], hidden: Tensor, pooled: Tensor | None, words: bool) -> str:
    """Return the embedding of an encoder by its tokens and the row that it makes of them."""
    if pooled is None or pooled.is_meta:
        return f"output{_HIDDEN if pooled is None else _POOLED}"
    for call in reversed(linears):
        if call.left.shape != pooled.shape:
            continue
        left = call.left.to(pooled.dtype)
        if any(torch.allclose(bend(left), pooled, rtol=_CLOSE, equal_nan=True) for bend in (torch.clone, *_BENDS)):
            first = hidden[:, 0]
            is_first = call.entered is not None and call.entered.shape == first.shape and _alike(call.entered, first)
            return f"input:{call.path}" if is_first and not words else f"output{_HIDDEN}"
    return f"output{_POOLED}"


def _parts(output: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an output of several, by the path that reads each."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for name, part in output.items():
            yield from _parts(part, f"{path}[{name}]")
    elif isinstance(output, (tuple, list)):
        for name, part in zip(getattr(output, "_fields", range(len(output))), output, strict=True):
            yield from _parts(part, f"{path}[{name}]")
    elif hasattr(output, "__dataclass_fields__"):
        for name in output.__dataclass_fields__:
            yield from _parts(getattr(output, name), f"{path}[{name}]")


def _equal_to(linears: Sequence[LinearCall], output: Tensor) -> LinearCall | None:
    """Return the last Linear whose values an output is, or probabilities of them."""
    if not output.is_floating_point() or output.dim() < 2:
        return None
    for call in reversed(linears):
        left = call.left.to(output.dtype)
        for values in (left, *_of_tokens(left)):
            if values.shape == output.shape and any(
                torch.allclose(activation(values), output, rtol=_CLOSE, equal_nan=True) for activation in _ACTIVATIONS
            ):
                return call
    return None


def _shifted(linears: Sequence[LinearCall], output: Tensor) -> list[str]:
    """Return the last Linear to each of whose columns an output adds a constant, or puts one in its place.

    As logits adjusted by the classes' frequencies, or with classes masked.
    """
    if len(output) < 2 or not output.is_floating_point():
        return []

    def constant(values: Tensor) -> Tensor:
        return torch.isclose(values, values[:1], rtol=_CLOSE, atol=_CLOSE * float(output.abs().median())).all(0)

    replaced = (output == output[:1]).all(0)
    for call in reversed(linears):
        if call.left.shape == output.shape and not bool(replaced.all()):
            added = constant(output - call.left.to(output.dtype))
            if bool((added | replaced).all()):
                return [call.path]
    return []


def _summed(linears: Sequence[LinearCall], output: Tensor) -> list[str]:
    """Return the Linears of which an output is a weighted sum: two branches, a mean of heads, a scale behind one."""
    calls = [call for call in linears if call.left.shape == output.shape][-_BRANCHES:]
    if not calls or output.numel() <= len(calls) or not bool(output.isfinite().all()):
        return []
    columns = torch.stack([call.left.double().flatten() for call in calls], 1).cpu()
    wanted = output.double().flatten().cpu()
    if not bool(columns.isfinite().all()):
        return []
    weights = torch.linalg.lstsq(columns, wanted[:, None], driver="gelsd").solution[:, 0]
    if (columns @ weights - wanted).norm() > _CLOSE * wanted.norm() or not bool(wanted.norm()):
        return []
    return [call.path for call, weight in zip(calls, weights.abs().tolist(), strict=True) if weight > _CLOSE]


def _embedding(linears: Sequence[LinearCall], last: nn.Module | None, output: Tensor) -> str:
    """Say by what an output [B, D] shows itself to be an embedding, "" if it does not."""
    final = linears[-1] if linears else None
    if last is not None and "Norm" in type(last).__name__ and output.shape[1] in _widths(last):
        return "is what a norm gives, not a Linear"
    if final is None:
        return ""
    if final.left.dim() > 2:
        return f"is pooled from tokens, and not that of its last Linear '{final.path}'"
    if final.entered is not None and final.entered.shape == output.shape and torch.equal(final.entered, output):
        return f"is what enters its last Linear '{final.path}'"
    left = final.left.to(output.dtype)
    if left.shape == output.shape and any(torch.allclose(bend(left), output, rtol=_CLOSE) for bend in _BENDS):
        return f"is not that of its last Linear '{final.path}' but bent or normalised"
    lengths = output.detach().float().norm(dim=1)
    if output.shape[1] > 1 and bool(((lengths - 1).abs() < _CLOSE).all()):
        return f"is not that of its last Linear '{final.path}' but rows of length 1"
    # As wide as tokens, with a pooler beside them that is the last Linear to run and not the output.
    tokens = next(
        (call.path for call in linears if call.left.dim() == 3 and call.left.shape[-1] == output.shape[1]), ""
    )
    return f"is as wide as the tokens of '{tokens}', and not that of its last Linear '{final.path}'" if tokens else ""


def _widths(norm: nn.Module) -> set[int]:
    """Return how many features a norm has, as its parameters tell."""
    return {len(parameter) for parameter in norm.parameters(recurse=False) if parameter.dim() == 1}

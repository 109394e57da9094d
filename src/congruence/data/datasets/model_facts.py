"""`ModelFacts`: how a model's training images were prepared, and what its classes are called.

A run writes them next to its students and into their files; `remember` attaches them to a module loaded from such a
file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset

from congruence.core.inputs import STUDENT, Inputs, made
from congruence.core.kinds import Kind, fault
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.images import ImageDataset
from congruence.data.datasets.indexed import Indexed
from congruence.models.heads import WithHead
from congruence.models.layers import unwrap

LOG = logging.getLogger("congruence")
FORMAT = 1
# attribute of a module loaded from a run's file: a plain dict, so that it can be unpickled without this package
ATTRIBUTE = "trained_on"
_LISTS: Mapping[str, Callable[[Any], Any]] = {"shape": int, "mean": float, "std": float, "class_names": str}
_WRITTEN: Kind = {
    **{f"{key}?": ([kind],) for key, kind in _LISTS.items()},
    "resize?": (int, [int]),
    "classes?": (int,),
}
_ROUNDED = 1e-4  # deviations: numbers as a sentence prints them
_CLOSE = 0.05  # in deviations: a mean or deviation that is off by more changes a model's outputs
_DEEPEST = 8
_UNCHECKED = (
    "where that is meant, go on unchecked: --unchecked, unchecked = true in the teacher's table, or "
    f"`del model.{ATTRIBUTE}`"
)


@dataclass(frozen=True)
class ModelFacts:
    """Facts that are needed to use a model; None if they are unknown.


    Args:
        shape: shape of one input: channels, height and width of an image.
        mean: the mean that is subtracted from each channel of images scaled to [0, 1].
        std: the deviation by which the difference is divided.
        resize: the length of the shorter side, or (height, width), before the centre was cropped to `shape`; None:
            images covered `shape` as closely as their ratio allowed.
        classes: the number of classes.
        class_names: names of the classes, in the order of the outputs.

    Example:
        >>> ModelFacts(mean=(0.5,), std=(0.25,), classes=2, class_names=("cat", "dog")).to_dict()
        {'format': 1, 'mean': [0.5], 'std': [0.25], 'classes': 2, 'class_names': ['cat', 'dog']}
    """

    shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, ...] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, source: Any, model: str = STUDENT, kind: str = STUDENT) -> ModelFacts:
        """Return the facts of a dataset, or of a loader's dataset, for one model, without reading samples.

        An `ImageDataset` has all facts, for the way in which the model takes its images (`model` and `kind` as in
        `congruence.Inputs`); a `TextDataset` has the classes. For other datasets, class names come from `class_names`,
        from `classes` (torchvision), or from the only feature with `names` (Hugging Face datasets). This also works
        inside loaders, subsets and `indexed`; for a dataset that wraps another in some other way, only the classes are
        used, since it may prepare samples further.
        """
        return _of(source, model, kind, 0)

    def with_input(self, inputs: Any) -> ModelFacts:
        """Return the facts with the shape of a batch's samples if unknown (for a floating-point tensor [B, ...])."""
        if isinstance(inputs, Inputs):
            inputs = made(inputs.get(STUDENT))
        known = self.shape is not None or not isinstance(inputs, Tensor) or not inputs.is_floating_point()
        return self if known or inputs.dim() < 2 else replace(self, shape=tuple(inputs.shape[1:]))

    def to_dict(self) -> dict[str, Any]:
        """Return the known facts as plain values."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        return {"format": FORMAT} | {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}

    @classmethod
    def from_dict(cls, values: Any) -> ModelFacts:
        """Return the facts that `to_dict` wrote; keys of a later version are left out.

        Raises:
            ValueError: for values of another kind.
        """
        wrong = fault(values, _WRITTEN)
        if wrong:
            raise ValueError(wrong)
        lists: dict[str, Any] = {
            key: tuple(map(kind, values[key])) for key, kind in _LISTS.items() if values.get(key) is not None
        }
        resize = values.get("resize")
        resize = tuple(resize) if isinstance(resize, list) else resize
        return cls(**lists, resize=resize, classes=values.get("classes"))

    def preparation(self) -> str:
        """Describe in a clause how images were prepared."""
        parts = [] if self.shape is None else [f"of {list(self.shape)}"]
        if self.resize is not None:
            parts.append(f"cut from {self.resize if isinstance(self.resize, int) else list(self.resize)}")
        if self.mean is not None and self.std is not None:
            parts.append(f"with mean {_numbers(self.mean)} and std {_numbers(self.std)}")
        return " ".join(parts)


def _of(source: Any, model: str, kind: str, depth: int) -> ModelFacts:
    if isinstance(source, BatchDataset):
        names = tuple(source.class_names) or None
        facts = ModelFacts(classes=source.classes, class_names=names)
        return replace(facts, **_image(source, model, kind)) if isinstance(source, ImageDataset) else facts
    if source is None or depth > _DEEPEST or isinstance(source, (Tensor, str, bytes)):
        return ModelFacts()
    if isinstance(source, ConcatDataset):
        parts = [_of(part, model, kind, depth + 1) for part in source.datasets]
        return parts[0] if parts and all(part == parts[0] for part in parts) else ModelFacts()
    inner = getattr(source, "dataset", None)
    below = ModelFacts() if inner is None else _of(inner, model, kind, depth + 1)
    if isinstance(source, (Subset, Indexed)) or not hasattr(source, "__getitem__"):
        return below
    classes, names = _classes(source)
    if classes is None:
        classes, names = below.classes, below.class_names
    return ModelFacts(classes=classes, class_names=names)


def _image(dataset: ImageDataset, model: str, kind: str) -> dict[str, Any]:
    """Return shape, mean, std and resize of a dataset's images as a model takes them."""
    taken, resize = dataset.model_input(model, kind), getattr(dataset, "resize", None)
    own = dataset.shape[1:]
    sides = list(taken.size or own)
    if resize is not None and sides != list(own):  # as if the model's size were cropped from an image of just that size
        before = list(resize) if isinstance(resize, tuple) else [resize] * 2
        scaled = [round(b * side / o) for b, side, o in zip(before, sides, own, strict=True)]
        resize = scaled[0] if isinstance(resize, int) and scaled[0] == scaled[1] else tuple(scaled)
    return {"shape": (taken.channels, *sides), "mean": taken.mean, "std": taken.std, "resize": resize}


def _classes(dataset: Any) -> tuple[int | None, tuple[str, ...] | None]:
    for attribute in ("class_names", "classes"):
        names = getattr(dataset, attribute, None)
        if isinstance(names, int) and not isinstance(names, bool):
            return names, None
        if isinstance(names, Sequence) and not isinstance(names, str) and len(names):
            return len(names), tuple(names) if all(isinstance(name, str) for name in names) else None
    features = getattr(dataset, "features", None)
    listed = [getattr(f, "names", None) for f in features.values()] if isinstance(features, Mapping) else []
    named = [tuple(map(str, names)) for names in listed if isinstance(names, Sequence) and len(names)]
    return (len(named[0]), named[0]) if len(named) == 1 else (None, None)


# The training data of a loaded module


def remember(model: nn.Module, facts: ModelFacts, file: Any) -> None:
    """Attach to a module the facts of its training data, and the file they come from."""
    setattr(unwrap(model), ATTRIBUTE, {**facts.to_dict(), "file": str(file)})


def remembered(model: Any) -> tuple[ModelFacts, str] | None:
    """Return the facts that `remember` attached, and how messages refer to the model; None if unknown."""
    bare = unwrap(model) if isinstance(model, nn.Module) else model
    # A teacher with a fitted classifier tells other classes apart than those that it was trained on.
    bare = unwrap(bare.model) if isinstance(bare, WithHead) else bare
    said = getattr(bare, ATTRIBUTE, None)
    if not isinstance(said, Mapping) or "file" not in said:
        return None
    return ModelFacts.from_dict(said), f"The model of '{said['file']}'"


def forget(model: nn.Module) -> None:
    """Remove the facts that `remember` attached, because the module is now trained on something else."""
    vars(unwrap(model)).pop(ATTRIBUTE, None)


# Comparisons


def check_prepared(model: Any, data: ModelFacts) -> None:
    """Raise if images are prepared differently from a module's training images, as far as both are known.

    A mean or deviation that differs so little that it hardly matters only gives a warning.

    Raises:
        ValueError: with both preparations.
    """
    known = remembered(model)
    if known is not None:
        check_same_preparation(*known, data)


def check_same_preparation(facts: ModelFacts, whose: str, data: ModelFacts, way: str = _UNCHECKED) -> None:
    """Do what `check_prepared` does, given the facts."""
    moments = facts.mean is not None and facts.std is not None and data.mean is not None and data.std is not None
    sized = facts.shape is not None and data.shape is not None and data.mean is not None
    shape_differs = sized and (facts.shape != data.shape or (moments and facts.resize != data.resize))
    off = _off(facts, data) if moments else 0.0
    if not (shape_differs or off > _ROUNDED):
        return
    both = f"{whose} was trained on images {facts.preparation()}, these are {data.preparation()}"
    if shape_differs or off > _CLOSE:
        remedy = _as_before(facts, data)
        raise ValueError(f"{both}: prepare them in the same way{remedy}; {way}.")
    LOG.warning("%s: such a small difference is accepted.", both)


def _off(facts: ModelFacts, data: ModelFacts) -> float:
    """Return by how many deviations two normalisations differ; infinite for different numbers of channels."""
    mean, std, mean2, std2 = (torch.tensor(v) for v in (facts.mean, facts.std, data.mean, data.std))
    if mean.shape != mean2.shape:
        return float("inf")
    if bool(torch.equal(mean, mean2) and torch.equal(std, std2)):
        return 0.0
    return float(torch.maximum((mean - mean2).abs() / std, (std / std2 - 1).abs()).max())


def _as_before(facts: ModelFacts, data: ModelFacts) -> str:
    """Return how to load images as in training, in Python and on the command line."""
    wanted: dict[str, Any] = {}
    if facts.shape is not None and len(facts.shape) == 3 and data.shape is not None:
        wanted |= {"size": list(facts.shape[1:])} if facts.shape[1:] != data.shape[1:] else {}
    if facts.resize is not None and facts.resize != data.resize:
        wanted["resize"] = facts.resize if isinstance(facts.resize, int) else list(facts.resize)
    same_channels = facts.mean is not None and data.mean is not None and len(facts.mean) == len(data.mean)
    if same_channels and facts.std is not None and _off(facts, data) > 0:
        wanted |= {"mean": [round(v, 6) for v in facts.mean or ()], "std": [round(v, 6) for v in facts.std]}
    if not wanted:
        return ""
    python = ", ".join(f"{key}={value}" for key, value in wanted.items())
    shell = " ".join(f"--set 'data.{key}={value}'" for key, value in wanted.items())
    return f" (load(..., {python}), or {shell})"


def other_classes(facts: ModelFacts, data: ModelFacts, *, more: bool = False) -> str | None:
    """Describe in a clause how the classes of a model and of data differ in name, order or number; None if they do not.


    Args:
        facts: the model's facts.
        data: the data's facts.
        more: whether the data may have further classes after the model's, as the test part of an open set has.
    """
    before, now = facts.class_names, data.class_names
    if before is None or now is None:
        if facts.classes is None or data.classes is None or facts.classes == data.classes:
            return None
        fewer = more and data.classes > facts.classes
        return None if fewer else f"has {facts.classes} classes, the data {data.classes}"
    if before == now or (more and now[: len(before)] == before):
        return None
    how = ""
    if sorted(before) == sorted(now):
        how = " (the same ones in another order)"
    elif len(before) == len(now):
        first = next(number for number in range(len(now)) if before[number] != now[number])
        how = f" (class {first} is '{before[first]}' to the model and '{now[first]}' in the data)"
    return f"has the classes {_names(before)}, the data {_names(now)}{how}"


def unrelated_classes(model: Any, data: ModelFacts) -> bool:
    """Whether none of the classes that a module was trained on is in the data: a different task, not a renaming."""
    known = remembered(model)
    before, now = None if known is None else known[0].class_names, data.class_names
    return before is not None and now is not None and not set(before) & set(now)


def check_same_classes(model: Any, data: ModelFacts, *, more: bool = False) -> None:
    """Raise if the data's classes differ in name or order from those that a module was trained on.


    Raises:
        ValueError: with both lists of classes.
    """
    known = remembered(model)
    clause = None if known is None else other_classes(known[0], data, more=more)
    if known is not None and clause is not None:
        raise ValueError(f"{known[1]} {clause}: give the classes their names and order from before; {_UNCHECKED}.")


def _names(names: Sequence[str]) -> str:
    few = ", ".join(f"'{name}'" for name in names[:4])
    return f"{few} … ({len(names)})" if len(names) > 4 else few


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"

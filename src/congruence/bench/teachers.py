"""`KeptTeacher`: a teacher whose weights are kept in `results/teachers/`, from which a plan's cells learn."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from congruence.config.references import StudentRef
from congruence.config.schema import RunConfig
from congruence.config.tables import ModelConfig, TermConfig
from congruence.core import check, names
from congruence.core.files import damaged
from congruence.models.weights import load_weights

FOLDER = "teachers"
MOST = 3_000_000  # bytes of a file of weights that is kept


@dataclass(frozen=True)
class KeptTeacher:
    """The weights and what is known of them.

    Args:
        name: of the file.
        weights: the file.
        model: the table of a model of the zoo that they are of.
        mean: by which its images were normalised; None if that is not known.
        std: the same.
        digest: `digest_of` the weights.
        terms: by which it was trained, each as `told_of` gives it.
    """

    name: str
    weights: Path
    model: Mapping[str, Any]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    digest: str
    terms: tuple[Any, ...]

    def teach(self, config: RunConfig) -> RunConfig:
        """Return a configuration in which it is the teacher of all stages that the first one would teach.

        The data gets its mean and deviation unless the configuration says others. A configuration whose last stage
        learns from no earlier one stays as it is.

        Raises:
            ValueError: if that stage is trained by other terms than the kept teacher was.
        """
        first = _first(config)
        if first is None:
            return config
        terms = config.stages[first.stage].terms
        if [told_of(term) for term in terms] != list(self.terms):
            theirs, own = ([term[0] for term in told] for told in (self.terms, map(told_of, terms)))
            raise ValueError(
                f"The kept teacher '{self.name}' was trained by {' and '.join(theirs)}, but '{config.name}' has one of "
                f"its own, by {' and '.join(own)} (with other weights or hyper-parameters, where these are the same): "
                "name another for this row in the plan's [teachers], or '' to train it."
            )
        table = ModelConfig.model_validate({**self.model, "weights": str(self.weights)})
        stages = {
            name: stage.model_copy(update={"teacher": table}) if stage.teacher_ref() == first else stage
            for name, stage in config.stages.items()
        }
        data = config.data
        if data.mean is None and self.mean is not None:
            data = data.model_copy(update={"mean": self.mean, "std": self.std})
        return config.model_copy(update={"stages": stages, "data": data}).upto(config.last)

    def without_path(self, config: RunConfig) -> RunConfig:
        """Return a configuration that says which weights these are rather than where they lie."""
        stages = {}
        for name, stage in config.stages.items():
            teacher = stage.teacher
            if isinstance(teacher, ModelConfig) and teacher.weights == str(self.weights):
                stage = stage.model_copy(update={"teacher": teacher.model_copy(update={"weights": self.digest})})
            stages[name] = stage
        return config.model_copy(update={"stages": stages})


def load_kept(results: Path | None, name: str, plan: str) -> KeptTeacher:
    """Find a kept teacher.

    Args:
        results: the folder of what is kept.
        name: of the teacher.
        plan: that names it, for sentences.

    Raises:
        ValueError: if there is none of this name, or its files are damaged.
    """
    folder = None if results is None else results / FOLDER
    if folder is None or not folder.is_dir():
        raise ValueError(
            f"The plan '{plan}' learns from the kept teacher '{name}', which is in the repository "
            f"(results/{FOLDER}/{name}.safetensors) and not in the installed package: run it in a checkout."
        )
    weights, about = folder / f"{name}.safetensors", folder / f"{name}.json"
    if names.wrong(name) or not weights.is_file() or not about.is_file():
        there = sorted(path.stem for path in folder.glob("*.json"))
        listing = ", ".join(there) or "none"
        near = check.near(name, there)
        raise ValueError(
            f"The plan '{plan}' learns from '{name}', but the teachers in '{folder}' are: {listing}.{near}"
        )
    try:
        told = json.loads(about.read_text(encoding="utf8"))
        model, digest, terms = dict(told["model"]), str(told["weights"]), tuple(told["terms"])
        mean, std = (None if told.get(key) is None else tuple(map(float, told[key])) for key in ("mean", "std"))
    except (ValueError, KeyError, TypeError):
        raise damaged(about, "it does not say which model and weights these are") from None
    if digest_of(weights) != digest:
        raise damaged(weights, f"it does not hold the weights that {about.name} speaks of")
    return KeptTeacher(name, weights.absolute(), model, mean, std, digest, terms)


def told_of(term: TermConfig) -> list[Any]:
    """Return a term's method, weight and hyper-parameters as JSON has them."""
    told = term.term().describe()
    return [told["method"], told["weight"], told["hyperparameters"]]


def _first(config: RunConfig) -> StudentRef | None:
    """Return the student at the root of what the last stage learns from, None if it learns from no stage."""
    reference = config.stages[config.last].teacher_ref()
    while reference is not None:
        above = config.stages[reference.stage].teacher_ref()
        if above is None:
            return reference
        reference = above
    return None


def digest_of(weights: Path) -> str:
    """Return a hash of a file of weights: of names, shapes and values, whatever else the file says."""
    status = weights.stat() if weights.is_file() else None
    return _digest(weights, None if status is None else (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=64)
def _digest(weights: Path, _: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(load_weights(weights).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]

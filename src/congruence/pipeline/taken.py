"""How the models of a stage take its data: as their tables say, else as their own configurations do."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from torch import nn

from congruence import data, models
from congruence.core.inputs import STUDENT, TEACHER
from congruence.data.datasets.texts import TextDataset
from congruence.models import named
from congruence.models.inputs import ImageInput, TextInput
from congruence.models.teacher import called

if TYPE_CHECKING:
    from congruence.config.tables import InputsConfig, ModelConfig

LOG = logging.getLogger("congruence")


class Taker(NamedTuple):
    """A model, and of its configuration the table `inputs` and its name, None if there is none."""

    model: nn.Module
    table: InputsConfig | None = None
    name: str | None = None

    @classmethod
    def of(cls, model: nn.Module, config: ModelConfig) -> Self:
        """Return a model that a configuration has made."""
        return cls(model, config.inputs, config.model)


def as_taken(
    splits: data.Splits,
    students: Mapping[str, Taker],
    teachers: Mapping[str, Taker],
    *,
    told: bool = True,
    alike: bool = True,
) -> data.Splits:
    """Return data whose batches are what each model takes, see `asked_of`; as it is where all take it so."""
    asked = asked_of(splits.train, students, teachers, told=told, alike=alike)
    return splits.for_models(**asked) if asked else splits


def asked_of(
    train: Any,
    students: Mapping[str, Taker],
    teachers: Mapping[str, Taker],
    *,
    told: bool = True,
    alike: bool = True,
) -> dict[str, Any]:
    """Return how models take a dataset, by their names as of its `for_models`; nothing where all take it as it is.

    What a model's table does not say is found in its own configuration (`congruence.models.input_of`), where it has
    one and its weights are not merely drawn; what neither says is as the data has it. Data that says itself how models
    take it is left alone.

    Args:
        train: the dataset.
        students: by name.
        teachers: by name.
        told: whether the log says it, in one line.
        alike: whether all students must take it alike, as those that are trained together must.

    Raises:
        ValueError: if a model cannot take the data.
    """
    takers = {**students, **teachers}
    who = {**{name: _student(name) for name in students}, **{name: f"the {called(name)}" for name in teachers}}
    if getattr(train, "inputs", None) is not None:
        twice = next((who[name] for name, taker in takers.items() if taker.table is not None), None)
        if twice is not None:
            raise ValueError(
                f"The data '{train.name}' says how each model takes it (`for_models`), and so does the table `inputs` "
                f"of {twice}: leave one of them out."
            )
        return {}
    asked: dict[str, Any]
    if isinstance(train, data.ImageDataset):
        asked = {name: _image_input(train, who[name], taker) for name, taker in takers.items()}
        if all(taken == train.own_input for taken in asked.values()):
            return {}
    elif isinstance(train, TextDataset):
        asked = {name: _text_input(train, who[name], taker) for name, taker in takers.items()}
    else:
        told_so = next((who[name] for name, taker in takers.items() if taker.table is not None), None)
        if told_so is not None:
            raise ValueError(
                f"The table `inputs` of {told_so} cannot be followed: the items of the data '{train.name}' are what "
                "the models take (`congruence.Inputs` where these differ)."
            )
        return {}
    if not asked:
        return {}
    if alike:
        _same_of_students(asked, students)
    if told:
        ways = (f"{who[name]} {_said(taken)}" for name, taken in asked.items())
        LOG.info("Each model takes the data its own way: %s.", "; ".join(ways))
    # Batches are complete: of a side without a model the other's, which costs nothing twice.
    sides = {STUDENT: students or teachers, TEACHER: teachers or students}
    return {side: asked[next(iter(models))] for side, models in sides.items()} | asked


def _student(name: str) -> str:
    return f"the {name}" if name == STUDENT else f"the student '{name}'"


def _said(taken: ImageInput | TextInput) -> str:
    if isinstance(taken, TextInput):
        return f"{taken.max_length} tokens of {type(taken.tokenizer).__name__}"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (taken.mean, taken.std))
    size = "" if taken.size is None else f"{taken.size[0]}x{taken.size[1]} ({taken.interpolation}), "
    return f"{size}mean [{mean}], std [{std}]"


def _own(taker: Taker) -> ImageInput | TextInput | None:
    """Return how a model's own configuration says that it takes samples, None if it has none.

    What another library says of an architecture whose weights are drawn here binds nobody.
    """
    drawn = taker.name is not None and named.is_drawn(taker.name)
    return None if drawn else models.input_of(taker.model)


def _image_input(dataset: data.ImageDataset, who: str, taker: Taker) -> ImageInput:
    table, own = taker.table, _own(taker)
    who, channels = who[0].upper() + who[1:], dataset.shape[0]
    of_texts = table is not None and (table.tokenizer is not None or table.max_length is not None)
    if isinstance(own, TextInput) or of_texts:
        where = "the table `inputs`" if of_texts else "the tokenizer"
        raise ValueError(f"{who} takes texts, as {where} of its model says, and the data '{dataset.name}' are images.")
    base, said = own or dataset.own_input, "its own configuration"
    size: Any = base.size
    values: dict[str, Any] = {"mean": base.mean, "std": base.std, "interpolation": base.interpolation}
    if table is not None:
        values |= {key: getattr(table, key) for key in values if getattr(table, key) is not None}
        size, said = table.size or size, said if table.mean is None else "its table `inputs`"
    if not ImageInput(values["mean"], values["std"]).takes(channels):
        raise ValueError(
            f"{who} takes images of {len(values['mean'])} channels, as the mean of {said} says, and those of the data "
            f"'{dataset.name}' have {channels}: give a model of {channels} "
            f"(mean and std of {channels} numbers in its table `inputs`, where it takes them so)."
        )
    taken = ImageInput(size=size, **values)
    at_home = taken.size in (None, dataset.shape[1:])
    # No resize is one, whatever the interpolation.
    return ImageInput(taken.mean, taken.std) if at_home else taken


def _same_of_students(asked: Mapping[str, ImageInput | TextInput], students: Mapping[str, Taker]) -> None:
    """Refuse students of one stage that take the data differently: the run says once how it is prepared."""
    first, *others = students or [""]
    other = next((name for name in others if _key(asked[name]) != _key(asked[first])), None)
    if other is not None:
        raise ValueError(
            f"The students of a stage must take the data alike, since its run says it of all in one place: '{first}' "
            f"takes it with {_said(asked[first])}, '{other}' with {_said(asked[other])}. Give each a stage."
        )


def _key(taken: ImageInput | TextInput) -> Hashable:
    return taken.key if isinstance(taken, TextInput) else taken


def _text_input(dataset: TextDataset, who: str, taker: Taker) -> TextInput:
    table, own = taker.table, _own(taker)
    who = who[0].upper() + who[1:]
    of_images = (
        [] if table is None else [key for key in ("size", "mean", "std", "interpolation") if getattr(table, key)]
    )
    if isinstance(own, ImageInput) or of_images:
        where = f"`{of_images[0]}` of its table `inputs`" if of_images else "its own configuration"
        raise ValueError(f"{who} takes images, as {where} says, and the data '{dataset.name}' are texts.")
    tokenizer = None if table is None else table.tokenizer
    length = None if table is None else table.max_length
    if own is not None and tokenizer is None:
        return own if length in (None, own.max_length) else TextInput(own.tokenizer, max_length=length)
    missing = [key for key, value in (("tokenizer", tokenizer), ("max_length", length)) if value is None]
    if tokenizer is None or length is None:
        raise ValueError(
            f"{who} takes texts in no way that is known: say {' and '.join(missing)} in its model's table, as "
            "inputs = { tokenizer = 'FOLDER, tokenizer.json, or a JSON file of words and their numbers', "
            "max_length = 128 } (--set 'stages.student.student.inputs={...}'), or prepare the data in Python: "
            "cg.data.load(FILE).for_models(student=cg.data.TextInput('tokenizer.json', max_length=128))."
        )
    return TextInput(tokenizer, max_length=length)

"""Models of a configuration: built, given their weights, and described so that a run's student can be built again."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from congruence import models
from congruence.core.importing import import_callable, made_by
from congruence.models import named

if TYPE_CHECKING:
    from congruence.config.tables import ModelConfig


def build_model(
    config: ModelConfig,
    *,
    classes: int | None,
    in_channels: int | None,
    weights: str | Path | None = None,
    trust: bool = False,
) -> nn.Module:
    """Build a model of the zoo, call a factory, or load one from its file; then load weights where there are some.

    A model of the zoo gets `classes` and `in_channels` (as many as its table `inputs` has means) unless its options say
    others. A factory gets its options, and
    these two where it asks for them without a default.

    Args:
        config: the model's table.
        classes: of the data.
        in_channels: of the data, None if these are texts.
        weights: a file instead of the configuration's own.
        trust: whether code that the configuration names may be imported.

    Raises:
        ValueError: for a factory without trust, one that cannot be imported or makes no module, or weights that are
            absent, damaged or do not fit.
    """
    described = describe_model(config, classes=classes, in_channels=in_channels, trust=trust)
    model = rebuild(described, trust=trust)
    source = weights or config.weights
    if source is not None:
        models.load_into(model, models.load_weights(source), source=f"'{source}'")
    elif config.start is not None:
        models.start_from(model, models.load_weights(config.start), source=f"'{config.start}'")
    return model


def describe_model(
    config: ModelConfig, *, classes: int | None, in_channels: int | None, trust: bool = False
) -> dict[str, Any]:
    """Return what `rebuild` needs: the model's or factory's name, and all options."""
    words = {"classes": "classes", "in_channels": "in_channels"}
    if named.split(config.model or ""):  # of timm's names without weights alone; any other says what it is
        words = {"classes": "num_classes", "in_channels": "in_chans"} if named.is_drawn(config.model or "") else {}
    if config.factory is not None:
        parameters = inspect.signature(import_callable(config.factory, what="factory", trust=trust)).parameters.values()
        asked = {p.name for p in parameters if p.default is p.empty}
        words = {name: word for name, word in words.items() if word in asked}
    own = None if config.inputs is None else config.inputs.mean  # RGB of grey images, say
    given = {"classes": classes, "in_channels": in_channels if own is None else len(own)}
    options = {**{word: given[name] for name, word in words.items()}, **config.options}
    word = words.get("classes")
    if word is not None and options[word] is None:
        raise ValueError(
            f"The data has no classes: say how many the model has, by options = {{ {word} = 10 }} in its table (for "
            f"the student of a run without a configuration: --set stages.student.student.options.{word}=10)."
        )
    if "in_channels" in options and options["in_channels"] is None:
        who = f"The model '{config.model}'" if config.factory is None else f"The factory '{config.factory}'"
        way = (
            "give a model of texts, by factory = 'package.module:callable'"
            if config.factory is None
            else ("say how many by options = { in_channels = 3 } in its table, where that is meant")
        )
        raise ValueError(f"{who} asks for the channels of images (in_channels), and the data are texts: {way}.")
    return {"model": config.model, "factory": config.factory, "options": options}


def rebuild(described: dict[str, Any], *, trust: bool = False) -> nn.Module:
    """Build a freshly initialised model from `describe_model`, with its teacher's classifier where it reuses that."""
    if described.get("reused_classifier") is not None:
        alone = {key: value for key, value in described.items() if key != "reused_classifier"}
        return models.ReusedClassifier(rebuild(alone, trust=trust), **described["reused_classifier"])
    if named.split(described["model"] or ""):
        return named.load(described["model"], trust=trust, **described["options"])
    if described["model"] is not None:
        return models.build(described["model"], **described["options"])
    factory = described["factory"]
    made = made_by(factory, described["options"], what="factory", trust=trust)
    if not isinstance(made, nn.Module):
        raise ValueError(f"The factory '{factory}' must return a torch module, got {type(made).__name__}.")
    return made

"""Models of timm by "timm:NAME"."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from congruence.models.adapters.libraries import folder_of, library, loading
from congruence.models.inputs import ImageInput

LOG = logging.getLogger("congruence")


def load_timm(rest: str, *, trust: bool = False, **options: Any) -> nn.Module:
    """Return a model of timm.

    Args:
        rest: a name in timm. A name with a tag ("resnet18.a1_in1k") selects weights, which timm reads from its cache or
            downloads. A name without a tag gives a randomly initialised model, for weights from a file. A folder must
            be written by timm's `save_for_hf`.
        trust: not used: timm runs no code from a folder.
        options: options of timm's `create_model`: num_classes, in_chans, drop_path_rate, and so on.

    Raises:
        ValueError: if timm does not know the name or an option.
    """
    name = f"timm:{rest}"
    folder = folder_of(name, "timm") if "/" in rest or rest.startswith((".", "~")) else None
    timm = library("timm", "timm", name)
    trained = folder is not None or "." in rest
    with loading(name, "timm"):
        called = rest if folder is None else f"local-dir:{folder}"
        model: nn.Module = timm.create_model(called, **{"pretrained": trained, **options})
    if not options.get("pretrained", trained):
        LOG.info("The model '%s' is randomly initialised: a name with a tag has weights.", name)
    return model.train()


def image_input(model: Any) -> ImageInput | None:
    """Return how a timm model's own settings prepare images, None if it has none.

    Images are resized to the size that the model sees: what timm crops from larger ones is the whole image here.
    """
    said = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not isinstance(said, Mapping) or "mean" not in said or "std" not in said:
        return None
    size = said.get("input_size")
    return ImageInput(
        mean=tuple(said["mean"]),
        std=tuple(said["std"]),
        size=None if size is None else (int(size[-2]), int(size[-1])),
        interpolation="bicubic" if said.get("interpolation") == "bicubic" else "bilinear",
    )

"""Models of transformers by "hf:FOLDER", and their inputs as described by the files next to their weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from congruence.core import check
from congruence.models.adapters.libraries import folder_of, library, loading
from congruence.models.inputs import ImageInput, TextInput

LOG = logging.getLogger("congruence")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
# An architecture that ends so is taken as it is; any other (of a language model, of pretraining) without its head.
_AS_WRITTEN = ("Classification", "Model", "WithProjection")
_LONGEST = 512  # tokens of a text, unless its files say fewer
_RESAMPLED = {3: "bicubic"}  # as Pillow counts; ours for any other is bilinear


def load_hf(rest: str, *, trust: bool = False, **options: Any) -> nn.Module:
    """Return a model of transformers from its folder, in float32, of the class named in its config.json.


    Args:
        rest: a folder written by `save_pretrained`; without weights in it, the model is randomly initialised. Other
            texts are names of models that transformers has downloaded before: nothing is downloaded here.
        trust: whether code in the folder may run.
        options: `architecture`, a class of transformers that replaces the one in config.json, and keys of that file.

    Raises:
        ValueError: if it cannot be loaded, or an option does not exist.
    """
    name = f"hf:{rest}"
    folder = folder_of(name, "transformers")
    if not (folder / "config.json").is_file():
        has_parts = (folder / "modules.json").is_file()
        hint = f" It is one of sentence-transformers: 'st:{rest}'." if has_parts else ""
        raise ValueError(f"The folder '{folder}' has no config.json, by which transformers knows a model.{hint}")
    transformers = library("transformers", "transformers", name)
    local = {"local_files_only": True, "trust_remote_code": trust}
    architecture = options.pop("architecture", None)
    with loading(name, "transformers"):
        config, unused = transformers.AutoConfig.from_pretrained(
            str(folder), **local, return_unused_kwargs=True, **options
        )
    for option in options:
        if option in unused:
            near = check.near(option, config.to_dict())
            raise ValueError(f"The model '{name}' has no option '{option}': it has those of its config.json.{near}")
    kind = _class_of(transformers, config, architecture, name)
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        LOG.warning("The folder '%s' has no weights: the model is randomly initialised.", folder)
        make = kind.from_config if hasattr(kind, "from_config") else kind._from_config
        with loading(name, "transformers"):
            model: nn.Module = make(config, dtype=torch.float32)
    else:
        with loading(name, "transformers"):
            given = {"config": config, "dtype": torch.float32, "output_loading_info": True, **local}
            model, read = kind.from_pretrained(str(folder), **given)
        absent = sorted(read["missing_keys"])
        if absent:
            few = ", ".join(f"'{each}'" for each in absent[:3]) + (f" and {len(absent) - 3} more" * (len(absent) > 3))
            LOG.warning("The weights in '%s' lack %s: these are randomly initialised.", folder, few)
    _tell_of_parts(folder, name)
    return model.train()


def _class_of(transformers: Any, config: Any, architecture: Any, name: str) -> Any:
    """Return the class that makes the model."""
    if architecture is not None:
        kind = getattr(transformers, str(architecture), None)
        if not (isinstance(kind, type) and hasattr(kind, "from_pretrained")):
            raise ValueError(f"The model '{name}': transformers has no class {architecture!r} (option `architecture`).")
        return kind
    written = (getattr(config, "architectures", None) or [""])[0]
    if getattr(config, "auto_map", None) or not written.endswith(_AS_WRITTEN):
        return transformers.AutoModel
    return getattr(transformers, written, transformers.AutoModel)


def _tell_of_parts(folder: Path, name: str) -> None:
    """Warn for a sentence encoder's folder that its other parts, which compute the embedding, are not used."""
    if (folder / "modules.json").is_file():
        LOG.warning(
            "The folder '%s' is one of sentence-transformers: '%s' is its transformer alone, whose embedding is the "
            "mean of its tokens; 'st:%s' has its own pooling.",
            *(folder, name, folder),
        )


def text_input(folder: str | Path, positions: int | None = None) -> TextInput | None:
    """Return the text input for the tokenizer in a folder; None if there is none.


    Args:
        folder: the model's folder.
        positions: the maximal number of tokens.
    """
    if not any((Path(folder) / file).is_file() for file in TOKENIZERS):
        return None
    transformers = library("transformers", "transformers", f"hf:{folder}")
    with loading(f"hf:{folder}", "transformers"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    lengths = [_LONGEST, int(tokenizer.model_max_length), *([] if positions is None else [positions])]
    return TextInput(tokenizer, max_length=min(lengths), trim=True)


def positions_of(config: Any) -> int | None:
    """Return the maximal number of tokens of a model of transformers, None if its config does not give it."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    most = getattr(text, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    # RoBERTa and its kin count positions from the one after the padding token's.
    roberta = any(
        word in str(getattr(text, "model_type", "")) for word in ("roberta", "camembert", "mpnet", "longformer")
    )
    return most - (int(getattr(text, "pad_token_id", None) or 0) + 1 if roberta else 0)


def image_input(folder: str | Path) -> ImageInput | None:
    """Return how a folder's preprocessor_config.json, or processor_config.json, prepares images; None without them.

    Images are resized to the size that the model sees; where the processor crops the centre of larger ones, that is the
    whole image here.
    """
    path = next((path for file in PROCESSORS if (path := Path(folder) / file).is_file()), None)
    if path is None:
        return None
    with loading(f"hf:{folder}", "transformers"):
        said = json.loads(path.read_text(encoding="utf8"))
        return image_input_of(said.get("image_processor", said))


def image_input_of(said: Mapping[str, Any]) -> ImageInput | None:
    """Return what a processor's table says of images; None if it prepares none.

    Example:
        >>> image_input_of({"image_mean": [0.5], "image_std": [0.25], "size": {"height": 8, "width": 6}})
        ImageInput(mean=(0.5,), std=(0.25,), size=(8, 6), interpolation='bilinear')
    """
    if "image_mean" not in said and "size" not in said:
        return None
    mean, std = said.get("image_mean") or (0.5,) * 3, said.get("image_std") or (0.5,) * 3
    if said.get("do_normalize", True) is False:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    # Of numbers in [0, 1], of which the processor makes `scale` times as much, or one less.
    scale = 255 * float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 255.0
    offset = 1.0 if said.get("rescale_offset") else 0.0
    size = None
    if said.get("do_resize", True) or said.get("do_center_crop"):
        crops = said.get("do_center_crop") and said.get("crop_size") is not None
        size = _size(said["crop_size"] if crops else said.get("size"))
    return ImageInput(
        mean=tuple((each + offset) / scale for each in mean),
        std=tuple(each / scale for each in std),
        size=size,
        interpolation="bicubic" if _RESAMPLED.get(said.get("resample", 2)) else "bilinear",
    )


def _size(said: Any) -> tuple[int, int] | None:
    if isinstance(said, int):
        return said, said
    if isinstance(said, Mapping) and {"height", "width"} <= set(said):
        return int(said["height"]), int(said["width"])
    side = said.get("shortest_edge") if isinstance(said, Mapping) else None
    return None if side is None else (int(side), int(side))

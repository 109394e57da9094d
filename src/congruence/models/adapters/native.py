"""The inputs of a model of another library, and saving it in that library's format."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from congruence.core import check
from congruence.core.files import naming
from congruence.models.adapters import hugging_face, sentences, text_encoders, timm_models
from congruence.models.adapters.libraries import loading
from congruence.models.heads import without_head
from congruence.models.inputs import ImageInput, TextInput
from congruence.models.layers import unwrap
from congruence.models.weights import save_weights

_CLASSES = {"SentenceTransformer": "st", "PeftModel": "hf", "PreTrainedModel": "hf"}


def kind_of(model: nn.Module) -> str | None:
    """Return a model's library:

    "hf" for transformers (and peft), "st" for sentence-transformers (and our "text:…", which it loads), "timm"; None
    for others.

    Example:
        >>> kind_of(nn.Linear(2, 2)) is None
        True
    """
    inner = unwrap(model)
    if isinstance(inner, text_encoders.TextEncoder):
        return "st"
    for base in type(inner).__mro__:
        library = base.__module__.partition(".")[0]
        kind = _CLASSES.get(base.__name__)
        if kind is not None and library in ("transformers", "sentence_transformers", "peft"):
            return kind
        if library == "timm":
            return "timm"
    return None


def input_of(model: nn.Module) -> ImageInput | TextInput | None:
    """Return how a model of transformers, sentence-transformers or timm takes its inputs; None if unknown.

    This is read from the model and from the files next to its weights: a tokenizer with its maximal length, or the size
    and normalisation of images.

    Raises:
        ValueError: if those files are damaged.

    Example:
        >>> input_of(nn.Linear(2, 2)) is None
        True
    """
    inner: Any = without_head(model)
    if isinstance(inner, text_encoders.TextEncoder):
        return text_encoders.text_input(inner)
    kind = kind_of(inner)
    if kind == "st":
        return sentences.text_input(inner)
    if kind == "timm":
        return timm_models.image_input(inner)
    folder = _folder_of(inner) if kind == "hf" else None
    if folder is None:
        return None
    images = hugging_face.image_input(folder)
    return images or hugging_face.text_input(folder, hugging_face.positions_of(_base(inner).config))


def save_native(model: nn.Module, folder: str | Path) -> Path:
    """Write a model into a folder from which its own library can load it.

    For transformers: the files of `save_pretrained` (for a peft model only its adapters), with the tokenizer and the
    processor from the folder that it was loaded from. For sentence-transformers: the files of its `save_pretrained`.
    For timm: model.safetensors with its state, for `timm.create_model(NAME, checkpoint_path=...)`.

    Args:
        model: the trained model; torch wrappers around it are removed.
        folder: the folder to write; an earlier content is replaced once everything is written.

    Returns:
        The folder.

    Raises:
        ValueError: for a model of another library, one of transformers that is not what its configuration says (with
            layers taken out, or another head), or a folder with unrelated files.

    Example:
        >>> save_native(nn.Linear(2, 2), "folder")
        Traceback (most recent call last):
        ValueError: `save_native`: `model` must be a model of transformers, sentence-transformers or timm, got Linear.
    """
    inner: Any = unwrap(model)
    kind, folder = kind_of(inner), Path(folder)
    if kind is None:
        check.fail(
            "save_native", "model", "a model of transformers, sentence-transformers or timm", type(inner).__name__
        )
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / file).is_file() for file in _WRITTEN):
        raise ValueError(f"`save_native`: the folder '{folder}' holds other files: choose another.")
    for each in _of_transformers(inner):
        _require_as_configured(each)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with naming(folder):
        if kind == "timm":
            save_weights(inner.state_dict(), part / "model.safetensors")
        elif isinstance(inner, text_encoders.TextEncoder):
            text_encoders.save_as_sentence_transformer(inner, part)
        elif kind == "st":
            inner.save_pretrained(str(part), create_model_card=False)
        else:
            inner.save_pretrained(str(part))
            _copy_beside(inner, part)
    if folder.exists():
        shutil.rmtree(folder)
    part.replace(folder)
    return folder


def load_native(model: nn.Module, folder: str | Path) -> nn.Module | None:
    """Return what a model's own library makes of the folder that `save_native` wrote, in evaluation mode on the host.

    None where that takes more than the folder (of timm the model's name, of peft the model that its adapters are for),
    and for our "text:…", which is another module there.

    Raises:
        ValueError: if the library cannot load it.
    """
    inner: Any = unwrap(model)
    again: nn.Module
    if kind_of(inner) == "st" and not isinstance(inner, text_encoders.TextEncoder):
        with loading(f"st:{folder}", "sentence-transformers"):
            again = type(inner)(str(folder), device="cpu", local_files_only=True)
        return again.eval()
    if _of_transformers(inner) != [inner]:
        return None
    with loading(f"hf:{folder}", "transformers"):
        again = type(inner).from_pretrained(str(folder), local_files_only=True, **_left_out(inner))
    return again.eval()


def _of_transformers(model: nn.Module) -> list[Any]:
    """Return the models of transformers that are saved with their configuration: this one, or an encoder's parts."""
    if hasattr(model, "peft_config"):
        return []  # its adapters alone are saved
    if kind_of(model) == "hf":
        return [model]
    return [found for child in model.children() for found in _of_transformers(child)]


def _left_out(model: Any) -> dict[str, bool]:
    """Return what transformers is told, when it makes a model, of a part that no configuration knows."""
    return {"add_pooling_layer": False} if getattr(model, "pooler", model) is None else {}


def _require_as_configured(model: Any) -> None:
    """Refuse a model that its configuration does not make.

    Its library makes it by the configuration when it is loaded, leaves weights random that the file then lacks, drops
    those that it does not know, and says so in a log at most.

    Raises:
        ValueError: with the weights that would not come back.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return  # whose weights are laid out anew after the model is made
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            made = type(model)(copy.deepcopy(model.config), **_left_out(model)).state_dict()
    except Exception:  # a class of the user's own, which takes more than a configuration
        return
    state = model.state_dict()
    wrong = {
        "would be random": [name for name in made if name not in state],
        "would be dropped": [name for name in state if name not in made],
        "have another shape": [name for name in made if name in state and made[name].shape != state[name].shape],
    }
    if any(wrong.values()):
        told = ", ".join(
            f"{len(names)} weights {what} ('{names[0]}'{', …' * (len(names) > 1)})"
            for what, names in wrong.items()
            if names
        )
        raise ValueError(
            f"`save_native`: transformers makes {type(model).__name__} by its configuration, which does not say what "
            f"this model is: {told}. Change `model.config` to what was built (`num_hidden_layers`, say), or export the "
            "model to onnx, torch-export or safetensors."
        )


_WRITTEN = ("config.json", "modules.json", "model.safetensors", "adapter_config.json")


def _copy_beside(model: Any, folder: Path) -> None:
    """Write the tokenizer and the processor from the folder that a model came from."""
    source = _folder_of(model)
    if source is None:
        return
    for file in hugging_face.PROCESSORS:
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    text = hugging_face.text_input(source)
    if text is not None:
        text.tokenizer.save_pretrained(str(folder))


def _folder_of(model: Any) -> Path | None:
    """Return the folder that a model of transformers came from, None if it came from none that is still there."""
    name = getattr(_base(model), "name_or_path", "")
    path = Path(name) if isinstance(name, str) and name else None
    return path if path is not None and path.is_dir() else None


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model

"""Weights on disk: safetensors written atomically, read without executing code, loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from congruence.core import check, files
from congruence.models.layers import unwrap
from congruence.models.parameters import is_plain
from congruence.models.weights_file import (
    CHECKSUM,
    content_of,
    header_of,
    in_order,
    split_key,
    state_dict_in,
    why_not,
)

T = TypeVar("T")


def save_weights(state_dict: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, atomically, with a contiguous copy for every name.

    Tied tensors are written once for each name, so that `model.load_state_dict(load_file(path))` works strictly.

    Args:
        state_dict: tensors by name, on any device.
        path: path of the file; its folder is created.
        metadata: strings to store in the header.

    Raises:
        ValueError: for an entry that is not a tensor, or a quantised one, or metadata that is not text.
    """
    from safetensors.torch import save

    metadata = dict(metadata or {})
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            check.fail("save_weights", "metadata", "strings by string", f"{key!r}: {value!r}")
    tensors: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor):
            check.fail("save_weights", "state_dict", "a mapping of tensors", f"{type(tensor).__name__} at '{name}'")
        if not is_plain(tensor):
            expected = "plain tensors, as safetensors holds (torch.save holds quantised ones)"
            check.fail("save_weights", "state_dict", expected, f"{type(tensor).__name__} at '{name}'")
        # A fresh copy of each, because safetensors refuses tensors that share memory.
        tensors[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()
    # "format" is what transformers asks for before it opens a file.
    content = in_order(save(tensors, metadata={"format": "pt", **metadata}))
    with files.atomic(Path(path)) as file:
        files.write(file, content, Path(path))


def not_writable(state_dict: Mapping[str, object]) -> str:
    """Name the first tensor that `save_weights` refuses, as "'fc.weight' (Int8Tensor)"; "" if there is none.

    Example:
        >>> not_writable(nn.Linear(2, 1).state_dict())
        ''
    """
    refused = (name for name, value in state_dict.items() if isinstance(value, Tensor) and not is_plain(value))
    return next((f"'{name}' ({type(state_dict[name]).__name__})" for name in refused), "")


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors or from torch's own format, without executing a pickle.

    Besides tensors and plain values, a file may hold an `argparse.Namespace` and NumPy numbers; any other object
    raises. State dicts are also searched under keys: if exactly one key holds one, or exactly one key with a usual name
    ("state_dict", "model", "student", "params", ...), it is used, and logged. Prefixes that `DistributedDataParallel`
    and `torch.compile` add to names are removed.

    Args:
        path: path of the file; "FILE#KEY" selects a key, if there are several state dicts.

    Raises:
        ValueError: for a file that is absent, truncated, not weights, or has several state dicts, or whose checksums
            (of torch's archives, and of `save_weights`) do not match.
    """
    path, key = split_key(Path(path))
    if not path.is_file():
        inside = path / "student.safetensors"
        hint = f" Did you mean '{inside}'?" if inside.is_file() else " That is a folder." if path.is_dir() else ""
        raise ValueError(f"There is no weights file '{path}'.{hint}")
    try:
        content = content_of(path)
    except Exception as error:
        raise ValueError(f"The weights file '{path}' cannot be read: {why_not(error)}.") from error
    return _strip(state_dict_in(content, path, key))


def load_metadata(path: str | Path) -> dict[str, str]:
    """Return the strings in the header of a safetensors file but its checksum; none of another file, or an absent one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "student.safetensors")
        >>> save_weights({"w": torch.ones(2)}, path, {"epoch": "3"})
        >>> load_metadata(path)
        {'epoch': '3', 'format': 'pt'}
    """
    path, _ = split_key(Path(path))
    metadata = header_of(path).get("__metadata__", {}) if path.suffix == ".safetensors" else {}
    return {key: value for key, value in metadata.items() if key != CHECKSUM} if isinstance(metadata, dict) else {}


def _strip(state: dict[str, T]) -> dict[str, T]:
    names = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in state}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {old: name.removeprefix("module.") for old, name in names.items()}
    return {name: state[old] for old, name in names.items()}


def load_into(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load `state` into `model`; all names and shapes must match.

    A name that is missing in `state` because the model ties it to another name is filled in.

    Args:
        model: the model to load into, wrapped or not.
        state: tensors by name.
        source: where they come from, for messages.

    Raises:
        ValueError: with the names that are missing, unexpected, or of another shape.
    """
    names = list(model.state_dict(keep_vars=True))
    values = [value if isinstance(value, Tensor) else None for value in model.state_dict(keep_vars=True).values()]
    plain = _strip({name: name for name in names})  # plain name -> the name in this model
    own = {name: value for name, value in zip(plain, values, strict=True) if value is not None}
    state = _strip(dict(state))
    tied = {id(value): name for name, value in own.items() if name in state}
    twins = [(name, tied[id(value)]) for name, value in own.items() if id(value) in tied]
    state |= {name: state[twin] for name, twin in twins if name not in state}
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in plain]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    problems = []
    if missing:
        problems.append(f"lack {_few(missing)}")
    if unexpected:
        problems.append(f"have {_few(unexpected)} besides")
    if other:
        shapes = [f"'{name}' {check.shape(state[name])} for {check.shape(own[name])}" for name in other]
        problems.append(f"differ in shape: {', '.join(shapes[:3])}{_more(shapes)}")
    apart = [name for name, twin in twins if not _alike(state[name], state[twin])]
    if apart and not other:
        problems.append(f"differ between names that the model ties: {_few(apart)}")
    if problems:
        slip = unexpected and len(missing) < len(own)  # a name written otherwise, rather than another model
        hint = check.near(unexpected[0], missing, most=1) if slip else ""
        raise ValueError(
            f"The weights of {source} do not fit {type(unwrap(model)).__name__}: they {'; they '.join(problems)}.{hint}"
        )
    # What is no tensor in its state (`get_extra_state`) is in no weights file, and stays as it is.
    stays = {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}
    model.load_state_dict({**stays, **{plain[name]: value for name, value in state.items()}}, strict=True)


def start_from(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> tuple[str, ...]:
    """Load the weights of a network trained on other classes; Linear layers that differ keep their initial values.


    Args:
        model: the freshly initialised model to load into, wrapped or not.
        state: tensors by name.
        source: where they come from, for messages.

    Returns:
        The names of the tensors that were not loaded.

    Raises:
        ValueError: if anything but Linear layers is missing, unexpected, or of another shape.

    Example:
        >>> donor, model = (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(4, n)) for n in (10, 3))
        >>> start_from(model, donor.state_dict(), source="the donor")
        ('2.weight', '2.bias')
    """
    bare = unwrap(model)
    own, loaded = bare.state_dict(), _strip(dict(state))
    heads = [name for name, module in bare.named_modules() if isinstance(module, nn.Linear)]
    loose = {f"{name}.{part}" for name in heads for part in ("weight", "bias")} & set(own)
    fresh = tuple(
        name for name in own if name in loose and (name not in loaded or loaded[name].shape != own[name].shape)
    )
    load_into(bare, {**loaded, **{name: own[name] for name in fresh}}, source=source)
    return fresh


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same values; one that is not a number is like another."""
    return first.shape == second.shape and bool(((first == second) | ((first != first) & (second != second))).all())


def _few(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + _more(names)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 3} more" if len(names) > 3 else ""

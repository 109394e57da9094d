"""A model's outputs for a dataset, kept in files for later stages, commands and cells."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.files import atomic
from congruence.models.weights_file import head_of

LOG = logging.getLogger("congruence")
FORMAT = 1  # of the files, and of how `embed` makes rows: another one finds nothing
_SUFFIX = ".safetensors"
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8"}
_CHECKS: Mapping[str, check.Constraint] = {"most": check.COUNT}


class KeptRows:
    """A folder of rows, identified by the model, the images, the layers and how the model ran.

    Files are written atomically, so that several processes may write at once; a file that cannot be read, or is
    damaged, counts as absent. If nothing can be written (no permission, a full disk), this is logged and nothing is
    kept.

    Args:
        folder: the folder for these files only, created with the first file.
        most: maximum size of all files in bytes: larger rows are not kept, and the oldest files are removed.

    Raises:
        ValueError: for `most` < 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = KeptRows(Path(folder))
        ...     kept.keep({"model": "a"}, {"features": torch.eye(2)})
        ...     kept.find({"model": "a"})["features"].tolist(), kept.find({"model": "b"})
        ([[1.0, 0.0], [0.0, 1.0]], None)
    """

    def __init__(self, folder: Path, *, most: int = 2**30) -> None:
        check.hyperparameters("KeptRows", _CHECKS, most=most)
        self.folder, self.most = folder, most

    def find(self, identity: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the rows that are of this identity, None if there are none."""
        from safetensors import safe_open

        text = _text(identity)
        path = self._path(text)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                rows = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it has no __iter__
        except Exception as error:  # whatever a damaged file makes the reader raise
            LOG.info("The kept rows '%s' cannot be read (%s): they are computed again.", path, check.sentence(error))
            return None
        if metadata.get("identity") != text or metadata.get("content") != _digest(rows):
            LOG.info("The kept rows '%s' are damaged: they are computed again.", path)
            return None
        return rows

    def keep(self, identity: Mapping[str, Any], rows: Mapping[str, Tensor]) -> None:
        """Write rows, unless there are too many."""
        text = _text(identity)
        path = self._path(text)
        held = sum(tensor.numel() * tensor.element_size() for tensor in rows.values())
        head = b"" if held > self.most else _head(rows, {"identity": text, "content": _digest(rows)})
        size = len(head) + held
        if size > self.most:
            LOG.info("The embeddings (%.0f MB) are too large to be kept in '%s'.", size / 1e6, self.folder)
            return
        try:
            self._make_way(size, path)
            with atomic(path) as file:
                file.write(head)
                for name in sorted(rows):
                    file.write(rows[name].contiguous().numpy().data)
        except OSError as error:
            LOG.info("The embeddings cannot be kept in '%s': %s.", self.folder, error.strerror or error)

    def _make_way(self, size: int, path: Path) -> None:
        """Remove the oldest files until there is room."""
        files = {other: other.stat() for other in self.folder.glob(f"*{_SUFFIX}") if other != path}
        held = sum(each.st_size for each in files.values())
        for other in sorted(files, key=lambda each: files[each].st_mtime):
            if held + size <= self.most:
                return
            other.unlink(missing_ok=True)
            held -= files[other].st_size

    def _path(self, text: str) -> Path:
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{_SUFFIX}"


def _head(rows: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return what stands before the tensors in a safetensors file, which are written one by one, never copied."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name in sorted(rows):
        end = start + rows[name].numel() * rows[name].element_size()
        header[name] = {
            "dtype": _DTYPES[rows[name].dtype],
            "shape": list(rows[name].shape),
            "data_offsets": [start, end],
        }
        start = end
    return head_of(header)


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps({"format": FORMAT, "torch": torch.__version__, **identity}, sort_keys=True)


def _digest(rows: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(rows):
        tensor = rows[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()

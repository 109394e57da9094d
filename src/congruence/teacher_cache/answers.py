"""The teacher's outputs that a cache stores, computed on chunks of one size so that they do not depend on the batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from congruence.core import rng
from congruence.core.devices import on_tensors, row_count, take_rows, to_device
from congruence.models.teacher import Teacher
from congruence.teacher_cache.encoding import Array, Encoding, Rounding

LOG = logging.getLogger("congruence")
# Samples that the teacher sees at once. From 32 on, CPU kernels give a sample the same bits wherever it stands in a
# batch, and larger ones are no faster there.
CHUNK, CHUNK_ELSEWHERE = 32, 64


class Answers:
    """Runs a frozen teacher over chunks that are always full, and rounds its outputs to the stored dtype.


    Args:
        teacher: the network.
        dtype: dtype of the stored numbers, see `Encoding`.
        roundings: receives, by layer, what rounding costs.
    """

    def __init__(self, teacher: Teacher, dtype: str, roundings: dict[str, Rounding] | None = None) -> None:
        self.teacher, self.encoding, self.roundings = teacher, Encoding(dtype), roundings

    @property
    def device(self) -> torch.device:
        """The teacher's device."""
        return next(self.teacher.module.parameters(), torch.empty(0)).device

    @property
    def chunk(self) -> int:
        """The number of samples that the teacher sees at once."""
        return CHUNK if self.device.type == "cpu" else CHUNK_ELSEWHERE

    def of(self, inputs: Any, paths: Collection[str], rows: Array | None = None) -> dict[str, Array]:
        """Return the rows of layers for some samples of a batch (None: all), as they are stored.


        Raises:
            ValueError: for a layer whose numbers exceed the stored dtype, or whose shape differs from the example's.
        """
        count = row_count(inputs) or 1
        rows = np.arange(count) if rows is None else rows
        parts: dict[str, list[Array]] = {path: [] for path in paths}
        for start in range(0, len(rows), self.chunk):
            part = rows[start : start + self.chunk]
            for path, values in self._of_chunk(inputs, part, count, paths).items():
                parts[path].append(self._stored(path, values[: len(part)]))
        return {path: np.concatenate(of_path) for path, of_path in parts.items()}

    def _stored(self, path: str, values: Array) -> Array:
        stored = self.encoding.encode(path, values)
        if self.roundings is not None and not self.encoding.exact:
            self.roundings.setdefault(path, Rounding()).add(values, self.encoding.decode(stored, values.shape[1:]))
        return stored

    def _of_chunk(self, inputs: Any, rows: Array, count: int, paths: Collection[str]) -> dict[str, Array]:
        """Run the teacher over a few samples of a batch, padded with the first of them."""
        full = take_rows(inputs, torch.from_numpy(np.resize(rows, self.chunk)), count)
        return self._run(full, paths)

    def _run(self, inputs: Any, paths: Collection[str]) -> dict[str, Array]:
        device = self.device
        # Stored outputs are in the teacher's own precision: a run's half precision must not affect other runs.
        with torch.autocast(device.type, enabled=False):
            _, values = self.teacher.read(to_device(inputs, device), only=paths)
        return {path: self._checked(path, tensor) for path, tensor in values.items()}

    def _checked(self, path: str, tensor: Tensor) -> Array:
        expected = list(self.teacher.taps.shapes[path][1:])
        if list(tensor.shape[1:]) != expected:
            raise ValueError(
                f"The teacher's layer '{path}' gives {list(tensor.shape[1:])} a sample in this batch and {expected} "
                "for the example: a TeacherCache needs inputs of one size; pad all to one length."
            )
        return np.asarray(tensor.float().cpu().numpy())

    def depend_on_mates(self, inputs: Any, paths: Collection[str]) -> float:
        """Measure how much a sample's stored output changes with the other samples of its chunk and their positions.

        It changes with dynamic quantisation, which has one scale for a batch, and with batch statistics; and in its
        last bits with the kernels of some processors, for widths that are not multiples of 4.

        Returns:
            the largest difference, relative to the layer's largest output: 0 for identical bits, infinity for a teacher
            that draws random numbers or fails on these inputs.
        """
        size, before = self.chunk, rng.get_state()
        inputs = take_rows(inputs, torch.arange(size) % (row_count(inputs) or 1), row_count(inputs) or 1)
        places = torch.arange(size)
        answers = self._run(inputs, paths)
        turned = self._run(take_rows(inputs, places.flip(0), size), paths)
        moved = [self._apart(turned, answers, places.flip(0), places)]
        for odd in (0, 1):
            kept = places % 2 == odd

            def larger(tensor: Tensor, kept: Tensor = kept) -> Tensor:
                if not tensor.is_floating_point() or not tensor.dim() or len(tensor) != size:
                    return tensor
                return torch.where(kept.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1)), tensor, tensor * 8)

            among = take_rows(inputs, torch.where(kept, places, 1 - odd), size)  # the others are one sample, and large
            try:
                moved.append(self._apart(self._run(on_tensors(larger, among), paths), answers, kept, kept))
            except Exception:  # a model that cannot take such numbers may raise anything
                return math.inf
        return math.inf if rng.differs(before) else max(moved)  # random numbers would be missing in a run

    def tell(self, moved: float) -> None:
        """Warn of the consequences of a nonzero `depend_on_mates`."""
        if moved > max(1e-5, self.encoding.eps):
            LOG.warning(
                "The teacher's output for a sample depends on the other samples in its batch (through dynamic "
                "quantisation or batch statistics) or on random numbers: its cache holds the outputs of one pass in "
                "the dataset's order, which differ from those in the batches of a run."
            )
        else:
            LOG.info(
                "On this processor the last bits of the teacher's output for a sample depend on its position in the "
                "batch (%.0e of the largest output): its cache holds the outputs of one pass in the dataset's order, "
                "and a run without the cache has slightly different ones.",
                moved,
            )

    def _apart(self, one: dict[str, Array], other: dict[str, Array], of_one: Tensor, of_other: Tensor) -> float:
        with np.errstate(all="ignore"):
            pairs = [
                (self._rounded(path, one[path][of_one.numpy()]), self._rounded(path, other[path][of_other.numpy()]))
                for path in one
            ]
            return max((_distance(a, b) for a, b in pairs if not np.array_equal(a, b, equal_nan=True)), default=0.0)

    def _rounded(self, path: str, values: Array) -> Array:
        """Return rows as they would be read; numbers beyond float16 as infinity, for which another place complains."""
        if self.encoding.name == "float16":
            return values.astype(np.float16)
        return self.encoding.decode(self.encoding.encode(path, values), values.shape[1:])


def _distance(a: Array, b: Array) -> float:
    wide = a.astype(np.float64), b.astype(np.float64)
    apart = float(np.abs(wide[0] - wide[1]).max() / max(np.abs(each).max() for each in wide))
    return apart if math.isfinite(apart) else math.inf

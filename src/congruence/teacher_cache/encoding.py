"""How a cache stores numbers: as float32, as float16, or as int8 with a scale for each row; and what rounding costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DTYPES = ("float16", "float32", "int8")
_SCALE = 4  # bytes of a row's scale, a float32, in front of its numbers
_LEVELS = 127


class Encoding:
    """Turns rows of float32 numbers into stored rows, and back.

    An int8 row x [...] of n numbers is stored as n + 4 bytes: its scale s = max|x| / 127 in float32, and round(x / s).
    What is read is s · round(x / s), off by at most s / 2 at each number. A row with a number that is not finite is
    read as NaN.

    Args:
        name: "float16", "float32" or "int8".

    Example:
        >>> rows = np.array([[0.5, -127.0, 1.6], [0.0, 0.0, 0.0]], np.float32)
        >>> int8 = Encoding("int8")
        >>> int8.shape((1, 2, 3)), int8.decode(int8.encode("fc", rows), (3,)).tolist()
        ((1, 2, 7), [[0.0, -127.0, 2.0], [0.0, 0.0, 0.0]])
    """

    def __init__(self, name: str) -> None:
        self.name, self.dtype = name, np.dtype(name)

    @property
    def exact(self) -> bool:
        """Whether float32 numbers are stored without rounding."""
        return self.name == "float32"

    @property
    def eps(self) -> float:
        """The relative rounding of a row's largest number."""
        return 0.5 / _LEVELS if self.name == "int8" else float(np.finfo(self.dtype).eps)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the stored array for outputs [V, N, ...]."""
        return shape if self.name != "int8" else (*shape[:2], _SCALE + math.prod(shape[2:]))

    def encode(self, path: str, values: Array) -> Array:
        """Return rows [R, ...] as they are stored.

        Args:
            path: the layer's name, for the error.
            values: float32 rows.

        Raises:
            ValueError: for numbers that exceed float16.
        """
        if self.name == "int8":
            return _int8(values)
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(values.astype(self.dtype))
        if np.isinf(stored).any() and np.isfinite(values).all():
            raise ValueError(
                f"The teacher's layer '{path}' reaches {np.abs(values).max():.6g}, which {self.dtype} cannot hold: "
                f"cache it with dtype='float32'."
            )
        return stored

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        """Return stored rows as numbers [R, *shape]: float16 ones as they are, others as float32."""
        if self.name != "int8":
            return stored
        scale = np.ascontiguousarray(stored[:, :_SCALE]).view(np.float32)
        rows = stored[:, _SCALE:] * scale
        return np.asarray(rows.reshape(len(stored), *shape), np.float32)


def _int8(values: Array) -> Array:
    rows = np.ascontiguousarray(values, np.float32).reshape(len(values), -1)
    largest = np.abs(rows).max(axis=1, initial=0)
    scale = (largest / _LEVELS).astype(np.float32)
    scale[~np.isfinite(scale)] = np.nan
    stored = np.zeros((len(rows), _SCALE + rows.shape[1]), np.int8)
    stored[:, :_SCALE] = scale[:, None].view(np.int8)
    # Divided by the scale as it is stored; one that rounds to 0 belongs to a row that rounds to 0.
    usable = np.where(scale > 0, scale, np.float32(1))[:, None]
    with np.errstate(invalid="ignore"):
        levels = np.where(scale[:, None] > 0, np.rint(rows / usable), 0)
    stored[:, _SCALE:] = np.clip(levels, -_LEVELS, _LEVELS).astype(np.int8)
    return stored


class Rounding:
    """The error of stored rows, ‖x̂ − x‖ / ‖x‖ for each: its mean and its largest value, measured while writing.

    Rows of zeros, and those with a number that is not finite, do not count.

    Example:
        >>> rounding = Rounding()
        >>> rounding.add(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 4.5], [1.0, 0.0]]))
        >>> rounding.described()
        {'rows': 2, 'mean': 0.05, 'largest': 0.1}
    """

    def __init__(self, rows: int = 0, mean: float = 0.0, largest: float = 0.0) -> None:
        self._rows, self._sum, self._largest = rows, mean * rows, largest

    def add(self, values: Array, read: Array) -> None:
        """Measure some rows [R, ...] and what is read in their place."""
        wide = values.reshape(len(values), -1).astype(np.float64)
        apart = read.reshape(len(values), -1).astype(np.float64) - wide
        length, error = np.sqrt(np.square(wide).sum(1)), np.sqrt(np.square(apart).sum(1))
        counted = np.isfinite(error) & np.isfinite(length) & (length > 0)
        errors = error[counted] / length[counted]
        self._rows += len(errors)
        self._sum += float(errors.sum())
        self._largest = max(self._largest, float(errors.max(initial=0)))

    def described(self) -> dict[str, Any]:
        """Return the number of measured rows, and their mean and largest error."""
        return {"rows": self._rows, "mean": self._sum / max(1, self._rows), "largest": self._largest}

    def __str__(self) -> str:
        return f"{self._sum / max(1, self._rows):.2g} of a row's length on average and {self._largest:.2g} at most"

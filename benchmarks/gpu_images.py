"""CIFAR-10 for `gpu_tables.py`: two packed files that can be carried to a machine, and augmented batches on its device.

A packed file holds images after a lossless filter (differences of colours, then of each pixel from its neighbours) and
zlib: 60,000 images are 109 MB instead of 184. It needs NumPy alone.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PAD = 4
MOST = 60_000_000  # bytes of a packed file


def _predicted(left: Any, above: Any, corner: Any) -> Any:
    """The median edge detector of JPEG-LS."""
    low, high = np.minimum(left, above), np.maximum(left, above)
    return np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))


def pack(images: Any) -> bytes:
    """Return uint8 images [N, 3, H, W] as bytes."""
    colours = images.astype(np.int16)
    colours[:, 0] -= colours[:, 1]
    colours[:, 2] -= images[:, 1]
    padded = np.pad(colours, ((0, 0), (0, 0), (1, 0), (1, 0)))
    rest = colours - _predicted(padded[:, :, 1:, :-1], padded[:, :, :-1, 1:], padded[:, :, :-1, :-1])
    return zlib.compress((rest % 256).astype(np.uint8).tobytes(), 9)


def unpack(packed: bytes, shape: tuple[int, int, int, int]) -> Any:
    """Return the images that `pack` was given."""
    rest = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape).astype(np.int16)
    # What was predicted from is exact, not taken modulo 256: green is in [0, 255], the differences in [-255, 255].
    count, channels, height, width = shape
    found = np.zeros((count, channels, height + 1, width + 1), np.int16)
    for channel in (1, 0, 2):
        green = found[:, 1, 1:, 1:] if channel != 1 else None
        for row in range(height):
            for column in range(width):
                sides = (found[:, channel, row + 1, column], found[:, channel, row, column + 1])
                value = rest[:, channel, row, column] + _predicted(*sides, found[:, channel, row, column])
                base = 0 if green is None else green[:, row, column]
                found[:, channel, row + 1, column + 1] = (value + base) % 256 - base
    images = found[:, :, 1:, 1:]
    images[:, 0] += images[:, 1]
    images[:, 2] += images[:, 1]
    return images.astype(np.uint8)


def write(folder: Path, parts: dict[str, tuple[Any, Any]], per_file: int) -> list[Path]:
    """Write "train" and "test" (images, labels) as numbered files of at most so many images.

    Raises:
        ValueError: if a file comes out larger than can be carried at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = []
    for part, (images, labels) in parts.items():
        for start in range(0, len(images), per_file):
            pieces.append((part, images[start : start + per_file], labels[start : start + per_file]))
    paths = []
    for number, (part, images, labels) in enumerate(pieces):
        path, packed = folder / f"part-{number}.npz", pack(images)
        if len(packed) > MOST:
            raise ValueError(f"{path} has {len(packed)} bytes: at most {MOST} can be carried; take fewer per file.")
        about = {"part": part, "number": number, "of": len(pieces), "shape": images.shape}
        blob = np.frombuffer(packed, np.uint8)
        np.savez(path, images=blob, labels=labels.astype(np.uint8), about=np.array(json.dumps(about)))
        paths.append(path)
    return paths


def read(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Return "train" and "test" (images, labels) from all the files of a folder.

    Raises:
        ValueError: if a file is missing.
    """
    found: dict[int, tuple[str, Any, Any]] = {}
    wanted = 1
    for path in sorted(folder.glob("part-*.npz")):
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            wanted = about["of"]
            images = unpack(file["images"].tobytes(), tuple(about["shape"]))
            found[about["number"]] = about["part"], images, file["labels"].astype(np.int64)
    missing = sorted(set(range(wanted)) - set(found))
    if missing:
        raise ValueError(f"'{folder}' lacks part-{missing[0]}.npz: {len(found)} of {wanted} parts are there.")
    return {
        part: tuple(np.concatenate([each[k] for _, each in sorted(found.items()) if each[0] == part]) for k in (1, 2))
        for part in ("train", "test")
    }


class Images:
    """Images of one part on a device, as uint8, with a border of zeros; batches are cut, mirrored and normalised there.

    Args:
        images: uint8 [N, 3, 32, 32].
        labels: int64 [N].
        moments: mean and deviation by channel, of images in [0, 1].
        device: where they are.
    """

    def __init__(self, images: Any, labels: Any, moments: tuple[Tensor, Tensor], device: torch.device) -> None:
        self.pixels = torch.nn.functional.pad(torch.from_numpy(images).to(device), (PAD,) * 4)
        self.labels = torch.from_numpy(labels).to(device)
        self.mean, self.std = (each.to(device).view(1, 3, 1, 1) for each in moments)
        self.side = images.shape[-1]
        self._steps, self._channels = torch.arange(self.side, device=device), torch.arange(3, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return normalised images in channels-last order; nothing waits for the device.

        Args:
            rows: int64 [B].
            shift: int64 [B, 3]: rows and columns from 0 to 2·PAD, and whether the image is mirrored; None for the
                images as they are.
        """
        if shift is None:
            inner = self.pixels[rows, :, PAD : PAD + self.side, PAD : PAD + self.side]
        else:
            down = shift[:, 0, None] + self._steps
            across = torch.where(shift[:, 2, None] > 0, self.side - 1 - self._steps, self._steps) + shift[:, 1, None]
            inner = self.pixels[
                rows[:, None, None, None], self._channels[:, None, None], down[:, None, :, None], across[:, None, None]
            ]
        normal = (inner.float() / 255 - self.mean) / self.std
        return normal.contiguous(memory_format=torch.channels_last)


def moments(images: Any) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation by channel of images in [0, 1]."""
    values = images[::5].astype(np.float64) / 255
    return tuple(torch.tensor(each(values, axis=(0, 2, 3)), dtype=torch.float32) for each in (np.mean, np.std))


def shifts(count: int, seed: int, device: torch.device) -> Tensor:
    """Return an augmentation of each of so many images: int64 [count, 3], see `Images.batch`."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 2 * PAD + 1, (count, 2), generator=draw)
    return torch.cat([corner, torch.randint(0, 2, (count, 1), generator=draw)], 1).to(device)

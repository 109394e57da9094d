"""Readers of published array formats: MNIST's idx, CIFAR's pickles and PNG rows, SVHN's .mat, Quick, Draw!'s JSON.

Each takes a folder and returns `Arrays`; no code in a file is ever run.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congruence.core.files import absent, damaged
from congruence.data.sources.store import Arrays, Part
from congruence.data.sources.unpickle import plain_pickle

_READ_MAT = """
import sys
import numpy
import scipy.io
content = scipy.io.loadmat(sys.argv[1], variable_names=("X", "y"))
for name in ("X", "y"):
    numpy.save(sys.stdout.buffer, numpy.asarray(content.get(name, ())), allow_pickle=False)
"""
CIFAR_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def unzipped(path: Path) -> bytes:
    """Read a file, decompressing it if its first bytes are gzip's."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except FileNotFoundError:
        raise absent(path) from None
    except (OSError, EOFError, zlib.error):
        raise damaged(path, "it cannot be decompressed") from None


def read_idx(path: Path, dims: int) -> npt.NDArray[np.uint8]:
    """Read bytes in the idx format: two zero bytes, type 8, the number of dimensions, each size as big-endian int32."""
    content = unzipped(path)
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) < 4 + 4 * dims:
        raise damaged(path, f"it does not begin as an idx file of bytes with {dims} dimension{'s' * (dims > 1)}")
    sizes = [int(size) for size in np.frombuffer(content, ">u4", dims, 4)]
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
    if len(values) != int(np.prod(sizes, dtype=object)):
        raise damaged(path, f"it announces {sizes} values and holds {len(values)}")
    return values.reshape(sizes)


def _either(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else folder / f"{name}.gz"


def read_mnist_layout(folder: Path) -> Arrays:
    """Read the four idx files of MNIST's layout, compressed or not."""
    parts = []
    for prefix in ("train", "t10k"):
        images_path = _either(folder, f"{prefix}-images-idx3-ubyte")
        labels_path = _either(folder, f"{prefix}-labels-idx1-ubyte")
        images = read_idx(images_path, 3)
        parts.append(_part(images[:, None], read_idx(labels_path, 1), labels_path, classes=10))
    return Arrays(parts[0], parts[1])


def _part(images: npt.NDArray[np.uint8], labels: Any, path: Path, *, classes: int = 10) -> Part:
    if isinstance(labels, list) and not all(isinstance(label, int | float) for label in labels):
        raise damaged(path, "its labels are not integers")  # nested lists may have more entries than the file has bytes
    try:
        given = np.asarray(labels)
        with np.errstate(invalid="ignore"):  # for NaN, which compares unequal below
            numbers = given.astype(np.int64)
    except (ValueError, TypeError, OverflowError):
        raise damaged(path, "its labels are not integers") from None
    if given.dtype.kind not in "iuf" or not np.array_equal(given, numbers):
        raise damaged(path, "its labels are not integers")
    if numbers.shape != images.shape[:1]:
        raise damaged(path, f"it holds {numbers.size} labels for {len(images)} images")
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < classes):
        raise damaged(path, f"its labels are not all between 0 and {classes - 1}")
    return Part(images, numbers)


def read_cifar_pickles(folder: Path) -> Arrays:
    """Read `cifar-10-batches-py`: five training batches and a test batch, each a dict with `data` and `labels`."""
    batches = [_cifar_batch(folder / name) for name in (*CIFAR_BATCHES, "test_batch")]
    labels = np.concatenate([part.labels for part in batches[:5] if part.labels is not None])
    return Arrays(Part(np.concatenate([part.images for part in batches[:5]]), labels), batches[5])


def read_cifar100_pickles(folder: Path) -> Arrays:
    """Read `cifar-100-python`: `train` and `test`, each a dict with `data` and `fine_labels`."""
    train, test = (_cifar_batch(folder / name, key="fine_labels", classes=100) for name in ("train", "test"))
    return Arrays(train, test)


def _cifar_batch(path: Path, *, key: str = "labels", classes: int = 10) -> Part:
    if not path.exists():
        raise absent(path)
    batch = plain_pickle(path)
    if not isinstance(batch, dict):
        raise damaged(path, "it does not hold a dict")
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    images = entries.get("data")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3072,):
        raise damaged(path, "its 'data' is not an array of bytes [N, 3072]")
    return _part(images.reshape(-1, 3, 32, 32), entries.get(key), path, classes=classes)


def read_quickdraw(folder: Path) -> Arrays:
    """Read the packaged Quick, Draw!:

    CLASS.ndjson.gz, one drawing in each line, its 28x28 pixels from 0 to 1 row by row. Labels number the classes in the
    order of their names. Images are ordered as the first of every class, then the second, and so on, so that any first
    part has all classes.
    """
    paths = sorted(folder.glob("*.ndjson.gz"))
    if not paths:
        raise absent(folder / "*.ndjson.gz")
    drawings = [_drawings(path) for path in paths]
    sizes = [len(images) for images in drawings]
    labels = np.repeat(np.arange(len(paths)), sizes)
    order = np.lexsort((labels, np.concatenate([np.arange(size) for size in sizes])))
    names = tuple(path.name.removesuffix(".ndjson.gz") for path in paths)
    return Arrays(Part(np.concatenate(drawings)[order], labels[order]), class_names=names)


def _drawings(path: Path) -> npt.NDArray[np.uint8]:
    try:
        rows = np.array([json.loads(line) for line in unzipped(path).splitlines()], dtype=np.float64)
    except (ValueError, TypeError):
        raise damaged(path, "its lines are not JSON lists of as many numbers each") from None
    if rows.shape[1:] != (784,) or not (rows.min() >= 0 and rows.max() <= 1):
        raise damaged(path, "its lines are not 784 numbers from 0 to 1")
    return np.rint(rows * 255).astype(np.uint8).reshape(-1, 1, 28, 28)


def read_svhn(folder: Path) -> Arrays:
    """Read the cropped house numbers: `train_32x32.mat` and `test_32x32.mat`, in which the digit 0 has the label 10."""
    train, test = (_svhn_part(folder / f"{part}_32x32.mat") for part in ("train", "test"))
    return Arrays(train, test)


def _svhn_part(path: Path) -> Part:
    if not path.exists():
        raise absent(path)
    # In a process of its own: SciPy's reader can end the process that hands it a damaged file.
    done = subprocess.run([sys.executable, "-P", "-c", _READ_MAT, str(path)], capture_output=True, check=False)
    if done.returncode:
        raise damaged(path, "it cannot be read as a MATLAB file")
    saved = io.BytesIO(done.stdout)
    images, labels = (np.load(saved, allow_pickle=False) for _ in "Xy")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise damaged(path, "its 'X' is not an array of bytes [32, 32, 3, N]")
    numbers = labels.reshape(-1)
    return _part(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), np.where(numbers == 10, 0, numbers), path)


def read_cifar_rows(folder: Path) -> Arrays:
    """Read the packaged CIFAR-10: PNGs in which row i holds the 1024 RGB pixels of image i, and labels as JSON."""
    train = np.concatenate([_pixel_rows(folder / f"{name}.png") for name in CIFAR_BATCHES])
    parts = []
    for images, name in ((train, "train_lables.json"), (_pixel_rows(folder / "test_batch.png"), "test_lables.json")):
        path = folder / name
        content = unzipped(path)
        try:
            labels = json.loads(content)
        except ValueError:
            raise damaged(path, "it is not JSON") from None
        parts.append(_part(images, labels, path, classes=10))
    return Arrays(parts[0], parts[1])


def _pixel_rows(path: Path) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise absent(path) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise damaged(path, "it cannot be decoded") from None
    if pixels.shape[1] != 1024:
        raise damaged(path, f"its rows hold {pixels.shape[1]} pixels, not the 1024 of a 32x32 image")
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))

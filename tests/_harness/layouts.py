"""Small trees in the layouts in which datasets are published."""

import gzip
import json
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = 50, 20


class Content(NamedTuple):
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def content(channels: int, side: int, *, train: int = TRAIN, test: int = TEST) -> Content:
    generator = np.random.default_rng(0)

    def images(count: int) -> np.ndarray:
        return generator.integers(0, 256, (count, channels, side, side), dtype=np.uint8)

    return Content(images(train), np.arange(train) % 10, images(test), np.arange(test)[::-1] % 10)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    data = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, data: Content, *, suffix: str = ".gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, images, labels in (("train", *data[:2]), ("t10k", *data[2:])):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images[:, 0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return folder


def write_quickdraw(folder: Path, counts: dict[str, int]) -> Path:
    """Write CLASS.ndjson.gz of so many drawings, in which pixel p of drawing i of class c is (p + 7i + 31c) mod 256."""
    folder.mkdir(parents=True, exist_ok=True)
    for label, (name, count) in enumerate(counts.items()):
        lines = [[round((p + 7 * i + 31 * label) % 256 / 255, 3) for p in range(784)] for i in range(count)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.ndjson.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def write_cifar_pickles(folder: Path, data: Content, *, protocol: int = 2, text: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        (f"data_batch_{number + 1}", images, labels)
        for number, (images, labels) in enumerate(
            zip(np.split(data.train_images, 5), np.split(data.train_labels, 5), strict=True)
        )
    ]
    for name, images, labels in [*parts, ("test_batch", data.test_images, data.test_labels)]:
        batch = {"data": images.reshape(len(images), -1), "labels": labels.tolist(), "batch_label": "toy"}
        entries = batch if text else {key.encode(): value for key, value in batch.items()}
        (folder / name).write_bytes(pickle.dumps(entries, protocol=protocol))
    return folder


def write_cifar_rows(folder: Path, data: Content) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{number}" for number in range(1, 6)]
    for name, images in [*zip(names, np.split(data.train_images, 5), strict=True), ("test_batch", data.test_images)]:
        pixels = images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps(data.train_labels.tolist()))
    (folder / "test_lables.json").write_text(json.dumps(data.test_labels.tolist()))
    return folder


def write_image(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> np.ndarray:
    """Write one image of (height, width) and return its pixels."""
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_classes(folder: Path, counts: dict[str, int], **how: object) -> Path:
    """Write CLASS/0.png, CLASS/1.png, … for each class."""
    for position, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write_image(folder / name / f"{number}.png", seed=100 * position + number, **how)
    return folder


def write_cifar100(folder: Path, data: Content, *, protocol: int = 2, text: bool = False) -> Path:
    """Fine labels are ten times the content's; coarse ones are all 7."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, images, labels in (("train", *data[:2]), ("test", *data[2:])):
        batch = {
            "data": images.reshape(len(images), -1),
            "fine_labels": (10 * labels).tolist(),
            "coarse_labels": [7] * len(labels),
            "filenames": [f"{number}.png" for number in range(len(labels))],
        }
        entries = batch if text else {key.encode(): value for key, value in batch.items()}
        (folder / name).write_bytes(pickle.dumps(entries, protocol=protocol))
    return folder


def write_svhn(folder: Path, data: Content) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, images, labels in (("train", *data[:2]), ("test", *data[2:])):
        numbers = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": numbers})
    return folder


def write_tiny_imagenet(folder: Path, counts: dict[str, int], *, side: int = 64) -> Path:
    """Write so many training images of each class, and two validation images of each, the classes taking turns."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wnids.txt").write_text("".join(f"{name}\n" for name in reversed(counts)))
    for position, (name, count) in enumerate(counts.items()):
        for number in range(count):
            path = folder / "train" / name / "images" / f"{name}_{number}.JPEG"
            write_image(path, size=(side, side), mode="L" if number == 0 else "RGB", seed=100 * position + number)
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t9\t9\n")
    lines = []
    for number, name in enumerate([*counts, *counts]):
        write_image(folder / "val" / "images" / f"val_{number}.JPEG", size=(side, side), seed=1000 + number)
        lines.append(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def write_cub200(folder: Path, counts: dict[str, tuple[int, int]]) -> Path:
    """Write so many training and test images of each class, of sizes that differ; classes count from 1."""
    images, classes, split = [], [], []
    for number, (name, both) in enumerate(counts.items(), 1):
        for position in range(sum(both)):
            file = f"{number:03d}.{name}/{name}_{position}.jpg"
            write_image(folder / "images" / file, size=(20 + position, 30), seed=100 * number + position)
            identity = len(images) + 1
            images.append(f"{identity} {file}\n")
            classes.append(f"{identity} {number}\n")
            split.append(f"{identity} {int(position < both[0])}\n")
    tables = {"images": images, "image_class_labels": classes, "train_test_split": split}
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def write_market1501(folder: Path, people: dict[int, int], *, others: tuple[int, ...] = (3, 7)) -> Path:
    """Write so many training images of each identity; of each of `others` one query and two gallery images.

    The gallery has a distractor (0000) and junk (-1) beside.
    """

    def write(part: str, identity: int, camera: int, number: int) -> None:
        who = "-1" if identity < 0 else f"{identity:04d}"
        name = f"{who}_c{camera}s1_{number:06d}_01.jpg"
        write_image(folder / part / name, size=(12, 6), seed=1000 * abs(identity) + number)

    for identity, count in people.items():
        for number in range(count):
            write("bounding_box_train", identity, 1 + number % 6, number)
    for identity in others:
        write("query", identity, 1, 0)
        write("bounding_box_test", identity, 1, 1)
        write("bounding_box_test", identity, 4, 2)
    write("bounding_box_test", 0, 2, 3)
    write("bounding_box_test", -1, 5, 4)
    return folder


def write_msmt17(folder: Path, people: dict[int, tuple[int, int]], *, others: tuple[int, ...] = (0, 1)) -> Path:
    """Write so many training and validation images of each identity; of each of `others` one query and two in gallery.

    Test identities count from 0 again, as the published ones do.
    """
    tables: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}

    def write(table: str, identity: int, camera: int, number: int) -> None:
        file = f"{identity:04d}/{identity:04d}_{number:03d}_{camera:02d}_0303morning_0015_0.jpg"
        place = folder / ("train" if table in ("train", "val") else "test") / file
        write_image(place, size=(12, 6), seed=1000 * identity + number)
        tables[table].append(f"{file} {identity}\n")

    for identity, both in people.items():
        for number in range(sum(both)):
            write("train" if number < both[0] else "val", identity, 1 + number % 15, number)
    for identity in others:
        for number, table in enumerate(("query", "gallery", "gallery")):
            write(table, identity, (9, 9, 14)[number], number)
    for table, lines in tables.items():
        (folder / f"list_{table}.txt").write_text("".join(lines))
    return folder

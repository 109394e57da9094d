"""`load`: reads, decodes and splits a named dataset, a folder of images or a file of texts.

`splitting` chooses and makes the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from congruence.core.check import COUNT, Flag, fail, hyperparameters
from congruence.data.augment.crops import Augment
from congruence.data.augment.photos import Pair
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.decode import opened, two_sides
from congruence.data.datasets.packed import place
from congruence.data.sources.any_folder import holds_shards, read_tree
from congruence.data.sources.catalogue import source, sources
from congruence.data.sources.folder import decode_tree
from congruence.data.sources.locate import locate_or_raise
from congruence.data.sources.splitting import (
    DecodeOptions,
    SplitRequest,
    make_datasets,
    make_text_datasets,
    put_unseen_classes_last,
    rows_by_part,
)
from congruence.data.sources.store import Arrays, Files, Lines, Tree
from congruence.data.sources.table import IMAGE_FOLDER, Source
from congruence.data.sources.texts import is_texts, read_texts
from congruence.models.inputs import ImageInput as ImageInput

STREAM_ABOVE = 2 * 10**9  # size of the decoded images above which they stay in their files


class Splits(NamedTuple):
    """Three disjoint parts; `validation` is held out of the training images.

    With `test_classes`, the labels of `test` are above those of the other two, and its class names are those of all
    classes.
    """

    train: BatchDataset
    validation: BatchDataset
    test: BatchDataset

    def for_models(self, **inputs: Any) -> Splits:
        """Return parts whose batches are `Inputs`, with the samples as each model takes them.


        Args:
            **inputs: an `ImageInput` (for texts a `TextInput`) by the model's name, see the datasets' `for_models`.

        Example:
            >>> splits = load("digits").for_models(teacher=ImageInput((0.5,), (0.5,), size=(16, 16)))
            >>> {name: tuple(images.shape) for name, images in splits.test.batch([0]).items()}
            {'student': (1, 1, 8, 8), 'teacher': (1, 1, 16, 16)}
        """
        return Splits(*(part.for_models(**inputs) for part in self))


def load(
    name_or_path: str | Path,
    *,
    split_seed: int = 0,
    validation: int | float | None = None,
    test: int | float | None = None,
    train_size: int | None = None,
    classes: int | None = None,
    test_classes: int | None = None,
    root: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    resize: int | tuple[int, int] | None = None,
    stream: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Splits:
    """Load a named dataset, a folder of images or a file of texts, as training, validation and test parts.

    A published test set is the test part and is never split; otherwise a test part is held out. Held-out parts are
    stratified by class, depend only on `split_seed`, and keep the published order. Mean and deviation are those of the
    returned training part, and apply to all three parts.
    Image files are decoded into one array or, when streamed, for each batch. Both give identical batches, except that a
    stream's mean and deviation are those of at most 1000 training images (stratified, chosen by `split_seed`), a
    folder's images are grey if those 1000 are, and only a stream has the whole photographs that `resize` and
    `PhotoAugment` need.
    A file of texts has one text in each line (`.txt`), or also labels: a `.tsv` file with a first line of column names,
    or `.jsonl` objects, with "text" and "label", which is a name or a whole number from 0 on (empty or -1 if unknown).
    `Splits.for_models` says how models take the texts.

    Args:
        name_or_path: a named dataset ("digits", "cifar10"), "image-folder" (with `root`), the path of a folder of
            images, of tar shards as webdataset writes them or of Parquet files, of one such shard, or of a file of
            texts.
        split_seed: seed of every random choice made here.
        validation: the number of images, or the fraction, to hold out for validation; None for the source's default
            (5000, or a tenth), 0 for none.
        test: the number or fraction of images to hold out for testing (None: a fifth), only if the source has no test
            set.
        train_size: keep only this many training images, for small budgets.
        classes: keep only the images of this many first classes.
        test_classes: for retrieval in an open set: hold out this many classes, chosen by `split_seed`, which then have
            no training or validation images. All their images (in a published test set, those in it) are the test part.
            The other classes are numbered from 0 to C-1, these from C on.
        root: the folder with the data; None for the data directory.
        size: for folders, and sources whose images differ in size, the height and width of all images.
        resize: for streams: the length to which the shorter side of each photograph is scaled, or (height, width),
            which may change the ratio, before cropping to `size`; None to cover `size` as closely as the ratio allows.
        stream: whether image files are decoded for each batch; None does so with `resize`, and if the decoded array
            would take more than 2 GB.
        mean: one number for each channel, for images scaled to [0, 1], for example to keep a given teacher's; with
            `std`.
        std: the standard deviation of each channel, together with `mean`.

    Returns:
        The three parts.

    Raises:
        ValueError: for an unknown name (with similar names), data that is not downloaded, a file that is absent or
            damaged (with its name), or numbers that do not fit.

    Example:
        >>> splits = load("digits")
        >>> [len(part) for part in splits], splits.train.shape, splits.train.classes
        ([1258, 180, 359], (1, 8, 8), 10)
    """
    moments = None if mean is None or std is None else (mean, std)
    if (mean is None) != (std is None):
        fail("load", "mean and std", "given together", f"{mean} and {std}")
    if stream is not None:
        hyperparameters("load", {"stream": Flag()}, stream=stream)
    options = DecodeOptions(
        None if size is None else two_sides("size", size),
        two_sides("resize", resize) if isinstance(resize, tuple | list) else resize,
    )
    if options.resize is not None and not isinstance(options.resize, tuple):
        hyperparameters("load", {"resize": COUNT}, resize=options.resize)
    original = _read(name_or_path, root, options)
    name = original.name
    content, options = _decode_or_stream(original, options, stream, moments)
    for part, given, value in (("test", content.test, test), ("validation", content.validation, validation)):
        if given is not None and value is not None:
            fail("load", part, f"left out for {name!r}, which has {part} images of its own", value)
    names = original.class_names
    if classes is not None:
        hyperparameters("load", {"classes": COUNT}, classes=classes)
        if classes > len(names):
            fail("load", "classes", f"at most the {len(names)} classes of {name!r}", classes)
    class_count = len(names) if classes is None else classes
    if test_classes is not None:
        hyperparameters("load", {"test_classes": COUNT}, test_classes=test_classes)
        if test_classes >= class_count:
            fail("load", "test_classes", f"below the {class_count} classes of {name!r}", test_classes)
        if test is not None:
            fail("load", "test", "left out where `test_classes` are the test part", test)
    unseen = test_classes or 0
    request = SplitRequest(
        seed=split_seed,
        test=0.2 if test is None else test,
        validation=original.validation if validation is None else validation,
        train_size=train_size,
        classes=class_count if unseen else classes,
        unseen=unseen,
    )
    content = put_unseen_classes_last(content, names, request)
    rows = rows_by_part(content, request)
    seen_names = (content.class_names if unseen else names)[:class_count]
    if isinstance(content, Lines):
        return Splits(**make_text_datasets(content, rows, name=name, class_names=seen_names, unseen=unseen))
    return Splits(
        **make_datasets(
            content,
            rows,
            options,
            seed=split_seed,
            moments=moments,
            name=name,
            augment=original.augment or _default_augment(content, options),
            class_names=seen_names,
            unseen=unseen,
        )
    )


class _Original(NamedTuple):
    """A reader's result, and the settings of its row (for a folder: the defaults)."""

    name: str
    content: Arrays | Tree | Lines
    class_names: tuple[str, ...]
    shape: tuple[int, int, int] | None
    augment: Augment | None
    validation: int | float


def _read(path: str | Path, root: str | Path | None, options: DecodeOptions) -> _Original:
    name = str(path)
    row = sources().get(name)
    if row is not None:
        content = _read_named(row, root, options)
        names = row.class_names or content.class_names
        return _Original(name, content, names, row.shape, row.augment, row.validation)
    if name == IMAGE_FOLDER and root is None:
        fail("load", "root", f"a folder for {IMAGE_FOLDER!r}", None)
    if is_texts(name):
        if root is not None:
            fail("load", "root", "None for a file of texts, whose path is all", root)
        lines = read_texts(Path(path).expanduser())
        return _Original(Path(path).name, lines, lines.class_names, None, None, 0.1)
    folder = Path(root if name == IMAGE_FOLDER and root is not None else path).expanduser()
    if name != IMAGE_FOLDER and not folder.is_dir() and not holds_shards(folder):
        source(name)
    tree = read_tree(folder)
    return _Original(IMAGE_FOLDER, tree, tree.class_names, None, None, 0.1)


def _read_named(row: Source, root: str | Path | None, options: DecodeOptions) -> Arrays | Tree | Lines:
    if row.shape is None and options.size is None and not row.texts:
        fail("load", "size", f"given for {row.name!r}, whose images have sizes of their own", None)
    if row.shape is not None and options.size is not None:
        height, width = options.size
        fail("load", "size", f"None for {row.name!r}", height if height == width else options.size)
    folder, read = locate_or_raise(row, root) if row.files else (Path(), row.read)
    content = read(folder)
    if row.texts and isinstance(content, Lines):
        return content
    if row.texts or not isinstance(content, Arrays | Tree):
        wanted = "Lines" if row.texts else "Arrays or a Tree"
        raise ValueError(f"The reader of {row.name!r} must return {wanted}, got {type(content).__name__}.")
    return _check_shape(content, row.shape, str(folder) if row.files else row.name)


def _check_shape(content: Arrays | Tree, shape: tuple[int, int, int] | None, where: str) -> Arrays | Tree:
    """Check that decoded images have the shape given in the table."""
    parts = content[:3] if isinstance(content, Arrays) else ()
    for part in parts:
        if shape is not None and part is not None and part.images.shape[1:] != shape:
            raise ValueError(f"`load`: the images in '{where}' are {part.images.shape[1:]}, expected {shape}.")
    return content


def _decode_or_stream(
    original: _Original, options: DecodeOptions, stream: bool | None, moments: Any
) -> tuple[Arrays | Tree | Lines, DecodeOptions]:
    """Decode a tree into an array, or leave it in its files with a given size; texts are returned unchanged."""
    content, shape = original.content, original.shape
    if isinstance(content, Lines):
        of_images = {"size": options.size, "resize": options.resize, "stream": stream, "mean and std": moments}
        for argument, value in of_images.items():
            if value is not None:
                fail("load", argument, f"left out for {original.name!r}, which holds texts", value)
        return content, options
    if isinstance(content, Arrays):
        if stream or options.resize is not None:
            argument, value = ("stream", stream) if stream else ("resize", options.resize)
            fail("load", argument, f"left out for {original.name!r}, whose images are one array", value)
        return content, options
    size = options.size if shape is None else shape[1:]
    if stream is False and options.resize is not None:
        fail("load", "resize", "left out where `stream` is False", options.resize)
    if stream is None:
        stream = options.resize is not None or _decoded_bytes(content, size) > STREAM_ABOVE
    if not stream:
        return _check_shape(decode_tree(content, options.size), shape, str(content.root)), options
    if size is None:
        fail("load", "size", "given for images that are decoded for each batch (or `stream` False)", None)
    return content, options._replace(size=size)


def _decoded_bytes(tree: Tree, size: Pair | None) -> int:
    """Return the bytes of a tree's decoded array, in colour, with all images at `size` or the first image's size."""
    parts = [part for part in (tree.train, tree.test, tree.validation) if isinstance(part, Files)]
    if size is None:
        photo = opened(place(tree.root, tree.train.files, 0))
        size = (photo.height, photo.width)
    return sum(len(part.files) for part in parts) * 3 * size[0] * size[1]


def _default_augment(content: Arrays | Tree, options: DecodeOptions) -> Augment:
    sides = content.train.images.shape[2:] if isinstance(content, Arrays) else options.size or ()
    return Augment(pad=min(sides) // 8, flip=True)

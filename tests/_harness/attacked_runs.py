"""Toy runs whose process is killed at any moment, whose disk is full at one write, or whose memory is short."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time

import torch
from _harness.runs import in_process, run

from congruence.core import files

FULL = "No space left on device"


def kill_after(seconds):
    """Kill this process without warning after so many seconds, whatever it is doing then."""

    def kill():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def run_until(toy, out, seconds):
    """A toy run, new or resumed, that is killed so many seconds after its start unless it has ended before."""
    torch.set_num_threads(1)
    run(toy, out, resume=True, callbacks=[lambda event: kill_after(seconds) if event.kind == "start" else None])


def resumed_until_done(toy, out, seconds):
    """Run and kill a toy again and again, after longer and longer times; return how often it was killed."""
    kills = 0
    while (code := in_process(run_until, toy, out, seconds * 1.5**kills)) == -signal.SIGKILL:
        kills += 1
        if kills > 30:
            raise RuntimeError("A run that is killed does not come on.")
    if code:
        raise RuntimeError(f"A resumed run ended with exit code {code}.")
    return kills


def rank_until(rank, folder, toy, seconds):
    """A toy on this rank, new or resumed; rank 1 is killed after so many seconds (None: never)."""
    if rank == 1 and seconds is not None:
        kill_after(seconds)
    result, distiller = run(toy, folder / toy, dropout=False, resume=True)
    torch.save({"state": distiller.state_dict(), "history": list(result.history)}, folder / f"done-{rank}.pt")


class FullAt:
    """A disk that is full from the n-th write on: of `atomic` files, and of lines that are appended."""

    def __init__(self, number, monkeypatch):
        self.number, self.writes = number, 0
        for module, name in ((files.os, "fsync"), (files, "append_line")):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))

    def _counted(self, real):
        def write(*arguments, **words):
            self.writes += 1
            if self.number is not None and self.writes >= self.number:
                raise OSError(errno.ENOSPC, FULL)
            return real(*arguments, **words)

        return write


def run_short_of_memory(toy, out, megabytes):
    """A toy run that may ask for so much more memory than it has when it begins; 3 where that was too little."""
    torch.set_num_threads(1)
    run(toy, None, epochs=1)  # what is loaded once is there
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20, resource.RLIM_INFINITY))
    try:
        run(toy, out)
    except (MemoryError, RuntimeError, OSError, ValueError, ImportError):  # the last of what is loaded late
        os._exit(3)

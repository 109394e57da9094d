"""Groups of two gloo ranks of which the second fails, is killed or hangs in a run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from _harness.attacks import LONG
from _harness.fits import constant, data, distiller
from _harness.runs import _context

import congruence as cg

WAYS = ("fails", "killed", "hangs") if os.environ.get(LONG) else ("fails", "killed")
TIMEOUT = 20.0  # long enough for a step on a machine that is busy with other tests


class Losing:
    """A loader that does something to the second rank before the third batch."""

    def __init__(self, way, rank, first):
        self.inner, self.way, self.rank, self.first = cg.data.loader(data(), batch_size=8), way, rank, first
        self.batch_size = 8

    def __len__(self):
        return len(self.inner)

    def batches(self, epoch, start=0):
        for number, batch in enumerate(self.inner.batches(epoch, start)):
            if number == 2 and self.rank == 1:
                if self.way == "fails":
                    raise OSError("the disk is gone")
                if self.way == "killed":
                    # Half a second later the first rank gets SIGTERM, as from torchrun, while it looks who is missing.
                    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -TERM {int(self.first.read_text())}"])
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(600)
            yield batch


def _rank(rank, way, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / way), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    said, first = "", folder / f"{way}-pid"
    if rank == 0:
        first.write_text(str(os.getpid()))
    try:
        options = constant(rank_timeout=None if way == "killed" else TIMEOUT)
        cg.fit(distiller("ce", "pkt"), Losing(way, rank, first), options=options)
    except (RuntimeError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
    torch.save({"said": said, "timeout": _timeout()}, folder / f"{way}-{rank}.pt")
    os._exit(1)  # as an uncaught error ends a process


def _timeout():
    """The seconds after which an exchange of the default group fails."""
    backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    return backend.options._timeout.total_seconds()


def lost(folder):
    """Return by way what each rank said that still could, and how many seconds it took."""
    context = _context()
    processes = {
        (way, rank): context.Process(target=_rank, args=(rank, way, folder)) for way in WAYS for rank in (0, 1)
    }
    for process in processes.values():
        process.start()
    for (way, rank), process in processes.items():
        if (way, rank) != ("hangs", 1):
            process.join(120)
    for process in processes.values():
        process.kill()
        process.join()
    return {
        way: {rank: torch.load(path) for rank in (0, 1) if (path := folder / f"{way}-{rank}.pt").exists()}
        for way in WAYS
    }

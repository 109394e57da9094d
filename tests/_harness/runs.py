"""Toy runs in this process, killed ones, and ones on two ranks, all from one function."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

import congruence as cg

SAMPLES = 48


class Points(Dataset):
    """48 labelled points in 6 dimensions."""

    def __init__(self):
        generator = torch.Generator().manual_seed(11)
        self.points = torch.randn(SAMPLES, 6, generator=generator)
        self.targets = torch.randint(3, (SAMPLES,), generator=generator)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, position):
        return self.points[position], int(self.targets[position])


class Views:
    """A loader that adds a second view, a pure function of the first."""

    def __init__(self, inner):
        self.inner, self.batch_size = inner, inner.batch_size

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        return self.batches(0)

    def batches(self, epoch, start=0):
        for inputs, labels, index in self.inner.batches(epoch, start):
            yield {"inputs": inputs, "labels": labels, "index": index, "views": {"strong": inputs * 1.1 + 0.1}}


def toy_distiller(toy):
    """The distiller of a toy run, always the same."""
    from _harness import toys

    students = {"anna": toys.net(1), "ben": toys.net(2, 5)} if toy == "mutual" else toys.net(1)
    teacher = toys.net(3) if toy in ("bank", "minmax", "plain") else None
    data = Points()
    torch.manual_seed(5)
    return cg.Distiller(teacher, students, toys.terms(toy), example=data.points[:2], facts=cg.data.facts(data))


def run(toy, out=None, *, resume=False, callbacks=(), dropout=True, **options):
    """Run a toy for 3 epochs of 4 batches; returns the result and the distiller."""
    distiller = toy_distiller(toy)
    if not dropout:
        for module in distiller.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    loader = Views(cg.data.loader(Points(), batch_size=12, seed=3))
    settings = {"epochs": 3, "log_every": 2, "checkpoint_seconds": 0.0, "device": "cpu"} | options
    fit_options = cg.FitOptions(out=out, resume=resume, callbacks=tuple(callbacks), **settings)
    return cg.fit(distiller, loader, loader, fit_options), distiller


class KillAt:
    """Kill the process without warning at a step, or ask it to stop; at step 0 before the first one."""

    def __init__(self, step, number=signal.SIGKILL):
        self.step, self.number = step, number

    def __call__(self, event):
        if event.kind == ("step" if self.step else "start") and event.step == self.step:
            os.kill(os.getpid(), self.number)


def _context():
    """Fresh processes that find the harness and have torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "congruence.training", "congruence.losses", "congruence.data"])
    return context


def in_process(function, *arguments):
    """Run a function in a fresh process; returns its exit code."""
    process = _context().Process(target=function, args=arguments)
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{function.__name__} did not end in 120 s")
    return process.exitcode


def killed_run(toy, out, step, number):
    """A toy run that ends by a signal."""
    torch.set_num_threads(1)
    run(toy, out, callbacks=[KillAt(step, number)])


class CrashedError(RuntimeError):
    """A rank ended by a signal, as a fault in torch's or gloo's own code ends it; no error of Python."""


def on_ranks(function, folder, *arguments, ranks=2):
    """Run function(rank, folder, *arguments) on gloo ranks, one process each; errors come back."""
    context = _context()
    store = folder / "store"
    processes = [
        context.Process(target=_rank, args=(rank, ranks, str(store), function, folder, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    left = [text for kind in ("error-*", "fault-*") for path in sorted(folder.glob(kind)) if (text := path.read_text())]
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * ranks:
        kind = CrashedError if any(code is not None and code < 0 for code in codes) else RuntimeError
        # The codes last: a long log is read from its end.
        raise kind("\n".join([*left, f"exit codes of the ranks, None for one that did not end: {codes}"]))


def _rank(rank, ranks, store, function, folder, arguments):
    torch.set_num_threads(1)
    faults = (folder / f"fault-{rank}").open("w")  # stays open: a signal that ends the process writes its stacks there
    faulthandler.enable(faults)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
        )
        function(rank, folder, *arguments)
        gc.collect()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise
    os._exit(0)  # as congruence.testing does: gloo's threads may abort the interpreter's end


def toys_on_a_rank(rank, folder, toys, options=None):
    """Run toys on this rank of a group, and leave state and history behind."""
    for toy in toys:
        result, distiller = run(toy, folder / toy, dropout=False, **(options or {}))
        torch.save({"state": distiller.state_dict(), "history": list(result.history)}, folder / f"{toy}-{rank}.pt")

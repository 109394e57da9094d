"""`in_workers`: jobs in separate processes, which may be killed without harm to the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from congruence.bench.cell import Job, Loaded, Row, attempt
from congruence.core.printable import printable_output

Record = Callable[[str, Row], object]
TRIES = 3  # of a job whose process is killed


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    job: str | None = None


def in_workers(todo: Mapping[str, Job], workers: int, record: Record) -> None:
    """Run jobs in fresh processes, and record each row as it comes; one that raises is a row with its reason.

    A job whose process is killed is restarted up to two times. When this call ends for any reason, so do the processes.

    Args:
        todo: the jobs by name.
        workers: how many processes, at most one a job.
        record: called here with a job's name and row.

    Raises:
        RuntimeError: if a process cannot even start.
    """
    staff: dict[Connection, _Worker] = {}
    waiting, tries = deque(todo), Counter[str]()
    try:
        while waiting or any(worker.job for worker in staff.values()):
            busy = sum(worker.job is not None for worker in staff.values())
            for _ in range(min(workers, len(waiting) + busy) - len(staff)):
                worker = _hired()
                staff[worker.connection] = worker
            for connection in multiprocessing.connection.wait(list(staff)):
                worker = staff[connection]  # type: ignore[index]
                try:
                    row = worker.connection.recv()
                except (EOFError, OSError):
                    del staff[worker.connection]
                    name, why = worker.job, _ended(worker)
                    if name is not None:
                        tries[name] += 1
                        if tries[name] < TRIES:
                            waiting.append(name)
                        else:
                            record(name, todo[name].fail(f"Its process {why}, {TRIES} times."))
                    continue
                worker.ready = True
                if worker.job is not None:
                    name, worker.job = worker.job, None
                    record(name, row)
                if waiting:
                    worker.job = waiting.popleft()
                    with contextlib.suppress(BrokenPipeError, ConnectionError):  # of a dead one: seen in the next round
                        worker.connection.send(todo[worker.job])
    except BaseException:
        for worker in staff.values():
            worker.process.terminate()
        raise
    for worker in staff.values():
        worker.connection.close()
        worker.process.join()


def _hired() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=False)
    process.start()
    theirs.close()  # else the end of the process would not be seen
    return _Worker(process, ours)


def _ended(worker: _Worker) -> str:
    """Say how a process ended."""
    worker.connection.close()
    worker.process.join()
    code = worker.process.exitcode or 0
    if not worker.ready and code > 0:
        raise RuntimeError(
            f"`run_plan`: a worker process could not start (exit code {code}): a script that calls it needs "
            "`if __name__ == '__main__':` around the call; `workers=0` needs no processes."
        )
    if code < 0:
        memory = "; there may be too little memory" if -code == getattr(signal, "SIGKILL", 9) else ""
        return f"was killed (signal {-code}{memory})"
    return f"ended without a result (exit code {code})"


def _work(connection: Connection) -> None:
    """Run the jobs that come through a connection until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    printable_output()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    loaded = Loaded()
    with contextlib.suppress(EOFError, OSError):
        connection.send(None)  # it has started
        while True:
            connection.send(attempt(connection.recv(), loaded))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

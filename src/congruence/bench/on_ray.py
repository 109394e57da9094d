"""`in_ray`: jobs as tasks of a Ray cluster, each with the processors and the memory that the plan asks for.

The driver alone writes the plan's tables; cells write into their folders, so all machines must see the same one under
the same path.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from congruence.bench.cell import Job, Row, attempt
from congruence.bench.failed import sentence
from congruence.bench.pool import TRIES, Record

LOCAL = "local"


def in_ray(
    todo: Mapping[str, Job],
    address: str,
    record: Record,
    *,
    workers: int | None = None,
    resources: Mapping[str, float] | None = None,
) -> None:
    """Run jobs in a Ray cluster, and record each row as it comes; one that raises is a row with its reason.

    Ray restarts a task whose process is killed up to two times. A cluster that is started here ends with this call.

    Args:
        todo: the jobs by name.
        address: "local" starts a cluster of this machine; "auto" or an address joins one that is there.
        record: called here with a job's name and row.
        workers: processors of a cluster that is started here; by default all.
        resources: of a task: `cpus` (by default 1), `gpus` and `memory` in bytes.

    Raises:
        ValueError: if Ray is not installed, or there is no cluster at the address.
    """
    ray = find()
    mine = not ray.is_initialized()
    if mine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        quiet = {"log_to_driver": False, "include_dashboard": False} if address == LOCAL else {"log_to_driver": False}
        where = {"num_cpus": workers or os.cpu_count()} if address == LOCAL else {"address": address}
        try:
            ray.init(**where, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"No Ray cluster at '{address}': {sentence(error)}") from None
    asked = dict(resources or {})
    options: dict[str, Any] = {"num_cpus": asked.get("cpus", 1), "num_gpus": asked.get("gpus", 0)}
    options |= {"memory": asked["memory"]} if "memory" in asked else {}
    task = ray.remote(max_retries=TRIES - 1, retry_exceptions=False, **options)(_there)
    waiting = {task.remote(job, str(Path.cwd())): name for name, job in todo.items()}
    try:
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(ready)
            try:
                row = ray.get(ready)
            except ray.exceptions.RayError as error:
                row = todo[name].fail(f"Its process was killed, {TRIES} times ({type(error).__name__}).")
            record(name, row)
    finally:
        for each in waiting:
            ray.cancel(each, force=True)
        if mine:
            ray.shutdown()


def _there(job: Job, folder: str) -> Row:
    """Run a job in the folder of the driver, from which its paths are told."""
    os.chdir(folder)
    return attempt(job)


def find() -> Any:
    """Return the package.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ValueError(
            "`run_plan`: `ray` needs the package ray, which is not installed: pip install 'congruence[ray]'."
        ) from None

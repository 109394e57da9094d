"""The check of several processes: gloo ranks that share a batch must equal one process with the whole batch."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from congruence.core.traffic import counting
from congruence.methods import Row
from congruence.testing.agreement import require_agreement, two_steps
from congruence.testing.case import Case, require

# Exchanges a step of one term may have, beside DDP's: whether it sits out, its rows, and their gradients, each once.
# Padded tokens, and dense logits of a term that relates rows, have one more between hosts: ranks may have other sizes.
CALLS = {"hosts": 2, "gather": 1, "gradients of gathered rows": 1}


def check_rows_on_two_ranks(*cases: Case | Row | str, timeout: float = 120.0) -> None:
    """Check that two gloo ranks with half of each batch give the gradients and the state of one process, to 1e-6.

    See `check_rows_on_ranks`.
    """
    check_rows_on_ranks(*cases, ranks=2, timeout=timeout)


def check_rows_on_ranks(*cases: Case | Row | str, ranks: int = 2, timeout: float = 120.0) -> None:
    """Check that gloo ranks with equal parts of each batch give the gradients and the state of one process, to 1e-6.

    All cases share one group of processes, which import the rows by name, so rows must be defined in modules, not in
    test functions. A step may exchange what it gathers only once, and its gradient.

    Args:
        cases: see `check_row`.
        ranks: number of processes: 2, 4 or 8, the size of a batch.
        timeout: seconds for all cases together.

    Raises:
        AssertionError: with the case and the tensor that differs.
        RuntimeError: with the traceback, if a process failed.
    """
    listed = [case if isinstance(case, Case) else Case(case) for case in cases]
    with tempfile.TemporaryDirectory() as name:
        _run(listed, Path(name), ranks, timeout)
        by_rank = [torch.load(Path(name) / f"rank-{rank}.pt", weights_only=True) for rank in range(ranks)]
    for position, case in enumerate(listed):
        alone = two_steps(case)
        for rank, results in enumerate(by_rank):
            tensors, calls = results[position]
            require_agreement(case, alone, tensors, f"on rank {rank} of {ranks}", "one process")
            for kind, count in calls.items():
                most = CALLS.get(kind, 2)
                require(count <= 2 * most, case, f"{count} exchanges of {kind} in 2 steps, not at most {most} a step")


def _run(cases: list[Case], folder: Path, ranks: int, timeout: float) -> None:
    """Run `_rank` in new processes; errors come back."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_rank, args=(rank, ranks, cases, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    errors = [path.read_text(encoding="utf8") for path in sorted(folder.glob("error-*"))]
    if errors or any(code != 0 for code in codes):
        raise RuntimeError(
            f"{ranks} ranks ended with the codes {codes} (None: after {timeout} s).\n" + "\n".join(errors)
        )


def _counted_steps(case: Case) -> tuple[dict[str, Tensor], dict[str, int]]:
    with counting() as traffic:
        return two_steps(case), dict(traffic.calls)


def _rank(rank: int, ranks: int, cases: list[Case], folder: Path) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'store'}",
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=60),
        )
        torch.save([_counted_steps(case) for case in cases], folder / f"rank-{rank}.pt")
        gc.collect()  # a DDP module that is still somewhere keeps gloo's threads
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc(), encoding="utf8")
        raise SystemExit(1) from None
    # The result is written: a thread of gloo's that outlives the group would abort the interpreter's own end.
    os._exit(0)

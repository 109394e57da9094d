"""The records of a run: metrics.jsonl, event files, and the handling of losses that are not finite."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from congruence.core.files import append_line
from congruence.core.numerics import widen
from congruence.core.ranks import any_rank, from_all_ranks, means_over_ranks
from congruence.training.origin import Place, Sums, began
from congruence.training.saving.checkpoint import naming_write_errors
from congruence.training.saving.run_directory import RunDirectory

LOG = logging.getLogger("congruence")
NORMS_EVERY = 500  # steps between measurements: a backward for each term is too expensive to run more often
LOPSIDED = 100  # ratio of gradient norms beyond which the term with the smaller gradient has almost no effect
SKIPPED = "skipped"  # the share of steps whose scaled gradient overflowed; these are left out of gradient norms


class NonFiniteLossError(RuntimeError):
    """A term's loss was not finite: the run stopped, with the weights from before that step."""


class Recorder:
    """Collects values on the device, and moves them to the host every `every` steps.

    A loss or gradient that is not finite sets the device flag `bad`: from that step on no optimizer steps and no
    checkpoint is written, and the next flush raises `NonFiniteLossError` with the step and the term.
    """

    def __init__(
        self, directory: RunDirectory | None, *, every: int, device: torch.device, tensorboard: bool = False
    ) -> None:
        self.path = directory.metrics if directory else None
        self.every = every
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_values: dict[tuple[str, ...], Tensor] = {}
        self.bad_sums: dict[tuple[Place, ...], Tensor] = {}
        # values that arrive together are kept in one tensor, so that each update is one operation
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.counts: dict[tuple[str, ...], int] = {}
        self.norms: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}  # the balanced weights of the last step
        self._compared = False
        self._length = self.offset  # bytes of metrics.jsonl that this run has written
        self._events: Callable[..., Any] | None = None
        if tensorboard and directory:
            self._events = functools.partial(event_writer(), str(directory.tensorboard))
        self._writer: Any = None

    @property
    def offset(self) -> int:
        """How long metrics.jsonl is, in bytes."""
        return self.path.stat().st_size if self.path and self.path.exists() else 0

    def check(self, step: int, values: Mapping[str, Tensor], norm: Tensor, sums: Sums | None = None) -> Tensor:
        """Set the flag on all ranks if the loss or the gradient norm of this step is not finite.

        `sums` (see `training.origin`) are kept from the first such step, to report where the value began.
        """
        now = any_rank(~(torch.isfinite(values["loss"]) & torch.isfinite(norm)))
        first = now & ~self.bad
        self.bad_step = torch.where(first, torch.full_like(self.bad_step, step), self.bad_step)
        _keep(self.bad_values, {tuple(values): _together(values)}, first)
        _keep(self.bad_sums, sums or {}, first)
        self.bad = self.bad | now
        return self.bad

    def add(
        self, values: Mapping[str, Tensor], norms: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add one step's values to the running means; `weights` are the balanced ones."""
        names, now = tuple(values), _together(values)
        self.sums[names] = self.sums[names] + now if names in self.sums else now
        self.counts[names] = self.counts.get(names, 0) + 1
        self.norms.update(norms)
        self.weights = dict(weights or {})

    def _totals(self) -> dict[str, tuple[Tensor, int]]:
        """Return each value's sum so far, and the number of steps summed."""
        totals: dict[str, tuple[Tensor, int]] = {}
        for names, sums in self.sums.items():
            for name, total in zip(names, sums, strict=True):
                before, count = totals.get(name, (torch.zeros_like(total), 0))
                totals[name] = before + total, count + self.counts[names]
        return totals

    def flush(self, step: int, epoch: int, extra: Mapping[str, float]) -> dict[str, Any]:
        """Write the means since the last flush, over all ranks, as one line, and raise if the flag is set."""
        self.stop_if_bad()
        row: dict[str, Any] = {"step": step, "epoch": epoch, **extra}
        totals = self._totals()
        means = means_over_ranks([total for total, _ in totals.values()])
        row.update({n: float(mean) / count for (n, (_, count)), mean in zip(totals.items(), means, strict=True)})
        if SKIPPED in row:
            taken = 1 - row[SKIPPED]
            row["gradient_norm"] = row["gradient_norm"] / taken if taken else None
        norms = {name: float(value) for name, value in self.norms.items() if torch.isfinite(value)}
        if norms:
            row["gradient_norms"] = norms
            self._compare(norms)
        if self.weights:
            row["weights"] = {name: float(value) for name, value in self.weights.items()}
        self.sums, self.norms, self.counts, self.weights = {}, {}, {}, {}
        self.write(row)
        return row

    def _compare(self, norms: Mapping[str, float]) -> None:
        """Warn once, from the first norms, if one term's gradient is far larger than another's."""
        by_term = norms_by_term(norms)
        if self._compared or not by_term:
            return
        self._compared = True
        large, small = max(by_term, key=by_term.__getitem__), min(by_term, key=by_term.__getitem__)
        if by_term[large] > LOPSIDED * by_term[small]:
            LOG.warning(
                "The first gradient of '%s' (%.2g) is %.0f times that of '%s' (%.2g): check their weights, and the "
                "gradient_norms in metrics.jsonl.",
                *(large, by_term[large], by_term[large] / by_term[small], small, by_term[small]),
            )

    def stop_if_bad(self) -> None:
        """Raise with step and terms if a loss was not finite."""
        if not bool(self.bad):
            return
        values = dict(pair for names, held in self.bad_values.items() for pair in zip(names, held, strict=True))
        bad = {name: bool(any_rank(~torch.isfinite(value))) for name, value in values.items()}
        broken = [name for name, is_bad in bad.items() if is_bad and name != "loss"]
        if broken:
            what = "the loss of " + ", ".join(f"'{name}'" for name in broken)
        else:
            what = "the weighted sum of the terms" if bad["loss"] else "the gradient"
        where, advice = began(self._all_sums())
        raise NonFiniteLossError(
            f"At step {int(self.bad_step)} {what} was not finite{f'. It began in {where}' if where else ''}. The "
            f"weights are those before that step, and the checkpoints are older: {advice}."
        )

    def _all_sums(self) -> dict[Place, float]:
        """Return the sums of the bad step over all ranks."""
        own = {
            place: value
            for places, sums in self.bad_sums.items()
            for place, value in zip(places, sums.tolist(), strict=True)
        }
        found: dict[Place, float] = {}
        for of_rank in from_all_ranks(own):
            for place, value in of_rank.items():
                found[place] = found.get(place, 0.0) + value
        return found

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a line, and its numbers as TensorBoard scalars."""
        if self.path:
            self._tell_if_cut()
            with naming_write_errors(self.path):
                append_line(self.path, row)
            self._length = self.offset
        if self._events:
            # Events that a killed run wrote after this step are hidden.
            self._writer = self._writer or self._events(purge_step=row["step"])
            for name, value in row.items():
                nested = value.items() if isinstance(value, dict) else [("", value)]
                for inner, number in nested:
                    if isinstance(number, (int, float)) and name not in ("step", "epoch"):
                        self._writer.add_scalar("/".join(filter(None, (name, inner))), number, row["step"])
            self._writer.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores, with the means over the ranks; every rank must call it."""
        sums = dict(zip(self.sums, means_over_ranks(list(self.sums.values())), strict=True))
        means = {"sums": sums, "counts": dict(self.counts), "norms": dict(self.norms)}
        means["weights"] = dict(self.weights)
        return {**means, "offset": self.offset}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`, and truncate metrics.jsonl to its length at that time."""
        device = self.bad.device
        self.sums = {names: sums.to(device) for names, sums in state["sums"].items()}
        self.norms = {name: value.to(device) for name, value in state["norms"].items()}
        self.weights = {name: value.to(device) for name, value in state.get("weights", {}).items()}
        self.counts = dict(state["counts"])
        self._length = state["offset"]
        self._tell_if_cut()
        if self.path and self.offset > state["offset"]:
            with open(self.path, "r+b") as file:
                file.truncate(state["offset"])

    def _tell_if_cut(self) -> None:
        """Warn if lines that were written are gone, because the file was removed or truncated."""
        if self.path and self.offset < self._length:
            LOG.warning(
                "'%s' is shorter (%d bytes) than it was (%d): some of the run's earlier lines are lost.",
                *(self.path, self.offset, self._length),
            )
            self._length = self.offset

    def close(self) -> None:
        """Close the event files."""
        if self._writer:
            self._writer.close()


def _together(values: Mapping[str, Tensor]) -> Tensor:
    """Return values stacked in one tensor."""
    return torch.stack([widen(value) for value in values.values()])


def _keep(held: dict[Any, Tensor], now: Mapping[Any, Tensor], first: Tensor) -> None:
    """Keep the values of the step in which the flag is set."""
    for key, values in now.items():
        before = held.get(key, torch.zeros_like(values))
        held[key] = torch.where(first, values, before)


def norms_by_term(norms: Mapping[str, float]) -> dict[str, float]:
    """Return the norm of each term's gradient, without terms that have none.

    A term with several parts ("mlld.class") counts with its largest part, because its authors have weighted the parts
    against each other.
    """
    largest: dict[str, float] = {}
    for name, norm in norms.items():
        term = name.partition(".")[0]
        largest[term] = max(norm, largest.get(term, 0.0))
    return {term: norm for term, norm in largest.items() if norm > 0}


def event_writer() -> Callable[..., Any]:
    """Return TensorBoard's writer; raise if the extra is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except (ImportError, RuntimeError):
        raise ValueError(
            "`FitOptions`: `tensorboard` needs an extra that is not installed: pip install 'congruence[tensorboard]'."
        ) from None
    return cast("Callable[..., Any]", SummaryWriter)

"""A LightningModule that distils."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DistributedSampler

from congruence.core import ranks, rng
from congruence.core.batch import Batch, unpack
from congruence.core.devices import take_rows
from congruence.data.loading.source import PlannedLoader
from congruence.distiller import Distiller
from congruence.distiller.remembered import Remembered
from congruence.integrations.epochs import Epochs
from congruence.integrations.loss import tell_of_accumulation
from congruence.integrations.missing import not_there
from congruence.methods.method import Clock
from congruence.models.evaluating import evaluating
from congruence.training.optim import Rates, make_optimizer
from congruence.training.options import Evaluate, OptimizerOptions, ScheduleOptions
from congruence.training.saving.state import Generators
from congruence.training.scored import COUNT, add, numbers_of
from congruence.training.validate import ask, sums_of_batch, sums_over_ranks, teaches_classes

try:
    from lightning import LightningModule
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
except ModuleNotFoundError as error:
    raise not_there(str(error.name), error) from error
except (ImportError, RuntimeError) as error:
    raise not_there("lightning", error) from error

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]
_STATE = "congruence"  # in a checkpoint


class DistillationModule(LightningModule):
    """A `LightningModule` that trains a `Distiller`'s students.

    Each step logs "loss" and every term under its name. Validation logs "val_accuracy" and "val_loss" (the mean
    cross-entropy) over the labelled samples of all loaders and ranks, each once, though Lightning's sampler repeats
    some to give every rank as many; where no term teaches the classes or there are no labels, "val_loss" is the
    distillation loss.

    A checkpoint holds students, terms and optimizer, where the epochs are and the random generators of all ranks, never
    the teacher. From one of an epoch's end, `fit(ckpt_path=...)` goes on to the numbers of the unbroken run. From one
    within an epoch it does with a `Resumable` loader; Lightning itself starts a DataLoader anew there.

    Args:
        distiller: what is trained; with its `example=` given.
        optimizer: `OptimizerOptions`, or a function of `distiller.parameter_groups()` that makes one.
        schedule: of the learning rate, a function of the position in epochs, set before every step.
        evaluate: one's own validation: a function of the student that returns numbers by name, which are logged with
            "val_" before them, in the place of accuracy and loss. The first rank's count.
        micro_batch: samples that run through the models at a time, as of `FitOptions`; on one process alone.

    Raises:
        ValueError: before the layers are found.

    Example:
        >>> import congruence as cg
        >>> student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> distiller = cg.Distiller(teacher, student, ["ce", "kd"], example=torch.ones(2, 4))
        >>> module = DistillationModule(distiller, optimizer=cg.OptimizerOptions(lr=0.05))
        >>> sorted(module.state_dict())
        ['distiller.students.student.bias', 'distiller.students.student.weight']
    """

    def __init__(
        self,
        distiller: Distiller,
        *,
        optimizer: OptimizerOptions | MakeOptimizer | None = None,
        schedule: ScheduleOptions | None = None,
        evaluate: Evaluate | None = None,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(distiller, Distiller) or not distiller.built:
            raise ValueError(
                "`DistillationModule`: `distiller` must be a Distiller that knows its layers (give it example=), got "
                f"{'one that does not' if isinstance(distiller, Distiller) else type(distiller).__name__}."
            )
        self.distiller, self.micro_batch, self.evaluate = distiller, micro_batch, evaluate
        self.make = optimizer or OptimizerOptions()
        self.schedule = schedule or ScheduleOptions("constant")
        self._epochs = Epochs(distiller)
        self._generators: Mapping[str, Any] | None = None
        self._sums: dict[str, Tensor] = {}
        self._seen: dict[int, int] = {}  # rows of validation, by loader
        self._by_labels = False
        self._remembered = Remembered()

    # Training

    def setup(self, stage: str) -> None:
        """Give DDP what terms need, unless the strategy says otherwise.

        Memories see the rows of all ranks already, and a term may leave the student's head without gradient.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
            got = type(strategy).__name__
            raise ValueError(f"`DistillationModule`: the students must be whole on each device: use DDP, got {got}.")
        if isinstance(strategy, DDPStrategy):
            strategy._ddp_kwargs.setdefault("broadcast_buffers", False)
            strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        if self.micro_batch is not None and self.trainer.world_size > 1:
            processes = self.trainer.world_size
            raise ValueError(f"`DistillationModule`: `micro_batch` needs one process, got {processes}.")
        if stage == "fit":
            tell_of_accumulation(self.distiller, self.trainer.accumulate_grad_batches, "one of them")

    def configure_optimizers(self) -> Optimizer:
        """Make the optimizer over students and terms."""
        groups = self.distiller.parameter_groups()
        # A scheduler of Lightning's would have to know the number of steps here, and asking for it
        # (`trainer.estimated_stepping_batches`) makes Lightning forget the place that a checkpoint's loader was at.
        return make_optimizer(groups, self.make) if isinstance(self.make, OptimizerOptions) else self.make(groups)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, of any form that `fit` takes."""
        parts = unpack(batch)
        out = self.distiller(parts.inputs, parts.labels, parts.index, views=parts.views, micro_batch=self.micro_batch)
        self.log_dict(
            {"loss": out.loss.detach(), **{n: v.detach() for n, v in out.terms.items()}}, batch_size=parts.rows
        )
        return out.loss

    def on_train_start(self) -> None:
        """Take the rates at their full height."""
        trainer, per_epoch = self.trainer, self._steps_per_epoch()
        epochs: float | None = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
        if epochs is None and per_epoch is not None and trainer.max_steps > 0:
            epochs = trainer.max_steps / per_epoch
        self._rates = Rates(trainer.optimizers, self.schedule, epochs or 1)
        if self.schedule != ScheduleOptions("constant") and (epochs is None or per_epoch is None):
            raise ValueError(
                f"`DistillationModule`: `schedule` '{self.schedule.name}' needs a loader with a length and a number of "
                "epochs or steps, got none: give max_epochs, or a constant one."
            )

    def _steps_per_epoch(self) -> int | None:
        batches = self.trainer.num_training_batches
        return max(-(-batches // self.trainer.accumulate_grad_batches), 1) if isinstance(batches, int) else None

    def on_train_epoch_start(self) -> None:
        """Tell the methods of an epoch's beginning."""
        self._begin()

    def _begin(self) -> None:
        if not self._epochs.is_in(self.current_epoch):
            last = self.trainer.max_epochs
            epochs = last if (last or -1) > 0 else None
            self._epochs.begin(Clock(self.current_epoch, self.trainer.global_step, epochs, self._steps_per_epoch()))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the rates of the step; begin an epoch of which Lightning tells no beginning.

        That is the one after a checkpoint of an epoch's last batch.
        """
        self._begin()
        self._rates.set((self.trainer.global_step + 0.5) / (self._steps_per_epoch() or 1))

    def on_train_epoch_end(self) -> None:
        """Tell the methods of an epoch's end."""
        self._epochs.end()

    # Validation

    def on_validation_epoch_start(self) -> None:
        """Start to count."""
        self._sums, self._seen, self._by_labels = {}, {}, teaches_classes(self.distiller)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add up what a batch measures, of the samples that the sampler has not repeated."""
        parts = None if self.evaluate is not None else self._once(unpack(batch), dataloader_idx)
        if parts is None:
            return
        self._by_labels = self._by_labels and (bool(self._sums) or parts.labels is not None)
        with torch.no_grad(), rng.untouched(), evaluating(self.distiller), self._remembered.lent(self.distiller):
            found = sums_of_batch(self.distiller, parts, labels=self._by_labels)
            if not found and not self._sums:  # labels of another kind than the logits, which no term reads
                self._by_labels, found = False, sums_of_batch(self.distiller, parts, labels=False)
        add(self._sums, found)

    def _once(self, batch: Batch, loader: int) -> Batch | None:
        """Return what of a batch is no repetition of the sampler's, None where nothing is."""
        rows, before = batch.rows, self._seen.get(loader, 0)
        own = _own_samples(self.trainer.val_dataloaders, loader)
        if rows is None or own is None:
            return batch
        self._seen[loader] = before + rows
        left = max(min(rows, own - before), 0)
        if left == rows or not left:
            return batch if left else None
        inputs, labels, index, views = (
            take_rows(part, slice(left), rows) for part in (batch.inputs, batch.labels, batch.index, batch.views)
        )
        return replace(batch, inputs=inputs, labels=labels, index=index, views=views)

    def on_validation_epoch_end(self) -> None:
        """Log the numbers of all ranks."""
        if self.evaluate is not None:
            numbers = ask(self.distiller, self.evaluate)
        else:
            sums = sums_over_ranks(self._sums)
            numbers = numbers_of(sums) if sums.get(COUNT) else {}
        named = {f"val_{name}": value for name, value in numbers.items()}
        self.log_dict(named, prog_bar=True, rank_zero_only=False, sync_dist=True)

    # Saving

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where the epochs are, and the generators of all ranks."""
        checkpoint[_STATE] = {"epochs": self._epochs.state_dict(), "generators": Generators().state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them.

        Raises:
            ValueError: for a checkpoint of another module.
        """
        if _STATE not in checkpoint:
            raise ValueError("`DistillationModule`: the checkpoint must be one of its own, it has no state of terms.")
        self._epochs.load_state_dict(checkpoint[_STATE]["epochs"])
        trains = self._trainer is not None and self._trainer.state.fn == "fit"
        if trains and len(checkpoint[_STATE]["generators"]["ranks"]) == ranks.world_size():
            Generators().load_state_dict(checkpoint[_STATE]["generators"])


def _own_samples(loaders: Any, number: int) -> int | None:
    """Return how many samples of a loader's dataset are this rank's, None where no sampler of torch's shares them out.

    A `DistributedSampler` gives rank r of N the places r, r + N, r + 2N, … of an order that begins anew where the
    dataset ends before every rank has as many.
    """
    loaders = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    loader = loaders[number] if isinstance(loaders, (list, tuple)) else loaders
    for sampler in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        if isinstance(sampler, DistributedSampler):
            samples = len(sampler.dataset)  # type: ignore[arg-type]
            return max(-(-(samples - sampler.rank) // sampler.num_replicas), 0)
    return None


class Resumable:
    """A loader of `congruence.data` that a Lightning checkpoint within an epoch remembers the place in.

    Args:
        loader: of `congruence.data.loader`; it gives each rank its share, so that Lightning need not.

    Example:
        >>> import congruence as cg
        >>> rows = torch.utils.data.TensorDataset(torch.arange(6.0), torch.zeros(6).long())
        >>> loader = Resumable(cg.data.loader(rows, batch_size=2, shuffle=False))
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> state = loader.state_dict()
        >>> again = Resumable(cg.data.loader(rows, batch_size=2, shuffle=False))
        >>> again.load_state_dict(state)
        >>> [inputs.tolist() for inputs, *_ in again]
        [[2.0, 3.0], [4.0, 5.0]]
    """

    def __init__(self, loader: PlannedLoader) -> None:
        if not isinstance(loader, PlannedLoader):
            raise ValueError(
                f"`Resumable`: `loader` must be one of congruence.data.loader, got {type(loader).__name__}."
            )
        self.loader = loader
        self._epoch, self._batch = 0, 0  # of the next batch
        self._cut = True  # whether the next `iter` goes on within an epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if not self._cut or self._batch >= len(self.loader):
            self._epoch, self._batch = self._epoch + 1, 0
        self._cut = False
        for batch in self.loader.batches(self._epoch, self._batch):
            self._batch += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return which batch comes next."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go to it."""
        self._epoch, self._batch, self._cut = state_dict["epoch"], state_dict["batch"], True

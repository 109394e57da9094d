"""The Trainer of transformers, distilling: the student is its model, the teacher stays out of all that is saved."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import ranks, rng
from congruence.core.batch import Batch, unpack
from congruence.core.inputs import inputs_of
from congruence.distiller import Distiller, Output
from congruence.distiller.remembered import Remembered
from congruence.integrations.epochs import Epochs, Terms
from congruence.integrations.loss import DistillationLoss, tell_of_accumulation
from congruence.integrations.missing import not_there
from congruence.methods.method import Clock
from congruence.models.evaluating import evaluating
from congruence.models.forward import call

try:
    from accelerate.utils import DistributedDataParallelKwargs
    from transformers import Trainer, TrainerCallback, TrainingArguments
except ModuleNotFoundError as error:
    raise not_there(str(error.name), error) from error
except (ImportError, RuntimeError) as error:  # what is broken may raise what it likes
    raise not_there("transformers", error) from error

TERMS = "congruence_terms.pt"  # in a checkpoint, beside optimizer.pt
_COLUMNS = ("inputs", "labels", "label", "index", "views")


class DistillationTrainer(Trainer):
    """A `transformers.Trainer` whose model is the student, and whose loss is a `Distiller`'s.

    loss = Σ_terms weight(term, epoch) · term(student, teacher)

    A step's gradient is the mean of those of its accumulated batches, whatever arguments the student's forward takes,
    and of those of all ranks; relational terms see the rows of all ranks. `evaluate` gives the distillation loss of the
    batches, `predict` and `compute_metrics` get the student's logits and the labels. A checkpoint's folder holds the
    student as `save_pretrained` writes it, and the terms' memories and balanced weights in a file of their own;
    `train(resume_from_checkpoint=...)` goes on to the numbers of the unbroken run.

    A batch is a mapping of the models' arguments and "labels", as tokenizers and collators give it; or it has "inputs",
    and "labels", "index" and "views" where terms need them.

    Args:
        distiller: of one student. What methods must know beforehand needs its `example=`.
        args: the `TrainingArguments`.
        micro_batch: samples that run through the models at a time, for the gradient of a whole batch that does not fit
            (the relational terms see all of it); on one process alone.
        **arguments: of `transformers.Trainer`, but `model`, `model_init` and `compute_loss_func`. Parameters of the
            terms are trained, too; an optimizer of one's own must have them (`distiller.parameter_groups()`).

    Raises:
        ValueError: for several students, before the layers are found, or for what a loss of the Trainer's own asks.

    Example:
        >>> import congruence as cg
        >>> import transformers
        >>> shape = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
        >>> def bert(layers):
        ...     config = transformers.BertConfig(num_hidden_layers=layers, **shape)
        ...     return transformers.BertForSequenceClassification(config)
        >>> rows = [{"input_ids": [2, 5, n, 3], "labels": n % 2} for n in range(4, 12)]
        >>> distiller = cg.Distiller(bert(2), bert(1), ["ce", "kd"], example={"input_ids": torch.ones(2, 4).long()})
        >>> arguments = transformers.TrainingArguments(
        ...     "run", max_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
        ... )
        >>> trainer = DistillationTrainer(distiller, arguments, train_dataset=rows)
        >>> trainer.model is distiller.student
        True
        >>> trainer.predict(rows).predictions.shape
        (8, 2)
    """

    # To newer transformers: the loss is a mean over the batch, still to be divided by how many are accumulated.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        distiller: Distiller,
        args: TrainingArguments | None = None,
        *,
        micro_batch: int | None = None,
        **arguments: Any,
    ) -> None:
        args = TrainingArguments("trainer_output") if args is None else args
        _check(distiller, args, arguments)
        args._n_gpu = min(args.n_gpu, 1)  # one process trains on one device; several train by DDP
        self.distiller = distiller
        self._loss = DistillationLoss(distiller, micro_batch)
        self._epochs = Epochs(distiller)
        self._terms = Terms(self._epochs)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._remembered = Remembered()
        super().__init__(model=distiller.student, args=args, **arguments)
        # What a forward's `**kwargs` are taken to say: that the model divides its loss by what is accumulated.
        self.model_accepts_loss_kwargs = False
        self._loss.to(args.device)  # the teacher goes along
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("`DistillationTrainer`: the student must be whole on each device: use DDP, got shards.")
        if micro_batch is not None and args.world_size > 1:
            raise ValueError(f"`DistillationTrainer`: `micro_batch` needs one process, got {args.world_size}.")
        size = args.per_device_train_batch_size * args.world_size
        tell_of_accumulation(distiller, args.gradient_accumulation_steps, f"{size} samples")
        self.add_callback(_EpochsTold(self._epochs))

    # Training

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> Any:
        """Train the distiller's loss in the place of the student; evaluate the student as it is."""
        if not training:
            return super()._wrap_model(model, training=False, dataloader=dataloader)
        self._sums, self._counts = {}, {}
        # Memories see the rows of all ranks already; a term may leave the student's head without gradient.
        self.accelerator.ddp_handler = DistributedDataParallelKwargs(
            broadcast_buffers=False, find_unused_parameters=True
        )
        return self.accelerator.prepare_model(self._loss)

    def create_optimizer(self, *args: Any, **arguments: Any) -> Any:
        """Build the optimizer of the arguments over the student and, beside it, the terms' own parameters."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*args, **arguments)
        has = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for group in self.distiller.parameter_groups():
            lacking = [p for p in group["params"] if id(p) not in has]
            if lacking and not made:
                raise ValueError(
                    f"`DistillationTrainer`: the optimizer must have the parameters of the {group['name']}, "
                    f"{len(lacking)} are not in it: make it of distiller.parameter_groups()."
                )
            if lacking:
                decay = group.get("weight_decay", self.args.weight_decay)
                optimizer.add_param_group({"params": lacking, "weight_decay": decay})
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the distillation loss of a batch, a mean over its samples; with `return_outputs` the terms as well."""
        scored = model(unpack(inputs))
        for name, value in scored.terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        return (scored.loss, scored.terms) if return_outputs else scored.loss

    def log(self, logs: dict[str, float], *args: Any, **arguments: Any) -> None:
        """Log, beside the loss, the mean of each term since the last time, unweighted."""
        if "loss" in logs and self.is_in_train:
            own = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
            every = ranks.from_all_ranks(own)
            for name in dict.fromkeys(name for one in every for name in one):
                of_ranks = [one[name] for one in every if name in one]
                logs[name] = sum(of_ranks) / len(of_ranks)
            self._sums, self._counts = {}, {}
        super().log(logs, *args, **arguments)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that the teacher takes, and those of a batch by name."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            taken = [inspect.signature(each.module.forward).parameters for each in self.distiller.teachers.values()]
            columns: Any = self._signature_columns
            names = [*columns, *_COLUMNS, *(name for one in taken for name in one)]
            self._signature_columns: Any = list(dict.fromkeys(names))

    # Evaluation

    def evaluation_loop(self, *args: Any, **arguments: Any) -> Any:
        """Evaluate or predict, and leave the process's generators as they were: loaders and methods draw from them."""
        with rng.untouched(), self._remembered.lent(self.distiller):
            return super().evaluation_loop(*args, **arguments)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Return the distillation loss, the student's logits and the labels; no loss where a term lacks its labels."""
        inputs = self._prepare_inputs(inputs)
        batch = unpack(inputs)
        named = [inputs.get(name) for name in self.label_names]
        labels: Any = tuple(named) if len(named) > 1 and all(each is not None for each in named) else batch.labels
        with torch.no_grad(), evaluating(self.distiller), self.accelerator.autocast():
            loss, output = self._evaluated(batch)
        if prediction_loss_only:
            return loss, None, None
        shown: Any = Output(torch.zeros(()), {}, output, None, {})[1:]
        logits = tuple(each.float() if each.is_floating_point() else each for each in shown)
        return loss, logits[0] if len(logits) == 1 else logits, labels

    def _evaluated(self, batch: Batch) -> tuple[Tensor | None, Any]:
        """Return the loss, where the batch has what the terms need, and the student's output."""
        lacks = [
            (needs.labels and batch.labels is None) or (needs.index and batch.index is None)
            for needs in self.distiller.needs().values()
        ]
        if any(lacks):
            return None, call(self.distiller.student, inputs_of(batch.inputs, "student"))
        captured = self.distiller.capture(batch.inputs, batch.labels, batch.index, views=batch.views)
        # Each rank measures batches of its own, and they need not be as many.
        out = self.distiller.score(captured, update=False, together=False)
        return out.loss.detach(), out.student

    # Saving

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the student; of a plain module copies, since safetensors refuses weights that share their memory."""
        student = self.distiller.student
        if state_dict is None and not hasattr(student, "save_pretrained"):
            state_dict = {name: value.contiguous().clone() for name, value in student.state_dict().items()}
        super()._save(output_dir, state_dict=state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write what the terms remember beside the optimizer's state."""
        super()._save_optimizer_and_scheduler(output_dir)
        state = self._terms.state_dict()
        if self.args.should_save:
            torch.save(state, Path(output_dir) / TERMS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore what the terms remember with the optimizer's state.

        Raises:
            ValueError: for a checkpoint without it, or of other terms.
        """
        if checkpoint is not None:
            file = Path(checkpoint) / TERMS
            if not file.exists():
                raise ValueError(f"`DistillationTrainer`: '{checkpoint}' must hold {TERMS}, which it writes itself.")
            self._terms.load_state_dict(torch.load(file, map_location=self.args.device, weights_only=True))
        super()._load_optimizer_and_scheduler(checkpoint)


class _EpochsTold(TrainerCallback):
    """Tells the distiller of its epochs."""

    def __init__(self, epochs: Epochs) -> None:
        self.epochs = epochs
        self._next: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **arguments: Any) -> None:
        """Forget the epochs of a run before."""
        self._next = None
        if not state.global_step:
            self.epochs.open = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **arguments: Any) -> None:
        """Tell of an epoch's beginning; the first one may be gone on with."""
        loader = arguments.get("train_dataloader")
        try:
            per_epoch = max(-(-len(loader) // args.gradient_accumulation_steps), 1)  # type: ignore[arg-type]
        except TypeError:  # a loader without a length
            per_epoch = None
        if self._next is None:
            self._next = state.global_step // per_epoch if per_epoch else int(state.epoch or 0)
        epochs = state.num_train_epochs if per_epoch else None  # else a number beyond all
        self.epochs.begin(Clock(self._next, state.global_step, epochs, per_epoch))
        self._next += 1

    def on_epoch_end(self, args: Any, state: Any, control: Any, **arguments: Any) -> None:
        """Tell of an epoch's end."""
        self.epochs.end()


def _check(distiller: Any, args: TrainingArguments, arguments: Mapping[str, Any]) -> None:
    """Refuse what would train, or count, something else than is meant."""
    if not isinstance(distiller, Distiller):
        raise ValueError(f"`DistillationTrainer`: `distiller` must be a Distiller, got {type(distiller).__name__}.")
    if len(distiller.students) > 1:
        names = ", ".join(distiller.students)
        raise ValueError(f"`DistillationTrainer`: `distiller` must have one student, got {names}.")
    if not distiller.built:
        raise ValueError("`DistillationTrainer`: `distiller` must know its layers: give the Distiller example=.")
    for name in ("model", "model_init", "compute_loss_func"):
        if arguments.get(name) is not None:
            raise ValueError(f"`DistillationTrainer`: `{name}` must be left out: the distiller has model and loss.")
    if args.label_smoothing_factor:
        raise ValueError(
            "`DistillationTrainer`: `label_smoothing_factor` must be 0, since the terms are the loss, "
            f"got {args.label_smoothing_factor}."
        )

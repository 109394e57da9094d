"""What an `Accelerator` trains."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from congruence.distiller import Distiller
from congruence.integrations.epochs import Epochs
from congruence.integrations.loss import DistillationLoss, tell_of_accumulation
from congruence.integrations.missing import not_there

try:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs
except ModuleNotFoundError as error:
    raise not_there(str(error.name), error) from error
except (ImportError, RuntimeError) as error:
    raise not_there("accelerate", error) from error


def prepare(accelerator: Accelerator, distiller: Distiller, optimizer: Optimizer, *rest: Any) -> tuple[Any, ...]:
    """Prepare a distiller, its optimizer and loaders for the loop of an `Accelerator`.

    On several processes relational terms see the rows of all, gradients are averaged, and no memory is overwritten by
    another process's (`broadcast_buffers=False`). `save_state` writes students, terms and where the epochs are, never
    the teacher; `load_state` restores them. After it, an epoch that the checkpoint cut in two is gone on with by the
    same `epochs.begin`.

    Args:
        accelerator: its own arguments for DDP, if it has any, stay.
        distiller: what is trained.
        optimizer: of `distiller.parameter_groups()`.
        *rest: loaders and schedulers. A loader of `congruence.data` shares its batches among ranks by itself.

    Returns:
        The loss, a module that takes a batch of any form that `fit` takes and gives `Scored`: `loss` to go backward
        from, `terms` and `weights` without gradient; `Epochs`, whose `begin(Clock(epoch))` and `end()` are for the
        loop to call; then the optimizer and the rest, prepared.

    Example:
        >>> import torch
        >>> import congruence as cg
        >>> student, teacher, images = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), torch.randn(8, 4)
        >>> distiller = cg.Distiller(teacher, student, ["kd", "pkt"], example=images)
        >>> optimizer = torch.optim.SGD(distiller.parameter_groups(), lr=0.1)
        >>> accelerator = Accelerator(cpu=True)
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=4)
        >>> loss, epochs, optimizer, loader = prepare(accelerator, distiller, optimizer, loader)
        >>> epochs.begin(cg.Clock(0))
        >>> accelerator.backward(loss(next(iter(loader))).loss)
    """
    if accelerator.ddp_handler is None:
        accelerator.ddp_handler = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    tell_of_accumulation(distiller, accelerator.gradient_accumulation_steps, "one of them")
    epochs = Epochs(distiller)
    accelerator.register_for_checkpointing(epochs)
    loss, optimizer, *others = accelerator.prepare(DistillationLoss(distiller), optimizer, *rest)
    return loss, epochs, optimizer, *others

"""Floor 9: training by other libraries, each in a file of its own that imports it (the extra `congruence[loops]`).

`lightning.DistillationModule` is a LightningModule, `transformers.DistillationTrainer` a Trainer, and
`accelerate.prepare` makes what an `Accelerator` trains. All three train the student by a `Distiller`, keep the teacher
out of what is saved, and write what the terms remember beside the student.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from congruence.core.front_door import on_first_use

if TYPE_CHECKING:
    from congruence.integrations.accelerate import prepare
    from congruence.integrations.lightning import DistillationModule, Resumable
    from congruence.integrations.transformers import DistillationTrainer

__getattr__ = on_first_use(
    __name__,
    {
        "congruence.integrations.accelerate": ("prepare",),
        "congruence.integrations.lightning": ("DistillationModule", "Resumable"),
        "congruence.integrations.transformers": ("DistillationTrainer",),
    },
)

__all__ = ["DistillationModule", "DistillationTrainer", "Resumable", "prepare"]

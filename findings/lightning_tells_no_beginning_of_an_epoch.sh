#!/usr/bin/env bash
# lightning 2.6.6 with torch 2.13.0, Trainer.fit(ckpt_path=...) from a checkpoint of an epoch's last step, as
# ModelCheckpoint(every_n_train_steps=...) writes it.
#
# Behaviour: the run goes on with the next epoch, whose `on_train_epoch_start` is not called, neither the module's nor
# the callbacks'; its `on_train_epoch_end` is.
# Seen: epochs of 5 steps, resumed at step 5: epoch 1 ends without having begun. From steps 3 and 8 all is told.
# Whom it hurts: whoever prepares an epoch there (a warm-up, a memory, a sampler, a meter that is reset): that epoch runs
# with what was prepared for none, or for the one before. This library's module looks at the epoch in each step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 lightning==2.6.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import warnings

import torch
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.begun, self.ended = torch.nn.Linear(1, 1), [], []

    def training_step(self, batch, _):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_epoch_start(self):
        self.begun.append(self.current_epoch)

    def on_train_epoch_end(self):
        self.ended.append(self.current_epoch)


def told(checkpoint: str | None = None) -> tuple[list[int], list[int]]:
    """The epochs whose beginnings and ends a run of three epochs tells."""
    module = Module()
    keep = ModelCheckpoint("steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=3, callbacks=[keep], **quiet)
    trainer.fit(module, DataLoader(torch.ones(5, 1)), ckpt_path=checkpoint)
    return module.begun, module.ended


assert told() == ([0, 1, 2], [0, 1, 2])
for step in (3, 5, 8):
    begun, ended = told(f"steps/step={step}.ckpt")
    print(f"resumed at step {step}: begun {begun}, ended {ended}")
    if step == 5:
        assert ended == [1, 2], "the run goes on elsewhere"
        assert begun == [2], "the epoch's beginning is told now: the behaviour has changed"
    else:
        assert begun == ended[1:], "the beginning of an epoch is told of others than those after the checkpoint's"
PYTHON

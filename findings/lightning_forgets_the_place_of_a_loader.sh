#!/usr/bin/env bash
# lightning 2.6.6 with torch 2.13.0, Trainer.fit(ckpt_path=...) with a training loader that has `state_dict` and
# `load_state_dict`.
#
# Behaviour: where the module reads `trainer.estimated_stepping_batches` in `configure_optimizers`, as the documentation
# has it for schedulers that must know the number of steps, the loader's saved state is never given back to it: reading
# the number sets up the loaders before the checkpoint's loops are restored, and they are not set up again. The run goes
# on from the loader's beginning, without a word.
# Seen: a checkpoint of step 3 of 5, whose run goes on with batches 0 and 1 in the place of 3 and 4.
# Whom it hurts: who resumes a run within an epoch with a loader made for that: samples are seen twice, others never.
# This library's module sets the rates by itself, from the number of the step.
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

warnings.simplefilter("ignore")
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Loader:
    """Five batches, of which the next one is remembered."""

    def __init__(self) -> None:
        self.next, self.given = 0, []

    def __len__(self) -> int:
        return 5

    def __iter__(self):
        while self.next < 5:
            self.given.append(self.next)
            self.next += 1
            yield torch.ones(2, 1)

    def state_dict(self) -> dict:
        return {"next": self.next}

    def load_state_dict(self, state: dict) -> None:
        self.next = state["next"]


class Module(LightningModule):
    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.asks, self.layer = asks, torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        if self.asks:
            assert self.trainer.estimated_stepping_batches == 5
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(asks: bool, checkpoint: str | None = None) -> list[int]:
    """The batches that a run of one epoch reads."""
    loader = Loader()
    keep = ModelCheckpoint("steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(max_epochs=1, callbacks=[keep], **quiet).fit(Module(asks), loader, ckpt_path=checkpoint)
    return loader.given


assert batches(False) == [0, 1, 2, 3, 4]
plain, asking = batches(False, "steps/step=3.ckpt"), batches(True, "steps/step=3.ckpt")
print(f"after step 3 a run goes on with batches {plain}; where it asks for the number of steps, with {asking}")
assert plain == [3, 4], "a loader's place is not restored at all"
assert asking == [0, 1], "the loader's place is restored now: the behaviour has changed"
PYTHON

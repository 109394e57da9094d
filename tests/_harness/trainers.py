"""Small distillations for the trainers of other libraries, and what their ranks run."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import congruence as cg

# These libraries warn of their own and torch's coming changes, and of loaders of few workers: not ours to mend here.
THIRD_PARTY = (
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*pin_memory.*:UserWarning",
    "ignore:.*not resumable.*:UserWarning",
    "ignore:.*no `val_dataloader`.*:UserWarning",
    "ignore:The dirpath has changed.*:UserWarning",
)
EVERYTHING = ("ce", cg.Term("kd", weight="balanced"), "queue_relation", "hkd", "adv", cg.Term("pkt", weight=5.0))


def imported(name):
    """Import an optional library, or skip; a broken one may raise what it likes."""
    try:
        return pytest.importorskip(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


class Net(nn.Module):
    """A model as transformers has them: arguments by name, more than it asks for, an output with `logits`."""

    def __init__(self, width, dropout=0.0):
        super().__init__()
        self.body, self.dropout, self.classifier = nn.Linear(6, width), nn.Dropout(dropout), nn.Linear(width, 3)

    def forward(self, values, **others):
        assert "labels" not in others
        hidden = self.body(values)
        return {"hidden": hidden, "logits": self.classifier(self.dropout(hidden.relu()))}


def points(size=20, seed=0):
    """Points and their labels."""
    values = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return values, values[:, :3].argmax(1)


def rows(size=20, seed=0):
    """Labelled points as datasets of transformers give them."""
    return [{"values": value, "labels": label} for value, label in zip(*points(size, seed), strict=True)]


def tuples(size=20, seed=0):
    """Labelled points as `(inputs, labels)`, the former a mapping."""
    return [({"values": value}, label) for value, label in zip(*points(size, seed), strict=True)]


def distiller(*terms, dropout=0.0):
    """A distiller, always the same for the same terms."""
    torch.manual_seed(1)
    teacher, student = Net(7), Net(5, dropout)
    values, labels = points()
    facts = cg.data.facts(TensorDataset(values, labels))
    return cg.Distiller(teacher, student, terms or ("ce", "kd"), example={"values": values[:4]}, facts=facts)


def accuracy(module, size, seed):
    """How many of points a student gets right."""
    values, labels = points(size, seed)
    with torch.no_grad():
        return float((module.eval()(values)["logits"].argmax(1) == labels).double().mean())


def alike(first, second, tolerance=1e-6):
    """Assert that two states hold the same numbers."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance, msg=name)


def plain_loop(terms, batches):
    """What a loop over lists of positions leaves, a list of them for each epoch."""
    made, (values, labels) = distiller(*terms), points()
    optimizer = torch.optim.SGD(made.parameter_groups(), lr=0.1)
    for epoch, of_epoch in enumerate(batches):
        made.begin_epoch(epoch)
        for positions in of_epoch:
            optimizer.zero_grad()
            made({"values": values[positions]}, labels[positions]).loss.backward()
            optimizer.step()
        made.end_epoch()
    return made


# Transformers


def hf_trainer(folder, made, *, size=20, trainer=None, **changes):
    """A `DistillationTrainer`, or another class, of 3 epochs of 5 steps by plain SGD."""
    import transformers

    from congruence.integrations.transformers import DistillationTrainer

    given = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "use_cpu": True,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
    } | changes
    arguments = transformers.TrainingArguments(str(folder), **given)
    data = {"train_dataset": rows(size), "eval_dataset": rows(11, 3), "compute_metrics": hf_accuracy}
    return (trainer or DistillationTrainer)(made, arguments, **data)


def hf_accuracy(found):
    """The share of predictions that are right, and how many there are."""
    assert found.predictions.shape[1:] == (3,)
    right = found.predictions.argmax(-1) == found.label_ids
    return {"accuracy": float(right.mean()), "count": len(right)}


def hf_runs(folder, terms, batch, **changes):
    """What training and evaluation of the Trainer leave, for one rank as for two."""
    made = distiller(*terms)
    trainer = hf_trainer(folder, made, per_device_train_batch_size=batch, num_train_epochs=2, **changes)
    trainer.train()
    return made.state_dict(), trainer.evaluate(), trainer.predict(rows(11, 3)).predictions


# Lightning


def lightning_trainer(folder, **changes):
    """A quiet `Trainer` on the CPU."""
    import lightning

    given = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": str(folder),
    } | changes
    return lightning.Trainer(**given)


def lightning_module(made, **changes):
    """A `DistillationModule` by plain SGD."""
    from congruence.integrations.lightning import DistillationModule

    given = {"optimizer": cg.OptimizerOptions("sgd", lr=0.1, momentum=0.0, weight_decay=0.0)} | changes
    return DistillationModule(made, **given)


def lightning_runs(folder, terms, batch, loader=None, **changes):
    """What training and validation by Lightning leave, for one rank as for two."""
    made = distiller(*terms)
    trainer = lightning_trainer(folder, max_epochs=2, num_sanity_val_steps=0, **changes)
    loader = loader or DataLoader(tuples(), batch_size=batch)
    trainer.fit(lightning_module(made), loader, DataLoader(tuples(11, 3), batch_size=4))
    return made.state_dict(), {name: float(value) for name, value in trainer.callback_metrics.items()}


# Accelerate


def accelerate_runs(terms, batch, *, epochs=2, split=False, folder=None, resume=None, dropout=0.0):
    """What a loop by Accelerate leaves; `folder` gets a checkpoint a step, `resume` is the one to go on from."""
    from accelerate import Accelerator, DataLoaderConfiguration

    from congruence.integrations.accelerate import prepare

    made = distiller(*terms, dropout=dropout)
    optimizer = torch.optim.AdamW(made.parameter_groups(), lr=0.01)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=split))
    loader = DataLoader(tuples(), batch_size=batch)
    loss, told, optimizer, loader = prepare(accelerator, made, optimizer, loader)
    if resume is not None:
        accelerator.load_state(str(folder / f"step-{resume}"))
    first, step = divmod(resume or 0, len(loader)), resume or 0
    for epoch in range(first[0], epochs):
        told.begin(cg.Clock(epoch))
        for data in accelerator.skip_first_batches(loader, first[1]) if epoch == first[0] else loader:
            optimizer.zero_grad()
            accelerator.backward(loss(data).loss)
            optimizer.step()
            step += 1
            if folder is not None and resume is None:
                accelerator.save_state(str(folder / f"step-{step}"))
        told.end()
    return made.state_dict()


def accelerate_shares(size, batch, *, split=False):
    """Which places of a dataset a rank gets of each batch."""
    from accelerate import Accelerator, DataLoaderConfiguration

    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=split))
    return [batch.tolist() for batch in accelerator.prepare(DataLoader(range(size), batch_size=batch))]


# Ranks

TERMS = {
    "classes": ("ce", "kd", cg.Term("pkt", weight=5.0), "queue_relation"),
    "relations": (cg.Term("pkt", weight=5.0, student_layer="body", teacher_layer="body"),),
}


def _announce(rank):
    """Tell the libraries of the group that is up, as torchrun does."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
        "TORCHELASTIC_RUN_ID": "none",
        "ACCELERATE_USE_CPU": "true",
    }
    warnings.simplefilter("ignore")


def _by_transformers(folder):
    found = {name: hf_runs(folder / name, terms, 2) for name, terms in TERMS.items()}
    found["accumulated"] = hf_runs(folder / "accumulated", TERMS["classes"], 2, gradient_accumulation_steps=2)
    return found


def _by_lightning(folder):
    two = {"devices": 2, "strategy": "ddp"}
    found = {name: lightning_runs(folder / name, terms, 2, **two) for name, terms in TERMS.items()}
    own = cg.data.loader(Named(), batch_size=4, shuffle=False)
    found["own loader"] = lightning_runs(folder / "own", TERMS["classes"], 2, own, use_distributed_sampler=False, **two)
    return found


def _by_accelerate(folder):
    found = {name: accelerate_runs(terms, 2) for name, terms in TERMS.items()}
    found["split"] = accelerate_runs(TERMS["classes"], 4, split=True)
    found["shares"] = [accelerate_shares(10, 2), accelerate_shares(10, 4, split=True)]
    return found


ON_RANKS = {"accelerate": _by_accelerate, "transformers": _by_transformers, "lightning": _by_lightning}


def on_a_rank(rank, folder, libraries):
    """Leave what the libraries give on a rank of two."""
    _announce(rank)
    found = {library: ON_RANKS[library](folder / library) for library in libraries}
    torch.save(found, folder / f"found-{rank}.pt")


class Named(torch.utils.data.Dataset):
    """Labelled points whose inputs are a mapping."""

    def __init__(self):
        self.tuples = tuples()

    def __len__(self):
        return len(self.tuples)

    def __getitem__(self, position):
        return self.tuples[position]

"""A LightningModule that distils."""

from __future__ import annotations

import logging

import pytest
import torch
from _harness import trainers
from torch.utils.data import DataLoader, DistributedSampler

import congruence as cg

lightning = trainers.imported("lightning")
pytestmark = pytest.mark.filterwarnings(*trainers.THIRD_PARTY)

from congruence.integrations.lightning import DistillationModule, Resumable  # noqa: E402


def train(folder, made, loader, *, resume=None, steps=0, val=True, **changes):
    """Train for 3 epochs; `steps` says how often a checkpoint is written, 0 at each epoch's end."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    every = {"every_n_train_steps": steps} if steps else {"every_n_epochs": 1}
    keep = ModelCheckpoint(str(folder), "{step}", save_top_k=-1, **every)
    trainer = trainers.lightning_trainer(folder, callbacks=[keep], enable_checkpointing=True, **changes)
    module = trainers.lightning_module(made)
    valid = DataLoader(trainers.tuples(11, 3), batch_size=4) if val else None
    trainer.fit(module, loader, valid, ckpt_path=resume, weights_only=True)
    return trainer


def stock():
    return DataLoader(trainers.tuples(), batch_size=4, shuffle=True)


def own():
    return Resumable(cg.data.loader(trainers.Named(), batch_size=4, seed=5))


def test_it_trains_as_a_plain_loop(tmp_path):
    terms = ("ce", "kd", "pkt")
    made = trainers.distiller(*terms)
    trainer = train(tmp_path, made, DataLoader(trainers.tuples(), batch_size=4))
    alone = trainers.plain_loop(terms, 3 * [torch.arange(20).split(4)])
    trainers.alike(made.state_dict(), alone.state_dict())
    assert (made.clock.epoch, made.clock.epochs, made.clock.steps_per_epoch) == (2, 3, 5)
    numbers = trainer.callback_metrics
    assert float(numbers["val_accuracy"]) == pytest.approx(trainers.accuracy(made.student, 11, 3))
    assert {"loss", "ce", "kd", "pkt", "val_loss"} <= set(numbers)


@pytest.mark.parametrize("after", [5, 10])
@pytest.mark.parametrize("val", [True, False])
def test_a_run_resumed_at_an_epochs_end_is_the_unbroken_one(tmp_path, after, val):
    whole = trainers.distiller(*trainers.EVERYTHING, dropout=0.3)
    torch.manual_seed(7)
    train(tmp_path, whole, stock(), val=val)
    made = trainers.distiller(*trainers.EVERYTHING, dropout=0.3)
    torch.manual_seed(99)
    train(tmp_path / "again", made, stock(), resume=str(tmp_path / f"step={after}.ckpt"), val=val)
    trainers.alike(made.state_dict(), whole.state_dict())


@pytest.mark.parametrize("after", [3, 5, 8, 10])
def test_a_run_resumed_anywhere_is_the_unbroken_one_with_a_resumable_loader(tmp_path, after):
    whole = trainers.distiller(*trainers.EVERYTHING, dropout=0.3)
    torch.manual_seed(7)
    train(tmp_path, whole, own(), steps=1, val=False)
    made = trainers.distiller(*trainers.EVERYTHING, dropout=0.3)
    torch.manual_seed(99)
    begun = []
    made.begin_epoch = lambda clock, begin=made.begin_epoch: (begun.append(clock.epoch), begin(clock))
    train(tmp_path / "again", made, own(), resume=str(tmp_path / f"step={after}.ckpt"), steps=1, val=False)
    assert begun == {3: [1, 2], 5: [1, 2], 8: [2], 10: [2]}[after]
    trainers.alike(made.state_dict(), whole.state_dict())


def test_a_checkpoint_has_no_teacher(tmp_path):
    made = trainers.distiller("ce", "kd")
    train(tmp_path, made, stock())
    state = torch.load(tmp_path / "step=15.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {f"distiller.students.student.{name}" for name in made.student_state_dict()}


def test_a_module_is_loaded_from_a_checkpoint(tmp_path):
    made, again = trainers.distiller("ce", "queue_relation"), trainers.distiller("ce", "queue_relation")
    train(tmp_path, made, stock())
    torch.manual_seed(3)
    module = DistillationModule.load_from_checkpoint(str(tmp_path / "step=15.ckpt"), distiller=again, weights_only=True)
    after = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(()))  # the process's generators are not the run's
    trainers.alike(again.state_dict(), made.state_dict(), tolerance=0)
    trainer = trainers.lightning_trainer(tmp_path)
    (numbers,) = trainer.validate(module, [DataLoader(trainers.tuples(11, 3), batch_size=4)], verbose=False)
    assert numbers["val_accuracy"] == pytest.approx(trainers.accuracy(made.student, 11, 3))


def test_a_checkpoint_of_another_module_is_refused(tmp_path):
    made = trainers.distiller()
    train(tmp_path, made, stock())
    path = tmp_path / "step=5.ckpt"
    state = torch.load(path, weights_only=True)
    del state["congruence"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="must be one of its own"):
        train(tmp_path / "again", trainers.distiller(), stock(), resume=str(path))


def test_the_rate_follows_the_schedule(tmp_path):
    made, rates = trainers.distiller(), []

    class Watch(lightning.pytorch.callbacks.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    schedule = cg.ScheduleOptions("cosine", warmup_epochs=1.0)
    module = DistillationModule(made, optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.2), schedule=schedule)
    trainers.lightning_trainer(tmp_path, callbacks=[Watch()]).fit(module, stock())
    assert rates == pytest.approx([0.2 * schedule.at((step + 0.5) / 5, 3) for step in range(15)])


def test_one_s_own_validation(tmp_path):
    module = trainers.lightning_module(trainers.distiller(), evaluate=lambda student: {"mine": 3.0})
    trainer = trainers.lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, stock(), DataLoader(trainers.tuples(11, 3), batch_size=4))
    assert float(trainer.callback_metrics["val_mine"]) == 3.0
    assert "val_accuracy" not in trainer.callback_metrics


def test_validation_shows_the_teacher_each_batch_once(tmp_path):
    made, shown = trainers.distiller("mimic"), []
    module, loader = trainers.lightning_module(made), DataLoader(trainers.tuples(11, 3), batch_size=4)
    made.teacher.module.register_forward_hook(lambda *_: shown.append(1))
    trainer = trainers.lightning_trainer(tmp_path)
    found = [trainer.validate(module, [loader], verbose=False) for _ in range(2)]
    assert found[0] == found[1]
    assert len(shown) == 3


def test_without_labels_the_loss_is_the_distillation_loss(tmp_path):
    made = trainers.distiller("mimic")
    trainer = trainers.lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(trainers.lightning_module(made), stock(), DataLoader(trainers.tuples(11, 3), batch_size=4))
    values, _ = trainers.points(11, 3)
    with torch.no_grad():
        expected = float(made.eval()({"values": values}).loss)
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(expected, rel=1e-5)
    assert "val_accuracy" not in trainer.callback_metrics


def test_what_does_not_fit_is_told(tmp_path, caplog):
    with pytest.raises(ValueError, match="got Net"):
        DistillationModule(trainers.Net(3))
    with pytest.raises(ValueError, match="got one that does not"):
        DistillationModule(cg.Distiller(trainers.Net(3), trainers.Net(3), ["kd"]))
    with pytest.raises(ValueError, match=r"`loader` must be one of congruence\.data\.loader, got DataLoader"):
        Resumable(stock())
    with caplog.at_level(logging.WARNING, "congruence"):
        trainer = trainers.lightning_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
        trainer.fit(trainers.lightning_module(trainers.distiller("pkt")), stock())
    assert any("does not enlarge the batch of pkt" in message for message in caplog.messages)


def shared_out(epochs, batch=2):
    """Lightning's batches of two ranks, together: its sampler shuffles all training data, and gives places in turn."""
    found = []
    for epoch in range(epochs):
        orders = []
        for rank in (0, 1):
            sampler = DistributedSampler(range(20), num_replicas=2, rank=rank, shuffle=True, seed=0)
            sampler.set_epoch(epoch)
            orders.append(torch.tensor(list(sampler)).split(batch))
        found.append([torch.cat(parts) for parts in zip(*orders, strict=True)])
    return found


@pytest.mark.parametrize("name", [*trainers.TERMS, "own loader"])
def test_two_ranks_are_one(two_ranks, tmp_path, name):
    (first, numbers), (second, others) = (found["lightning"][name] for found in two_ranks)
    trainers.alike(first, second, tolerance=0)
    assert numbers["val_accuracy" if name != "relations" else "val_loss"] == pytest.approx(
        others["val_accuracy" if name != "relations" else "val_loss"]
    )
    terms = trainers.TERMS.get(name, trainers.TERMS["classes"])
    batches = 2 * [torch.arange(20).split(4)] if name == "own loader" else shared_out(2)
    alone = trainers.plain_loop(terms, batches)
    trainers.alike(first, alone.state_dict(), tolerance=1e-5)
    if name != "relations":
        assert numbers["val_accuracy"] == pytest.approx(trainers.accuracy(alone.student, 11, 3))
        values, labels = trainers.points(11, 3)
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(alone.student(values)["logits"], labels)
        assert numbers["val_loss"] == pytest.approx(float(expected), rel=1e-4)

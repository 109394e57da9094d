"""The Trainer of transformers, distilling."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from _harness import trainers
from safetensors.torch import load_file
from torch import nn

import congruence as cg

transformers = trainers.imported("transformers")
trainers.imported("accelerate")
pytestmark = pytest.mark.filterwarnings(*trainers.THIRD_PARTY)

from congruence.integrations.transformers import TERMS, DistillationTrainer  # noqa: E402


class Undivided(DistillationTrainer):
    """As the Trainer of transformers has it by itself, of a student whose forward takes any arguments."""

    loss_is_scaled_for_ga = None

    def __init__(self, *args, **arguments):
        super().__init__(*args, **arguments)
        self.model_accepts_loss_kwargs = True


@pytest.mark.parametrize(("trainer", "times"), [(DistillationTrainer, 1), (Undivided, 3)])
def test_accumulated_gradients_are_the_mean_of_the_batches(tmp_path, trainer, times):
    made = trainers.distiller("ce", "kd", "pkt")
    alone = copy.deepcopy(made)
    changes = {"max_steps": 1, "gradient_accumulation_steps": 3, "train_sampling_strategy": "sequential"}
    trainers.hf_trainer(tmp_path, made, trainer=trainer, **changes).train()
    values, labels = trainers.points()
    for start in (0, 4, 8):
        (alone({"values": values[start : start + 4]}, labels[start : start + 4]).loss / 3).backward()
    for after, before in zip(made.student.parameters(), alone.student.parameters(), strict=True):
        torch.testing.assert_close(after.data, before.data - 0.1 * times * before.grad, rtol=1e-5, atol=1e-6)


def test_fewer_batches_at_an_epochs_end_count_as_many(tmp_path):
    made = trainers.distiller("kd")
    alone = copy.deepcopy(made)
    changes = {"num_train_epochs": 1, "gradient_accumulation_steps": 3, "train_sampling_strategy": "sequential"}
    trainers.hf_trainer(tmp_path, made, **changes).train()
    values, _ = trainers.points()
    optimizer = torch.optim.SGD(alone.parameter_groups(), lr=0.1)
    for starts in ((0, 4, 8), (12, 16)):
        optimizer.zero_grad()
        for start in starts:
            (alone({"values": values[start : start + 4]}).loss / len(starts)).backward()
        optimizer.step()
    trainers.alike(made.student.state_dict(), alone.student.state_dict())


def test_accumulation_is_told_where_terms_compare_samples(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "congruence"):
        trainers.hf_trainer(tmp_path, trainers.distiller("kd", "pkt"), gradient_accumulation_steps=2)
    assert caplog.messages == ["Accumulating 2 batches does not enlarge the batch of pkt: each loss sees 4 samples."]


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path):
    states = []
    for micro_batch in (None, 3):
        made = trainers.distiller("ce", "pkt")
        states.append(made.student.state_dict())
        arguments = trainers.hf_trainer(tmp_path, trainers.distiller(), max_steps=2).args
        DistillationTrainer(made, arguments, train_dataset=trainers.rows(), micro_batch=micro_batch).train()
    trainers.alike(*states)


def test_evaluation_shows_the_students_logits(tmp_path):
    made = trainers.distiller("ce", "kd", "pkt")
    trainer = trainers.hf_trainer(tmp_path, made)
    trainer.train()
    evaluated, predicted = trainer.evaluate(), trainer.predict(trainers.rows(11, 3))
    values, labels = trainers.points(11, 3)
    with torch.no_grad():
        made.eval()
        torch.testing.assert_close(torch.from_numpy(predicted.predictions), made.student(values)["logits"])
        parts = [made({"values": values[part]}, labels[part]).loss for part in (slice(0, 8), slice(8, 11))]
    assert predicted.label_ids.tolist() == labels.tolist()
    assert evaluated["eval_accuracy"] == pytest.approx(trainers.accuracy(made.student, 11, 3))
    assert evaluated["eval_count"] == 11
    assert evaluated["eval_loss"] == pytest.approx(float((8 * parts[0] + 3 * parts[1]) / 11), rel=1e-5)
    assert predicted.metrics["test_loss"] == pytest.approx(evaluated["eval_loss"])
    unlabelled = trainer.predict([{"values": row["values"]} for row in trainers.rows(11, 3)])
    assert unlabelled.label_ids is None
    assert "test_loss" not in unlabelled.metrics
    assert (unlabelled.predictions == predicted.predictions).all()


def test_evaluation_shows_the_teacher_each_batch_once(tmp_path):
    made, shown = trainers.distiller("kd", "pkt"), []
    trainer = trainers.hf_trainer(tmp_path, made)
    made.teacher.module.register_forward_hook(lambda *_: shown.append(1))
    first = trainer.evaluate()["eval_loss"]
    once = len(shown)
    assert once > 0
    assert (trainer.evaluate()["eval_loss"], len(shown)) == (first, once)


def test_evaluation_leaves_no_trace(tmp_path):
    """Whether a run is evaluated or not, it gives the same student: memories, modes and generators stay."""
    terms, states = trainers.EVERYTHING, []
    for strategy in ("no", "steps"):
        made = trainers.distiller(*terms, dropout=0.3)
        trainer = trainers.hf_trainer(tmp_path, made, eval_strategy=strategy, eval_steps=2)
        trainer.train()
        states.append(made.state_dict())
        assert (made.clock.epoch, made.clock.epochs, made.clock.steps_per_epoch) == (2, 3, 5)
    trainers.alike(*states, tolerance=0)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A whole run that leaves a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("unbroken")
    made = trainers.distiller(*trainers.EVERYTHING, dropout=0.3)
    trainers.hf_trainer(folder, made, save_strategy="steps", save_steps=1, optim="adamw_torch").train()
    return folder, made


@pytest.mark.parametrize("step", [3, 5, 8, 10])
def test_a_resumed_run_is_the_unbroken_one(unbroken, tmp_path, step):
    folder, whole = unbroken
    made = trainers.distiller(*trainers.EVERYTHING, dropout=0.3)
    torch.manual_seed(99)
    begun = []
    made.begin_epoch = lambda clock, begin=made.begin_epoch: (begun.append(clock.epoch), begin(clock))
    trainer = trainers.hf_trainer(tmp_path, made, optim="adamw_torch")
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
    assert begun == {3: [1, 2], 5: [1, 2], 8: [2], 10: [2]}[step]
    trainers.alike(made.state_dict(), whole.state_dict())


def test_a_checkpoint_holds_the_student_alone(unbroken):
    folder, whole = unbroken
    saved = load_file(folder / "checkpoint-15" / "model.safetensors")
    trainers.alike(saved, whole.student_state_dict(), tolerance=0)
    kept = torch.load(folder / "checkpoint-15" / TERMS, weights_only=True)
    assert sorted(kept) == ["balance", "epochs", "methods"]
    assert not any("student" in name or "teacher" in name for name in kept["methods"])


def test_a_checkpoint_of_another_run_is_refused(unbroken, tmp_path):
    folder, _ = unbroken
    other = trainers.hf_trainer(tmp_path, trainers.distiller("ce", "kd"))
    with pytest.raises(ValueError, match="The checkpoint is of other terms"):
        other.train(resume_from_checkpoint=str(folder / "checkpoint-5"))
    bare = tmp_path / "bare"
    plain = trainers.hf_trainer(bare, trainers.distiller(), save_strategy="steps", save_steps=5)
    plain.train()
    (bare / "checkpoint-5" / TERMS).unlink()
    with pytest.raises(ValueError, match=f"must hold {TERMS}"):
        trainers.hf_trainer(tmp_path, trainers.distiller()).train(resume_from_checkpoint=str(bare / "checkpoint-5"))


def test_a_pretrained_student_is_loaded_again(tmp_path):
    shape = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}

    def bert(layers, width=8):
        torch.manual_seed(0)
        config = transformers.BertConfig(num_hidden_layers=layers, **(shape | {"hidden_size": width}))
        return transformers.BertForSequenceClassification(config)

    data = [{"input_ids": [2, 5, n, 3], "attention_mask": [1, 1, 1, 1], "labels": n % 2} for n in range(4, 16)]
    student = bert(1)
    example = {"input_ids": torch.ones(2, 4).long(), "attention_mask": torch.ones(2, 4).long()}
    made = cg.Distiller(bert(2, 12), student, ["ce", "kd", "pkt"], example=example)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_train_batch_size=6, report_to=[], use_cpu=True, disable_tqdm=True
    )
    before = copy.deepcopy(student.state_dict())
    trainer = DistillationTrainer(made, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    trainer.save_model()
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        again = transformers.BertForSequenceClassification.from_pretrained(folder)
        trainers.alike(again.state_dict(), student.state_dict(), tolerance=0)
    assert trainer.predict(data).predictions.shape == (12, 2)


def test_the_terms_are_logged(tmp_path):
    made = trainers.distiller("ce", cg.Term("kd", weight=2.0))
    trainer = trainers.hf_trainer(tmp_path, made, logging_strategy="steps", logging_steps=5)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 3
    for row in logged:
        assert row["loss"] == pytest.approx(row["ce"] + 2 * row["kd"], rel=1e-5)


def test_a_batch_by_name_keeps_its_index(tmp_path):
    """Although neither model's forward names it."""
    values, labels = trainers.points()
    teacher, student = nn.Linear(6, 3), nn.Linear(6, 3)
    facts = cg.data.facts(torch.utils.data.TensorDataset(values, labels))
    made = cg.Distiller(teacher, student, ["ce", "crd"], example=values[:2], facts=facts)
    arguments = trainers.hf_trainer(tmp_path, trainers.distiller(), max_steps=2).args
    data = [{"inputs": v, "labels": n, "index": i} for i, (v, n) in enumerate(zip(values, labels, strict=True))]
    trainer = DistillationTrainer(made, arguments, train_dataset=data)
    trainer.train()
    assert trainer.predict(data).predictions.shape == (20, 3)


def test_a_tied_student_is_saved(tmp_path):
    class Tied(trainers.Net):
        def __init__(self):
            super().__init__(5)
            self.twin = nn.Linear(6, 5)
            self.twin.weight = self.body.weight

    values, _ = trainers.points()
    made = cg.Distiller(trainers.Net(7), Tied(), ["kd"], example={"values": values[:2]})
    trainers.hf_trainer(tmp_path, made, save_strategy="epoch", num_train_epochs=1).train()
    made.student.load_state_dict(load_file(tmp_path / "checkpoint-5" / "model.safetensors"), strict=True)


def test_what_does_not_fit_is_refused(tmp_path):
    made, arguments = trainers.distiller(), transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match="`distiller` must be a Distiller, got Net"):
        DistillationTrainer(trainers.Net(3), arguments)
    several = cg.Distiller(trainers.Net(3), {"one": trainers.Net(3), "two": trainers.Net(3)}, ["kd"])
    with pytest.raises(ValueError, match="must have one student, got one, two"):
        DistillationTrainer(several, arguments)
    with pytest.raises(ValueError, match="example="):
        DistillationTrainer(cg.Distiller(trainers.Net(3), trainers.Net(3), ["kd"]), arguments)
    with pytest.raises(ValueError, match="`model_init` must be left out"):
        DistillationTrainer(made, arguments, model_init=lambda: trainers.Net(3))
    smooth = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0"):
        DistillationTrainer(made, smooth)
    made = trainers.distiller("kd", "adv")
    optimizer = torch.optim.SGD(made.student.parameters(), lr=0.1)
    trainer = DistillationTrainer(made, arguments, train_dataset=trainers.rows(), optimizers=(optimizer, None))
    with pytest.raises(ValueError, match="the optimizer must have the parameters of the terms"):
        trainer.train()


def test_two_ranks_are_one(two_ranks, tmp_path):
    """Of each batch of the one, the first half is the first rank's."""
    ranks = [found["transformers"] for found in two_ranks]
    for name in (*trainers.TERMS, "accumulated"):
        terms, changes = trainers.TERMS.get(name, trainers.TERMS["classes"]), {}
        if name == "accumulated":
            changes = {"gradient_accumulation_steps": 2}
        (first, evaluated, predicted), (second, *_) = (one[name] for one in ranks)
        state, alone, shown = trainers.hf_runs(tmp_path / name, terms, 4, **changes)
        trainers.alike(first, second, tolerance=0)
        trainers.alike(first, state, tolerance=1e-5)
        assert evaluated["eval_count"] == alone["eval_count"] == 11
        assert evaluated["eval_accuracy"] == alone["eval_accuracy"]
        torch.testing.assert_close(torch.from_numpy(predicted), torch.from_numpy(shown), rtol=1e-4, atol=1e-5)

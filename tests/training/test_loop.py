"""`fit` is the loop one would write by hand, and what can be said to it."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from _harness.fits import constant, data, distiller, net, same_state, stock
from _harness.toys import Bank
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import congruence as cg
from congruence import Term


def batches():
    return cg.data.loader(data(), batch_size=8, seed=3)


# The same bits as a loop by hand


def test_cross_entropy_alone_is_a_plain_loop():
    made = distiller("ce", teacher=False)
    cg.fit(made, batches(), options=constant(optimizer=cg.OptimizerOptions(lr=0.1, momentum=0.9, weight_decay=1e-3)))

    student = net(1).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True)
    loader = batches()
    for epoch in range(2):
        for inputs, labels, _ in loader.batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(inputs), labels, reduction="none").sum().div(len(labels)).backward()
            optimizer.step()
    same_state(made.student, student)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_a_loop_of_one_s_own_is_fit(schedule):
    options = cg.ScheduleOptions(schedule, milestones=(1,), warmup_epochs=0.5)
    terms = ["ce", "kd", "mimic", Term("pkt", weight=10.0)]
    fitted = distiller(*terms)
    adamw = cg.OptimizerOptions("adamw", lr=0.01)
    cg.fit(fitted, batches(), batches(), constant(schedule=options, optimizer=adamw, teacher_speed="exact"))

    own = distiller(*terms).train()
    groups = own.parameter_groups()
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.999), weight_decay=5e-4, fused=True)
    loader = batches()
    for step, (epoch, batch) in enumerate(itertools.product(range(2), range(3))):
        if batch == 0:
            own.begin_epoch(epoch)
            rest = loader.batches(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * options.at((step + 0.5) / 3, 2)
        out = own(*next(rest))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    same_state(fitted, own)


def test_validation_leaves_training_alone():
    first, second = distiller(), distiller()
    cg.fit(first, stock(), options=constant())
    cg.fit(second, stock(), stock(False), constant(evaluate=None))
    third = distiller()
    cg.fit(third, stock(), options=constant(evaluate=lambda student: {"noise": float(torch.rand(()))}))
    same_state(first, second)
    same_state(first, third)


def test_the_teacher_s_statistics_do_not_move():
    made = distiller()
    teacher = made.teacher.module.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    cg.fit(made, batches(), batches(), constant(callbacks=(lambda event: teacher.train(),)))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert int(teacher[1].num_batches_tracked) == 0


def test_the_student_s_modes_are_its_owner_s():
    made = distiller()
    made.student[1].eval()
    statistics = made.student[1].running_mean.clone()
    cg.fit(made, batches(), batches(), constant())
    assert not made.student[1].training
    assert made.student.training
    assert torch.equal(statistics, made.student[1].running_mean)
    whole = distiller()
    whole.student.eval()
    cg.fit(whole, batches(), batches(), constant())
    assert whole.student[1].training
    assert int(whole.student[1].num_batches_tracked) == 6


# The order of weights in memory


def convolutions(seed, width):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)).double()


def trained_on_images(wanted, stop_at=None):
    """Fit a student of convolutions, and look at the order of every map on the way."""

    def look(module, inputs, out):
        assert out.is_contiguous(memory_format=torch.channels_last) == wanted
        assert out.is_contiguous() != wanted

    def stop(event):
        if event.kind == "step" and event.step == stop_at:
            raise KeyboardInterrupt

    inputs = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loader = cg.data.loader(TensorDataset(inputs, torch.arange(24) % 3), batch_size=8)
    teacher, student = convolutions(0, 6), convolutions(1, 4)
    made = cg.Distiller(teacher, student, ["ce", "kd", Term("at", student_layer="4", teacher_layer="4")])
    hooks = [model[place].register_forward_hook(look) for model in (teacher, student) for place in (0, 3)]
    try:
        cg.fit(made, loader, loader, constant(channels_last=wanted, callbacks=(stop,)))
    finally:
        for hook in hooks:
            hook.remove()
        for model in (teacher, student):
            assert all(parameter.is_contiguous() for parameter in model.parameters())
    return student.state_dict()


def test_channels_last_changes_no_value():
    plain, last = trained_on_images(False), trained_on_images(True)
    for name, value in plain.items():
        torch.testing.assert_close(last[name], value, rtol=1e-9, atol=1e-11)


def test_a_run_that_dies_leaves_weights_in_their_order():
    with pytest.raises(KeyboardInterrupt):
        trained_on_images(True, stop_at=4)


# Length


@pytest.mark.parametrize(
    ("options", "steps", "epochs"),
    [
        ({"epochs": 2}, 6, 2),
        ({"epochs": None, "max_steps": 4}, 4, 2),
        ({"epochs": None, "max_steps": 3}, 3, 1),
        ({"epochs": 1, "max_steps": 5}, 3, 1),
        ({"epochs": 5, "max_steps": 4}, 4, 2),
        ({"epochs": 2, "accumulate": 2}, 4, 2),
    ],
)
def test_how_long_a_run_is(options, steps, epochs):
    seen = []
    result = cg.fit(distiller(), batches(), batches(), constant(callbacks=(seen.append,), **options))
    assert (result.steps, result.epochs) == (steps, epochs)
    assert len(result.history) == epochs
    assert {event.steps for event in seen} == {steps}
    assert {event.epochs for event in seen} == {epochs}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(data())


def test_a_loader_without_a_length():
    with pytest.raises(ValueError, match="`train_loader` must have a length, or `max_steps` be given"):
        cg.fit(distiller(), DataLoader(Stream(), batch_size=8), options=constant())
    made = distiller()
    result = cg.fit(made, DataLoader(Stream(), batch_size=8), options=constant(epochs=None, max_steps=7))
    assert (result.steps, result.epochs) == (7, 3)
    result = cg.fit(distiller(), (batch for batch in batches()), options=constant(epochs=1, max_steps=50))
    assert (result.steps, result.epochs) == (3, 1)
    with pytest.raises(ValueError, match="must yield a batch in every epoch, got none in 1"):
        cg.fit(distiller(), (batch for batch in batches()), options=constant(epochs=None, max_steps=50))


# What a loader may give


@pytest.mark.parametrize("kind", ["tensor", "one", "pair", "triple", "mapping", "list"])
def test_batches_of_any_kind(kind):
    points, labels = data().tensors
    index = torch.arange(len(points))
    batch = {
        "tensor": points,
        "one": (points,),
        "pair": (points, labels),
        "triple": (points, labels, index),
        "mapping": {"inputs": points, "labels": labels, "index": index, "note": "left out"},
        "list": [points, labels],
    }[kind]
    made = distiller("kd")
    result = cg.fit(made, [batch], [batch], constant())
    assert set(result.last) == ({"loss"} if kind in ("tensor", "one") else {"accuracy", "loss"})
    assert result.history[1]["loss"] < result.history[0]["loss"]


def test_without_labels_the_loss_decides():
    points = data().tensors[0]
    loader = cg.data.loader(TensorDataset(points), batch_size=8)
    made = distiller("pkt", "mimic")
    result = cg.fit(made, loader, loader, constant(epochs=3))
    assert list(result.last) == ["loss"]
    losses = [epoch["loss"] for epoch in result.history]
    assert result.best_epoch == {"student": losses.index(min(losses))}


def test_unlabelled_samples_among_labelled_ones():
    points, labels = data().tensors
    labels = labels.clone()
    labels[::3] = -1
    result = cg.fit(distiller(), [(points, labels)], [(points, labels)], constant())
    assert set(result.last) == {"accuracy", "loss"}


def test_labels_that_no_term_reads_are_left_alone():
    result = cg.fit(distiller("pkt"), batches(), batches(), constant())
    assert list(result.last) == ["loss"]


def test_without_example_the_loader_s_first_batch_serves():
    first = distiller("ce", "mimic")
    cg.fit(first, stock(generator=torch.Generator().manual_seed(1)), options=constant())
    torch.manual_seed(2)
    second = distiller("ce", "kd", example=False)
    cg.fit(second, stock(generator=torch.Generator().manual_seed(1)), options=constant())
    third = distiller("ce", "kd")
    cg.fit(third, stock(generator=torch.Generator().manual_seed(1)), options=constant())
    same_state(second, third)
    assert first.built
    with pytest.raises(ValueError, match="`train_loader` must be a loader that can be read more than once"):
        cg.fit(distiller(example=False), iter([(1, 2)]), options=constant(epochs=1, max_steps=2))


# One's own parts


def test_one_s_own_evaluation_chooses_the_best():
    values, modes = iter([1.0, 3.0, 2.0]), []

    def evaluate(student):
        modes.append(student.training)
        return {"reach": next(values), "other": 0}

    made = distiller()
    made.student[1].eval()
    result = cg.fit(made, batches(), options=constant(epochs=3, evaluate=evaluate, monitor="reach"))
    assert [epoch["reach"] for epoch in result.history] == [1.0, 3.0, 2.0]
    assert result.best_epoch == {"student": 1}
    assert result.best["student"]["reach"] == 3.0
    assert modes == [False] * 3
    assert not made.student[1].training
    assert made.student[0].training
    best = net(9)
    best.load_state_dict(result.best_states["student"])
    assert not torch.equal(best[0].weight, made.student[0].weight)


def test_callbacks_are_called_in_order():
    seen = []
    options = constant(
        log_every=2, callbacks=(lambda e: seen.append(("a", e.kind, e.step)), lambda e: seen.append("b"))
    )
    cg.fit(distiller(), batches(), batches(), options)
    assert seen[1::2] == ["b"] * (len(seen) // 2)
    kinds = [(kind, step) for _, kind, step in seen[::2]]
    assert kinds == [
        ("start", 0),
        *[("step", 1), ("step", 2), ("log", 2), ("step", 3), ("log", 3), ("epoch", 3)],
        *[("step", 4), ("log", 4), ("step", 5), ("step", 6), ("log", 6), ("epoch", 6)],
        ("end", 6),
    ]


def test_events_tell_what_happened():
    events = {}
    cg.fit(distiller(), batches(), batches(), constant(callbacks=(lambda e: events.update({e.kind: e}),)))
    assert set(events["log"].metrics) >= {"loss", "ce", "kd", "lr", "gradient_norm", "step", "epoch"}
    assert set(events["epoch"].metrics) == set(events["end"].metrics) == {"accuracy", "loss"}
    assert events["step"].metrics == {}
    assert isinstance(events["end"].distiller, cg.Distiller)


def test_optimizers_and_scheduler_of_one_s_own():
    made = distiller("ce", "mimic")
    groups = made.parameter_groups()
    slow, fast = torch.optim.SGD([groups[0]], lr=0.1), torch.optim.AdamW([groups[1]], lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(slow, 1, gamma=0.1)
    rates = []
    keep = lambda event: rates.append(slow.param_groups[0]["lr"]) if event.kind == "step" else None  # noqa: E731
    before = [made.student[0].weight.clone(), next(made.methods.parameters()).clone()]
    options = constant(callbacks=(keep,), schedule=cg.ScheduleOptions("cosine"))
    cg.fit(made, batches(), options=options, optimizer=[slow, fast], scheduler=scheduler)
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 3)
    assert fast.param_groups[0]["lr"] == 0.01
    assert not torch.equal(before[0], made.student[0].weight)
    assert not torch.equal(before[1], next(made.methods.parameters()))


def test_half_precision_learns_and_keeps_single_precision_weights():
    made = distiller("ce", "kd")
    result = cg.fit(made, batches(), batches(), constant(epochs=8, precision="bf16"))
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert result.last["loss"] < result.history[0]["loss"]
    single = distiller("ce", "kd")
    cg.fit(single, batches(), batches(), constant(epochs=8))
    assert not torch.equal(single.student[0].weight, made.student[0].weight)
    torch.testing.assert_close(single.student[0].weight, made.student[0].weight, rtol=0.2, atol=0.1)


# What is said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"distiller": nn.Linear(2, 2)}, "`distiller` must be a Distiller, got Linear"),
        ({"options": None}, r"`options` must be FitOptions\(epochs=...\)"),
        ({"options": {"epochs": 1}}, r"`options` must be FitOptions"),
        ({"train_loader": []}, "`train_loader` must be a loader of at least one batch, got none"),
        ({"val_loader": []}, "`val_loader` must be a loader of at least one batch, got none"),
        ({"val_loader": iter([])}, "`val_loader` must be a loader that can be read more than once"),
        (
            {"val_loader": [(torch.zeros(2, 5), torch.zeros(2).long())]},
            r"The student cannot take this batch: its samples are float32 \[5\], those of the example were",
        ),
        ({"train_loader": [(torch.zeros(4, 5), torch.zeros(4).long())]}, r"cannot take this batch"),
        ({"train_loader": [(torch.zeros(4, 6).double(), torch.zeros(4).long())]}, r"its samples are float64 \[6\]"),
        ({"train_loader": [{"x": torch.zeros(4, 6), "labels": torch.zeros(4).long()}]}, r"are \{x: float32 \[6\]\}"),
        ({"val_loader": [(torch.zeros(4, 6), torch.full((4,), 3))]}, r"`labels` must be class labels in \[0, 3\)"),
        ({"val_loader": [(torch.zeros(4, 6), torch.zeros(3).long())]}, r"same number of rows"),
        ({"train_loader": [(torch.zeros(4, 6), torch.full((4,), 3))]}, r"`labels` must be class labels in \[0, 3\)"),
        ({"train_loader": [(torch.zeros(4, 6), [1, 2, 0, 1])]}, "labels of a batch must be a tensor, got list"),
        ({"train_loader": [(1, 2, 3, 4)]}, "A batch must be .*got 4 parts"),
        ({"train_loader": [torch.zeros(4, 6)]}, "The term 'ce' needs labels, the batch has none"),
        ({"options": constant(device="tpu9")}, "`device` must be an available device, got 'tpu9'"),
        ({"options": constant(monitor="accuracy")}, "`val_loader` must be given to monitor 'accuracy'"),
        (
            {"val_loader": [data().tensors], "options": constant(monitor="acuracy")},
            "`monitor` must be one of accuracy, loss, got 'acuracy'. Did you mean 'accuracy'",
        ),
        (
            {"options": constant(evaluate=lambda student: 3.0)},
            "`evaluate` must be a function that returns numbers by name",
        ),
        ({"optimizer": 3}, r"`optimizer` must be a torch optimizer or several, got \['int'\]"),
        ({"optimizer": [3]}, "`optimizer` must be a torch optimizer or several"),
        (
            {"optimizer": torch.optim.SGD(net(5).parameters())},
            r"`optimizer` must be over distiller.parameter_groups\(\)",
        ),
    ],
)
def test_refused_in_one_sentence(change, sentence):
    arguments = {"distiller": distiller(), "train_loader": [data().tensors], "options": constant()} | change
    before = {name: value.clone() for name, value in arguments["distiller"].state_dict().items()}
    with pytest.raises(ValueError, match=sentence) as error:
        cg.fit(**arguments)
    assert "\n" not in str(error.value)
    if "evaluate" not in sentence:
        after = arguments["distiller"].state_dict()
        parameters = [n for n in before if "running" not in n and "num_batches" not in n]
        assert all(torch.equal(before[name], after[name]) for name in parameters)


def test_schedulers_that_would_do_nothing_are_refused():
    made = distiller()
    optimizer = torch.optim.SGD(made.parameter_groups(), lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match="`scheduler` must be one that is stepped without a number"):
        cg.fit(made, [data().tensors], options=constant(), optimizer=optimizer, scheduler=plateau)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(ValueError, match="`scheduler` must be over an optimizer given as `optimizer=`"):
        cg.fit(made, [data().tensors], options=constant(), scheduler=scheduler)


def test_parameters_that_no_optimizer_moves_are_told(caplog):
    made = distiller("ce", "mimic")
    with caplog.at_level(logging.WARNING, "congruence"):
        cg.fit(made, [data().tensors], options=constant(), optimizer=torch.optim.SGD(made.student.parameters(), lr=0.1))
    assert "2 of 8 parameters are in no optimizer" in caplog.text


def test_an_epoch_in_which_nothing_counts_is_told_before_the_first():
    made = distiller(Term("kd", stop_epoch=2))
    seen = []
    with pytest.raises(ValueError, match="no term trains a student in epoch 2"):
        cg.fit(made, batches(), options=constant(epochs=3, callbacks=(seen.append,)))
    assert seen == []


def warned_with_few_labels(key, kept, words, caplog):
    """Train `ce` and a method where `kept` of 24 samples have labels; return the warnings that have these words."""
    points, labels = data().tensors
    some = TensorDataset(points, torch.where(torch.arange(len(labels)) < kept, labels, -1))
    made = cg.Distiller(net(0, 7), net(1), ["ce", key], example=points[:4], facts=cg.data.facts(some))
    cg.fit(made, cg.data.loader(some, batch_size=8), None, constant(epochs=1))
    return [record.message for record in caplog.records if words in record.message]


@pytest.mark.parametrize(
    ("key", "kept", "told"), [("mmd", 11, True), ("mmd", 12, False), ("mmd", 0, False), ("pkt", 11, False)]
)
def test_what_is_blind_to_classes_is_told_where_few_have_one(key, kept, told, caplog):
    assert (
        warned_with_few_labels(key, kept, "regardless of the classes", caplog)
        == [
            f"The term 'mmd' matches distributions regardless of the classes, and {kept} of 24 samples have "
            "labels: it may cost accuracy, whereas methods that relate samples (pkt, rkd, cckd) gain."
        ]
        * told
    )


@pytest.mark.parametrize(
    ("key", "kept", "told"), [("dkd", 11, True), ("dkd", 12, False), ("kd", 11, False), ("mkt", 11, False)]
)
def test_what_learns_of_labelled_samples_alone_is_told_where_few_have_one(key, kept, told, caplog):
    assert (
        warned_with_few_labels(key, kept, "only where a sample has a label", caplog)
        == [
            f"The term 'dkd' learns from the teacher only where a sample has a label, as {kept} of 24 samples have: "
            "methods that read no labels (kd, dist, pkt) learn from all."
        ]
        * told
    )


def test_layers_are_told(caplog):
    with caplog.at_level(logging.INFO, "congruence"):
        cg.fit(distiller("pkt"), batches(), options=constant(epochs=1))
    assert "pkt reads student features 'input:3' [4, 5], teacher features 'input:3' [4, 7]." in caplog.messages


def test_methods_that_ask_for_the_index_get_it():
    points = data()
    torch.manual_seed(0)
    bank = Bank()
    made = cg.Distiller(
        net(0, 7), net(1), ["ce", Term(bank)], example=points.tensors[0][:4], facts=cg.data.facts(points)
    )
    cg.fit(made, DataLoader(cg.data.indexed(points), batch_size=8), options=constant())
    assert bank.bank.abs().sum(1).gt(0).all()


@pytest.mark.parametrize(
    ("precision", "emulated", "told"), [("bf16", True, True), ("bf16", False, False), ("float32", True, False)]
)
def test_a_processor_without_instructions_for_half_precision_is_told(precision, emulated, told, caplog, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: not emulated)
    made = cg.Distiller(net(0, 7), net(1), ["ce", "kd"], example=data().tensors[0][:4])
    cg.fit(made, batches(), None, constant(epochs=1, precision=precision, device="cpu"))
    told_of = [record.message for record in caplog.records if "no instructions" in record.message]
    assert (
        told_of
        == [
            "precision='bf16': this processor has no instructions for it, a step takes several times as long as with "
            "'float32'."
        ]
        * told
    )

"""The loops of docs/guide/other-loops.md, run as printed: the student learns, the teacher stays and is saved nowhere.

`make loops` installs Accelerate, Lightning and transformers; without them only the plain loop is run.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from _harness.pages import ROOT, blocks, run
from safetensors.torch import load_file

import congruence as cg

PAGE = ROOT / "docs" / "guide" / "other-loops.md"
# These libraries warn of their own and torch's coming changes, and of loaders of few workers: not ours to mend here.
THIRD_PARTY = (
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    r"ignore:The 'train_dataloader' does not have many workers:UserWarning",
    r"ignore:.*pin_memory.*:UserWarning",
)


def imported(name):
    """Import an optional library, or skip; a broken one may raise what it likes."""
    try:
        return pytest.importorskip(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def block_with(words):
    own = [block for block in blocks(PAGE) if "congruence.integrations." not in block.code]
    (found,) = [block for block in own if words in block.code]
    return found


def start():
    """Run the page's first block."""
    namespace = {"__name__": "page"}
    run(blocks(PAGE)[0], namespace)
    return namespace


def loss_of(distiller, namespace):
    """The objective over all data, without a trace."""
    distiller = copy.deepcopy(distiller).cpu().eval()  # a loop may have moved it
    with torch.no_grad():
        return distiller(namespace["images"], namespace["labels"]).loss.item()


def run_loop(words):
    """Run a loop, check that the teacher did not move and that the loss fell; return the loss and the namespace."""
    namespace = start()
    distiller, teacher, student = (namespace[name] for name in ("distiller", "teacher", "student"))
    before = copy.deepcopy(teacher.state_dict())
    first = loss_of(distiller, namespace)
    run(block_with(words), namespace)
    assert all(torch.equal(value.cpu(), before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert sorted(distiller.student_state_dict()) == sorted(copy.deepcopy(student).state_dict())
    assert distiller.clock.epoch == 3
    last = loss_of(distiller, namespace)
    assert last < 0.95 * first
    return last, namespace


def plain_loop():
    return run_loop("for batch in train_loader:\n        optimizer.zero_grad()\n        distiller(*batch)")


def same_students(first, second):
    one, other = (n["distiller"].student_state_dict() for n in (first, second))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value.cpu(), other[name].cpu(), rtol=1e-5, atol=1e-6)


def without_teacher(state):
    """Whether the tensors of a checkpoint are those of the student alone."""
    shapes = [tuple(value.shape) for value in state.values()]
    return len(state) == 4 and (32, 8) not in shapes and (4, 32) not in shapes


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plain_loop(inside):
    last, namespace = plain_loop()
    run(blocks(PAGE)[-1], namespace)
    saved = load_file(inside / "student.safetensors")
    assert without_teacher(saved)
    namespace["student"].load_state_dict(saved, strict=True)
    assert last > 0


@pytest.mark.filterwarnings(*THIRD_PARTY)
def test_accelerate(inside):
    imported("accelerate")
    _, namespace = run_loop("Accelerator()")
    same_students(namespace, plain_loop()[1])
    assert without_teacher(load_file(inside / "state" / "model.safetensors"))


@pytest.mark.filterwarnings(*THIRD_PARTY)
def test_lightning(inside):
    imported("lightning")
    _, namespace = run_loop("lightning.Trainer")
    same_students(namespace, plain_loop()[1])
    (checkpoint,) = Path("lightning").rglob("*.ckpt")
    assert without_teacher(torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"])


@pytest.mark.filterwarnings(*THIRD_PARTY)
def test_trainer_of_transformers(inside):
    imported("transformers")
    last, _ = run_loop("TrainingArguments(")
    assert last == pytest.approx(plain_loop()[0], rel=0.15)  # it shuffles and clips on its own
    weights = sorted(Path("trainer").rglob("model.safetensors"))
    assert weights
    assert all(without_teacher(load_file(file)) for file in weights)


class Named(torch.nn.Module):
    """A model as transformers has them: arguments by name, an output with `logits`."""

    def __init__(self, width):
        super().__init__()
        self.body, self.classifier = torch.nn.Linear(8, width), torch.nn.Linear(width, 4)

    def forward(self, values, scale):
        return {"hidden": self.body(values), "logits": self.classifier((scale * self.body(values)).relu())}


@pytest.mark.filterwarnings(*THIRD_PARTY)
@pytest.mark.parametrize("labelled", [True, False])
def test_the_trainer_evaluates_and_predicts(inside, labelled):
    transformers = imported("transformers")
    torch.manual_seed(0)
    values, scale, labels = torch.randn(20, 8), torch.rand(20, 1), torch.arange(20) % 4
    teacher, student = Named(9), Named(6)
    example = {"values": values[:2], "scale": scale[:2]}
    distiller = cg.Distiller(teacher, student, ["ce", "kd"] if labelled else ["kd"], example=example)
    rows = [
        {"values": v, "scale": c, **({"labels": n} if labelled else {})}
        for v, c, n in zip(values, scale, labels, strict=True)
    ]

    def metrics(found):
        return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}

    arguments = transformers.TrainingArguments(
        "trainer",
        max_steps=2,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=8,
        gradient_accumulation_steps=2,
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        **({} if labelled else {"label_names": []}),
    )
    trainer = transformers.Trainer(
        distiller, arguments, train_dataset=rows, eval_dataset=rows, compute_metrics=metrics if labelled else None
    )
    assert trainer.model_accepts_loss_kwargs is False  # else accumulated steps would be as many times as large
    trainer.train()
    evaluated, predicted = trainer.evaluate(), trainer.predict(rows)
    with torch.no_grad():
        said = student.eval()(values, scale)["logits"]
    torch.testing.assert_close(torch.from_numpy(predicted.predictions), said)
    assert evaluated["eval_loss"] == pytest.approx(predicted.metrics["test_loss"])
    if labelled:
        assert evaluated["eval_accuracy"] == pytest.approx((said.argmax(1) == labels).double().mean().item())

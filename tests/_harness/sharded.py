"""What ranks of a group run with sharded students."""

from __future__ import annotations

import contextlib
import functools
import traceback
from unittest import mock

import torch
from torch import nn

import congruence as cg
from congruence.config.load import load_config
from congruence.models.sharded import whole, whole_state
from congruence.pipeline import stages
from congruence.testing.case import batches, gradients, small_distiller
from congruence.training.distributed import Objective, average_gradients, wrap
from congruence.training.run import Run
from congruence.training.sharding import shard

TERMS = ("ce", "kd", "pkt")


class Block(nn.Module):
    """A residual block without batch norm, whose inner layer a term may read."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)

    def forward(self, x):
        return x + self.outer(self.act(self.inner(x)))


class Net(nn.Module):
    """Two repeated blocks between two layers; and a scalar, which FSDP2 cannot shard."""

    def __init__(self, seed, width=5):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.scale * x)


def data(size=24, seed=0):
    points = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.TensorDataset(points, points[:, :3].argmax(1))


def distiller(*terms, seed=1, build=True):
    torch.manual_seed(2)
    example = data().tensors[0][:4] if build else None
    return cg.Distiller(Net(0, 7), Net(seed), terms or TERMS, example=example)


def options(**changes):
    given = {"max_steps": 6, "device": "cpu", "log_every": 1, "checkpoint_seconds": 0.0} | changes
    schedule = cg.ScheduleOptions("constant")
    return cg.FitOptions(schedule=schedule, optimizer=cg.OptimizerOptions(lr=0.1, nesterov=False), **given)


def fitted(out=None, *, made=None, **changes):
    made = made or distiller()
    loader = cg.data.loader(data(), batch_size=8, seed=3, view_cycle=1)
    val = cg.data.loader(data(23, seed=1), batch_size=8, shuffle=False)
    result = cg.fit(made, loader, val, options(out=out, **changes))
    return result, made


def row_steps(case, prepare):
    """The gradients and the state of two steps of a row, as `congruence.testing.agreement.two_steps` gives them."""
    made = small_distiller(case).double()
    made.begin_epoch(0)
    prepare(made)
    objective = wrap(Objective(made))
    found = {}
    for step, batch in enumerate(batches(case)[:2]):
        made.zero_grad(set_to_none=True)
        objective(batch, False).loss.backward()
        average_gradients(objective)
        for name, gradient in gradients(made).items():
            found[f"the gradient by {name} in step {step}"] = whole(gradient)
    state = made.state_dict().items()
    return found | {f"the state {name}": whole(t) for name, t in state if isinstance(t, torch.Tensor)}


def shard_layers(made):
    """Shard each layer of a small model but its last on its own, then the root."""
    from torch.distributed.fsdp import fully_shard

    for student in made.students.values():
        for layer in [each for each in student if next(each.parameters(), None) is not None][:-1]:
            fully_shard(layer)
        fully_shard(student)


def own_loop(made, *, average=True):
    """Three steps of a caller's own loop over this rank's rows; the weights and gradients that come out."""
    from congruence.core import ranks

    optimizer = torch.optim.SGD(made.parameter_groups(), lr=0.01, momentum=0.9)
    points, labels = data().tensors
    made.train()
    made.begin_epoch(0)
    for step in range(3):
        rows = torch.arange(8 * step, 8 * step + 8).view(ranks.world_size(), -1)[ranks.rank()]
        optimizer.zero_grad()
        out = made(points[rows], labels[rows], rows)
        out.loss.backward()
        if average:
            average_gradients(made)
        optimizer.step()
    found = {f"gradient of {name}": whole(p.grad) for name, p in made.named_parameters() if p.grad is not None}
    return {**found, **whole_state(made.state_dict()), "loss": out.loss.detach()}


def loop_distiller(*, student=None):
    """A distiller for a loop of one's own."""
    teacher, student = Net(0, 7), student or Net(1)
    # Read inside a block, which no gradient of the block's output wakes, and through a map that is trained beside it.
    terms = (cg.Term("mimic", weight=1.0, student_layer="blocks.1.inner", teacher_layer="stem"),)
    torch.manual_seed(2)
    return cg.Distiller(teacher, student, terms, example=data().tensors[0][:4])


def compared(student):
    """What `compare` says of a student."""
    found = cg.compare(Net(0, 7), student, cg.data.loader(data(24, seed=1), batch_size=12, shuffle=False))
    return {name: value for name, value in found.to_dict().items() if isinstance(value, float)}


def cached(folder):
    """The distiller of a run, with a teacher whose outputs are stored."""
    teacher = cg.TeacherCache(
        Net(0, 7), cg.data.loader(data(), batch_size=8, seed=3, view_cycle=1), folder / "cache", dtype="float32"
    )
    torch.manual_seed(2)
    return cg.Distiller(teacher, Net(1), TERMS, example=data().tensors[0][:4])


CONFIG = """
[data]
name = "digits"

[stages.student.student]
model = "cnn3"

[stages.student.train]
max_steps = 2
device = "cpu"
shard = "student"

[[stages.student.terms]]
key = "ce"
"""


def _of_a_configuration(rank, folder):
    """What the student of a configuration says on the first rank alone, which measures it; its file says the same."""
    file = folder / f"config-{rank}.toml"
    file.write_text(CONFIG)
    done = stages.run(load_config(file), folder / "configured")["student"]
    return done.student(torch.ones(2, 1, 8, 8)).detach() if rank == 0 else None


def _with_an_optimizer():
    made = distiller()
    optimizer = torch.optim.SGD(made.parameter_groups(), lr=0.1)
    cg.fit(made, cg.data.loader(data(), batch_size=8), options=options(shard="student"), optimizer=optimizer)


def sentence(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


@contextlib.contextmanager
def stopped():
    """End a run after its first epoch, as a kill does, on every rank."""
    before = Run.begin_epoch

    def begin(run):
        if run.position.epoch == 1:
            raise KeyboardInterrupt
        before(run)

    with mock.patch.object(Run, "begin_epoch", begin), contextlib.suppress(KeyboardInterrupt):
        yield


def on_a_rank(rank, folder, cases):
    """Everything that two ranks show of sharded students."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    found = {"rows": {}}
    for case in cases:
        try:
            found["rows"][str(case)] = row_steps(case, shard_layers)
        except Exception:
            found["rows"][str(case)] = traceback.format_exc()
    torch.manual_seed(rank)  # dropout and the like; all models below are seeded by themselves
    student = Net(1)
    for block in student.blocks:
        fully_shard(block)
    before = loop_distiller(student=fully_shard(student, ignored_params={student.scale}))
    found["sharded before"] = own_loop(before)
    after = loop_distiller()
    shard(after.student)
    found["sharded after"] = own_loop(after)
    inner = loop_distiller()
    for block in inner.student.blocks:  # the rest is in no group: its gradients are averaged like a projector's
        fully_shard(block)
    found["blocks alone"] = own_loop(inner)
    found |= _mixed(MixedPrecisionPolicy, fully_shard)
    for name, terms, more in RUNS:
        result, made = fitted(folder / name, made=distiller(*terms), **more)
        found[name] = {"state": whole_state(made.state_dict()), "history": list(result.history)}
    with stopped():
        fitted(folder / "stopped", **CLASSES)
    _, made = fitted(folder / "resumed here", **CLASSES, resume=True)
    found["resumed here"] = whole_state(made.state_dict())
    result, learnt = fitted(folder / "cached", made=cached(folder), **CLASSES)
    found["cached"] = {"state": whole_state(learnt.state_dict()), "history": list(result.history)}
    found["compared"] = compared(made.student)
    found["sentences"] = {
        name: sentence(functools.partial(fitted, shard="student", **more)) for name, more in REFUSED.items()
    }
    found["alone"] = _of_a_configuration(rank, folder)
    found["cached both"] = sentence(functools.partial(fitted, made=cached(folder), shard="both"))
    found["optimizer"] = sentence(_with_an_optimizer)
    found["second pass"] = sentence(lambda: after(data().tensors[0][:8], micro_batch=2))
    torch.save(found, folder / f"found-{rank}.pt")


def _mixed(policy, fully_shard):
    """Steps with parameters in bfloat16, reductions in float32, and an output in float32."""
    student = Net(1)
    halves = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
    for block in student.blocks:
        fully_shard(block, mp_policy=policy(**halves))
    root = policy(**halves, output_dtype=torch.float32)
    made = loop_distiller(student=fully_shard(student, mp_policy=root, ignored_params={student.scale}))
    taps = made._taps["student"]
    _, read = taps.read(data().tensors[0][:4])
    return {"mixed": own_loop(made), "mixed dtypes": {path: value.dtype for path, value in read.items()}}


CLASSES = {"shard": "student", "gradient_clip": 1.0}
RUNS = (
    ("classes", TERMS, CLASSES),
    ("both", TERMS, {"shard": "both", "gradient_clip": 1.0}),
    (
        "balanced",
        (
            "ce",
            cg.Term("kd", weight="balanced"),
            cg.Term("mimic", weight="balanced", student_layer="blocks.0.inner", teacher_layer="stem"),
        ),
        {"shard": "student"},
    ),
    (
        "accumulated",
        ("ce", cg.Term("kd", weight="balanced")),
        {"shard": "student", "accumulate": 3, "max_steps": 3, "precision": "bf16"},
    ),
)
REFUSED = {
    "micro_batch": {"micro_batch": 2},
    "compile": {"compile": True},
    "channels_last": {"channels_last": True},
    "precision": {"precision": "fp16"},
    "diagnose": {"diagnose": mock.MagicMock()},
}

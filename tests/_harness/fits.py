"""Small fits: a net with batch norm, its data, and what ranks of a group and killed processes run."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import congruence as cg
from congruence import Method, Needs, Term
from congruence.core import ranks
from congruence.distiller.norms import untracked
from congruence.models.sharded import whole_state
from congruence.training.sync_norms import synchronised
from congruence.training.validate import validate

CPU = torch.device("cpu")


def net(seed, width=5):
    """A small net with batch norm of 6 inputs and 3 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 3))


def data(size=24, seed=0):
    """Labelled points, the label a function of the point."""
    points = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(points, points[:, :3].argmax(1))


def distiller(*terms, teacher=True, students=None, example=True):
    """A distiller, always the same for the same terms."""
    student = net(1) if students is None else {name: net(seed) for name, seed in students.items()}
    torch.manual_seed(2)
    return cg.Distiller(
        net(0, 7) if teacher else None,
        student,
        terms or ("ce", "kd"),
        example=data().tensors[0][:4] if example else None,
    )


def constant(**changes):
    """Options of a constant learning rate on the CPU."""
    given = {"epochs": 2, "device": "cpu", "schedule": cg.ScheduleOptions("constant")} | changes
    return cg.FitOptions(**given)


def same_state(first, second):
    """Assert that two modules hold the same bits."""
    second = second.state_dict()
    assert first.state_dict().keys() == second.keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second[name]), name


class Breaks(Method):
    """A term whose loss or gradient is not finite at one step, on one rank where ranks are several."""

    needs = Needs(roles=("logits",), scope="sample", teacher=False)

    def __init__(self, step, *, how="loss", rank=0):
        super().__init__()
        self.step, self.how, self.rank = step, how, rank
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def loss(self, signals):
        from congruence.core import ranks

        value = signals.one("student", "logits").square().mean()
        if int(self.seen) == self.step and ranks.rank() == self.rank:
            # The root of zero is finite, its gradient is not.
            value = value * float("nan") if self.how == "loss" else value + (value - value).sqrt()
        return {"loss": value}

    def update(self, signals):
        self.seen += 1


def stock(shuffle=True, generator=None, **arguments):
    """A stock loader."""
    return DataLoader(data(), batch_size=8, shuffle=shuffle, generator=generator, **arguments)


def killed_stock_run(out, step, own_generator):
    """A run over a stock loader that is killed."""
    from _harness.runs import KillAt

    torch.set_num_threads(1)
    stock_run(out, own_generator, callbacks=(KillAt(step),))


def stock_run(out, own_generator, **options):
    """A run over a stock loader, with an optimizer and a scheduler of its own."""
    made = distiller()
    optimizer = torch.optim.AdamW(made.parameter_groups(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    generator = torch.Generator().manual_seed(4) if own_generator else None
    fit_options = constant(epochs=3, out=out, **options)
    result = cg.fit(
        made, stock(generator=generator), stock(False), fit_options, optimizer=optimizer, scheduler=scheduler
    )
    return result, made, optimizer


def stopped_run(out, exact):
    """A run that gets SIGTERM at step 4; its log goes to a file."""
    import logging

    from _harness.runs import KillAt

    torch.set_num_threads(1)
    Path(out).mkdir(parents=True, exist_ok=True)
    logging.getLogger("congruence").addHandler(logging.FileHandler(Path(out).parent / "log.txt"))
    loader = cg.data.loader(data(), batch_size=8) if exact else stock()
    cg.fit(distiller(), loader, options=constant(epochs=3, out=out, callbacks=(KillAt(4, signal.SIGTERM),)))


def on_a_rank(rank, folder):
    """All that two ranks must agree on, left behind for one process to compare with."""
    found = {}
    loader = cg.data.loader(data(), batch_size=8)
    for name, terms in {"classes": ("ce", "kd", "pkt"), "relations": ("pkt", "mimic")}.items():
        made = distiller(*terms)
        made.teacher.module.eval()
        val = cg.data.loader(data(23, seed=1), batch_size=10, shuffle=False)
        found[name] = validate(made, val, CPU)
        frozen(made)
        result = cg.fit(made, loader, val, constant(out=folder / name, log_every=2, accumulate=1))
        found[f"{name} history"] = list(result.history)
        found[f"{name} state"] = made.state_dict()
    made = distiller("ce", *(Term(key, weight="balanced") for key in ("kd", "pkt", "mimic")))
    frozen(made)
    cg.fit(made, loader, options=constant())
    found["balanced state"] = made.state_dict()
    made = distiller("ce", Term("kd", weight="balanced"))
    frozen(made)
    cg.fit(made, loader, options=constant(accumulate=3))
    found["balanced accumulated"] = made.state_dict()
    found["error"] = raised(lambda: cg.fit(distiller(), loader, options=constant(out=folder / "classes")))
    for how in ("loss", "gradient"):
        made = distiller("ce", Term(Breaks(3, how=how, rank=1)))
        before = []
        keep = lambda event, made=made, before=before: before.append(made.student[0].weight.clone())  # noqa: E731
        options = constant(out=folder / f"bad-{how}", log_every=2, callbacks=(keep,))
        found[how] = raised(lambda made=made, options=options: cg.fit(made, loader, options=options))
        found[f"{how} weight"] = made.student[0].weight.detach()
    made = distiller(Term("ce", weight=300.0), Term("pkt", weight=10.0))  # overflows fp16 at the first scales
    frozen(made)
    half = constant(
        epochs=4, precision="fp16", optimizer=cg.OptimizerOptions(lr=1e-4), out=folder / "half", log_every=1
    )
    cg.fit(made, loader, options=half)
    found["half state"] = made.state_dict()
    sampler = DistributedSampler(data(), shuffle=True, seed=3)
    seen = []
    record = lambda event: seen.append(sampler.epoch)  # noqa: E731
    made = distiller()
    cg.fit(made, DataLoader(data(), batch_size=4, sampler=sampler), options=constant(epochs=3, callbacks=(record,)))
    found["epochs"] = seen
    found["sampled state"] = made.state_dict()
    evaluated = cg.fit(
        distiller(), loader, options=constant(evaluate=lambda student: {"mine": float(rank)}, monitor="mine")
    )
    found["evaluated"] = evaluated.last
    for name, shard in {"synchronised": None, "synchronised sharded": "student"}.items():
        made = distiller("ce", "kd", Term("pkt", weight=0.01))
        cg.fit(made, loader, options=constant(sync_batch_norm=True, shard=shard))
        found[name] = whole_state(made.state_dict())
    found["normalised"] = normalised(slice(4 * rank, 4 * rank + 4))
    torch.save(found, folder / f"found-{rank}.pt")


def normalised(rows):
    """Return the gradients of convolutions and batch norms over some rows of a batch, and their statistics."""
    torch.manual_seed(3)
    norms = (
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(4, affine=False, momentum=None),
        nn.BatchNorm2d(4, track_running_stats=False),
    )
    body = nn.Sequential(nn.Conv2d(2, 3, 3), norms[0], nn.Tanh(), nn.Conv2d(3, 4, 3), *norms[1:]).double()
    x = torch.randn(8, 2, 7, 6, dtype=torch.float64)[rows].requires_grad_()
    with synchronised([body], True):
        for _ in range(2):
            out = body(x)
        with untracked(body):
            body(3 * x)
        out.pow(3).mean().backward()
    assert "forward" not in vars(norms[0])
    gradients = {f"gradient {name}": ranks.mean_over_ranks(p.grad) for name, p in body.named_parameters()}
    return {**gradients, **body.state_dict(), "x": x.grad}


def frozen(made):
    """Hold the students' batch norms: two ranks see half batches each."""
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()


def raised(function):
    """Return the sentence that a function ends in."""
    try:
        function()
    except (ValueError, cg.NonFiniteLossError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def full_disk(folder):
    """Write beyond what this process may, as on a full disk, and leave the sentence behind."""
    import resource

    from congruence.training.saving.checkpoint import Checkpoints

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kept = Checkpoints(folder / "checkpoints")
    kept.save(1, {"x": torch.zeros(9)})
    try:
        kept.save(2, {"x": torch.zeros(100_000)})
    except ValueError as error:
        (folder / "said.txt").write_text(str(error))


def micro_plain(*terms):
    """A distiller without batch norm, whose chunks give what the batch gives."""
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    torch.manual_seed(2)
    teacher = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    return cg.Distiller(teacher, student, terms, example=data().tensors[0][:4])


def micro_on_a_rank(rank, folder):
    """The toys in micro-batches, and a student whose head is in no loss; the ranks come with other weights."""
    from _harness.runs import toys_on_a_rank
    from _harness.toys import TOYS

    toys_on_a_rank(rank, folder, TOYS, {"micro_batch": 4})
    made = micro_plain("mimic")
    with torch.no_grad():
        made.student[0].weight += rank
    cg.fit(made, cg.data.loader(data(), batch_size=12, seed=3), options=constant(micro_batch=4, accumulate=2))
    torch.save(made.state_dict(), folder / f"micro-{rank}.pt")


def compiled_on_a_rank(rank, folder):
    """A compiled run of a student whose head is in no loss."""
    from congruence.models import compiled

    compiled.BACKEND = "aot_eager"
    made = micro_plain("mimic", "rkd")
    cg.fit(made, cg.data.loader(data(), batch_size=12, seed=3), options=constant(compile=True))
    torch.save(made.state_dict(), folder / f"compiled-{rank}.pt")

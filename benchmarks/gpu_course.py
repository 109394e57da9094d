"""A student's course for `gpu_tables.py`: a `Distiller` on images of the device, its steps replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gpu_images import Images, shifts
from torch import Tensor, nn

import congruence as cg
from congruence import models
from congruence.data.datasets.facts import DataFacts

VIEWS = 8  # of each image, where the teacher's outputs are remembered
EAGER = 3  # steps of an epoch before its graph: lazily made parts appear, and cuDNN chooses
# Rows that look at values on the host (`tests/_harness/reads.py`): their steps cannot be a graph.
LOOKING = {
    *("wasserstein", "class_wasserstein", "joint_wasserstein", "gaussian_wasserstein", "class_gaussian_wasserstein"),
    *("intra_class", "arcface", "rkd", "crd", "ofd"),
}
_POOLED = ("pkt", "mkt", "perception_coherence", "kd", "rkd", "fitnet", "ce")  # read rows, of maps their means


class Remembered(nn.Module):
    """A teacher of whose outputs all are stored: what it would say of the rows and the view in `at`.

    Its layers are called as the teacher's, so that terms find them; of maps it has their means over positions.
    """

    def __init__(self, stored: Mapping[str, Tensor], head: nn.Linear) -> None:
        super().__init__()
        self.stored, self.at = dict(stored), torch.zeros(2, dtype=torch.int64)
        for name in stored:
            self.add_module(name, nn.Identity())
        self.fc = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the rows in `at`; the images are not looked at."""
        at = self.at[: len(images)].to(images.device)
        rows = {name: self.get_submodule(name)(values[at].float()) for name, values in self.stored.items()}
        return self.fc(rows["embed"])


@torch.no_grad()
def remember(teacher: nn.Module, images: Images, tables: Tensor, layers: Sequence[str]) -> Remembered:
    """Run a teacher over all views of all images; `tables` are the shifts of VIEWS · N."""
    found: dict[str, list[Tensor]] = {name: [] for name in (*layers, "embed")}
    hooks = [
        teacher.get_submodule(name).register_forward_hook(
            lambda _, __, out, to=to: to.append((out.mean((2, 3)) if out.dim() == 4 else out).half())
        )
        for name, to in found.items()
    ]
    rows = torch.arange(len(tables), device=tables.device)
    for some in rows.split(1000):
        with torch.autocast(tables.device.type, torch.bfloat16):
            teacher(images.batch(some % len(images), tables[some]))
    for hook in hooks:
        hook.remove()
    return Remembered({name: torch.cat(parts) for name, parts in found.items()}, teacher.fc)


def memorable(terms: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the inner layers of a teacher that terms read, if all can be remembered as rows; else None."""
    layers: list[str] = []
    for term in terms:
        if term["key"] not in _POOLED:
            return None
        named = term.get("teacher_layer") or []
        named = [named] if isinstance(named, str) else named
        if term["key"] == "fitnet" and set(named) != {"embed"}:
            return None
        layers += [name for name in named if name not in ("embed", "output")]
    return layers


class Course:
    """The training of one student by one stage of a configuration.

    Args:
        stage: its table, as TOML gives it.
        teacher: the model, or what is remembered of it; None without one.
        images: the training images.
        seed: of the student and of its batches.
        tables: the shifts of the remembered views; None for new ones in every epoch.
        start: weights with which the student begins.
    """

    def __init__(
        self,
        stage: Mapping[str, Any],
        teacher: nn.Module | None,
        images: Images,
        seed: int,
        *,
        tables: Tensor | None = None,
        start: Mapping[str, Tensor] | None = None,
        classes: int = 10,
    ) -> None:
        self.images, self.train, self.seed, self.tables = images, stage["train"], seed, tables
        self.device = device = images.labels.device
        torch.manual_seed(seed)
        student = models.build(stage["student"]["model"], classes=classes, **stage["student"].get("options", {}))
        if start is not None:
            student.load_state_dict(start)
        student.to(device).to(memory_format=torch.channels_last)
        terms = [cg.Term(each["key"], **{k: v for k, v in each.items() if k != "key"}) for each in stage["terms"]]
        self.size = min(self.train["batch_size"], len(images))
        self.rows = torch.arange(self.size, device=device)
        self.shift = torch.zeros(self.size, 3, dtype=torch.int64, device=device)
        self.remembered = teacher if isinstance(teacher, Remembered) else None
        self.at = torch.arange(self.size, device=device)  # positions among what is remembered
        if self.remembered is not None:
            self.remembered.at = self.at
        self.views = {view for term in terms for view in term.needs.views} - {"main"}
        facts = DataFacts(size=len(images), classes=classes, labels=images.labels.cpu())
        example = images.batch(self.rows[:2])
        self.distiller = cg.Distiller(teacher, student, terms, example=example, facts=facts)
        self.student = student
        # What follows the epochs, or looks at values, is captured anew, or never.
        self.by_epoch = any(
            term.needs.epochs or term.warmup_epochs or term.start_epoch or term.decay != 1 for term in terms
        )
        self.graphed = device.type == "cuda" and not any(term.key in LOOKING for term in terms)
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        told = cg.OptimizerOptions(**self.train.get("optimizer", {}))
        self.peak = told.lr
        self.schedule = cg.ScheduleOptions(**self.train.get("schedule", {}))
        self.rate = torch.zeros((), device=device)
        groups = self.distiller.parameter_groups()
        if told.name == "adamw":
            options = {"capturable": True} if device.type == "cuda" else {"foreach": False}
            self.optimizer = torch.optim.AdamW(groups, lr=self.rate, weight_decay=told.weight_decay, **options)
        else:
            both = {"nesterov": told.nesterov, "weight_decay": told.weight_decay}
            parameters = [each for group in groups for each in group["params"]]
            self.optimizer = Sgd(parameters, self.rate, momentum=told.momentum, **both)
        self.graph: Any = None

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last smaller batch is left out."""
        return len(self.images) // self.size

    def begin(self, epoch: int) -> None:
        """Draw the epoch's batches and, without remembered views, its augmentation."""
        count, draw = len(self.images), torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        self.order = torch.randperm(count, generator=draw).to(self.device)
        self.epoch, self.done = epoch, 0
        if self.tables is None:
            self.table, self.offset = shifts(count, 7 + 1_000_003 * self.seed + epoch, self.device), 0
        else:
            self.table, self.offset = self.tables, (epoch % VIEWS) * count
        self.distiller.train()
        self.distiller.begin_epoch(epoch)
        if self.by_epoch:
            self.graph = None

    def _work(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        main, labels = self.images.batch(self.rows, self.shift), self.images.labels[self.rows]
        plain = {view: self.images.batch(self.rows) for view in self.views}  # "clean": as it is
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            views = {"main": main, **plain} if plain else None
            loss = self.distiller(main, labels, self.rows, views=views).loss
        loss.backward()
        self.optimizer.step()

    def _capture(self) -> None:
        """Capture a step; where something cannot be captured, go on without, and say so."""
        _wait()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self._work()
        except RuntimeError as error:
            self.graphed = False
            print(f"  no graph: {str(error).splitlines()[0]}", flush=True)
        else:
            self.graph = graph

    def step(self) -> None:
        """Take one step, on the course's own stream."""
        rows = self.order[self.done * self.size : (self.done + 1) * self.size]
        where = rows + self.offset
        self.rows.copy_(rows)
        self.shift.copy_(self.table[where])
        if self.remembered is not None:
            self.at.copy_(where)
            self.remembered.at = self.at
        self.rate.fill_(self.peak * self.schedule.at(self.epoch + self.done / self.steps, self.train["epochs"]))
        if self.graphed and self.graph is None and self.done >= EAGER:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
        else:
            self._work()
        self.done += 1


class Sgd:
    """`torch.optim.SGD` with the learning rate in a tensor, so that its step can be captured."""

    def __init__(
        self, parameters: list[Tensor], rate: Tensor, *, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        self.parameters = [each for each in parameters if each.requires_grad]
        self.rate, self.momentum, self.nesterov, self.decay = rate, momentum, nesterov, weight_decay
        self.buffers = [torch.zeros_like(each) for each in self.parameters]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for each in self.parameters:
            each.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Step those parameters that have a gradient."""
        there = [k for k, each in enumerate(self.parameters) if each.grad is not None]
        parameters, buffers = [self.parameters[k] for k in there], [self.buffers[k] for k in there]
        gradients = torch._foreach_add([each.grad for each in parameters], parameters, alpha=self.decay)
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_add_(buffers, gradients)
        moved = torch._foreach_add(gradients, buffers, alpha=self.momentum) if self.nesterov else list(buffers)
        torch._foreach_sub_(parameters, torch._foreach_mul(moved, self.rate))


def run(courses: Sequence[Course], epochs: int) -> None:
    """Train several courses side by side: their steps are queued in turn, each course's on its own stream."""
    for epoch in range(epochs):
        _wait()
        for course in courses:
            course.begin(epoch)
        _wait()
        for _ in range(courses[0].steps):
            for course in courses:
                if course.stream is None:
                    course.step()
                    continue
                with torch.cuda.stream(course.stream):
                    course.step()
        for course in courses:
            course.distiller.end_epoch()
    _wait()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

"""What relations cost on a GPU, and what a step gains there: the sections that `benchmarks/gpu.py` runs beside its own.

Every section is a function of the device that yields figures. `python benchmarks/gpu.py --device cpu --quick` rehearses
them with small sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import congruence as cg
from congruence.losses import class_gaussian_wasserstein_loss, class_wasserstein_loss, pkt_loss
from congruence.metrics import global_perception_coherence

CLASSES = 100
Work = Callable[[], object]
Figures = Iterator[dict[str, Any]]


class Clock(Protocol):
    """What a section needs of `gpu.Device`."""

    name: str
    quick: bool

    def ratio(self, name: str, ours: Work, other: Work) -> dict[str, Any]: ...

    def memory(self, name: str, work: Work) -> Figures: ...


def coherence(device: Clock) -> Figures:
    """GPCL with its distances, beside argsort of argsort."""
    rows = 64 if device.quick else 10_000
    teacher = torch.randn(rows, 64, device=device.name)
    student = teacher + torch.randn_like(teacher)

    def plain() -> float:
        total = 0.0
        for part in torch.arange(rows, device=device.name).split(1000):
            sides = (F.normalize(student), F.normalize(teacher))
            ranks = [((1 - side[part] @ side.T) / 2).argsort(1).argsort(1) for side in sides]
            total += float((ranks[0] - ranks[1]).abs().sum())
        return total

    yield device.ratio(f"GPCL / argsort, N={rows}", lambda: global_perception_coherence(student, teacher), plain)


def class_transport(device: Clock) -> Figures:
    """The class rows of a large batch beside the two forwards of its models."""
    rows = 32 if device.quick else 1024
    labels = torch.randint(CLASSES, (rows,), device=device.name)
    student = torch.randn(rows, 128, device=device.name, requires_grad=True)
    teacher = torch.randn(rows, 128, device=device.name)
    images = torch.randn(rows, 3, 32, 32, device=device.name)
    names = ("resnet8", "resnet8") if device.quick else ("resnet32x4", "resnet8x4")
    models = [cg.models.build(name, classes=CLASSES).to(device.name).eval() for name in names]

    @torch.no_grad()
    def forwards() -> None:
        for model in models:
            model(images)

    for loss in (class_wasserstein_loss, class_gaussian_wasserstein_loss):

        def work(loss: Callable[..., Tensor] = loss) -> None:
            loss(student, teacher, labels, labels).backward()

        yield device.ratio(f"{loss.__name__} / the forwards of {' and '.join(names)}, B={rows}", work, forwards)


def graphs(device: Clock) -> Figures:
    """A step replayed as a CUDA graph, and one compiled for little overhead, beside the plain one."""
    if device.name != "cuda":
        return
    images = torch.randn(64, 3, 32, 32, device=device.name)
    labels = torch.randint(CLASSES, (64,), device=device.name)
    with torch.no_grad():
        wanted = cg.models.build("resnet20", classes=CLASSES).to(device.name).eval()(images)

    def stepper(model: nn.Module) -> Work:
        def step() -> None:
            scores = model(images)
            (F.cross_entropy(scores, labels) + pkt_loss(scores, wanted)).backward()

        return step

    def made() -> nn.Module:
        return cg.models.build("resnet8", classes=CLASSES).to(device.name)

    plain, recorded = stepper(made()), stepper(made())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            recorded()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded()
    yield device.ratio("step of resnet8 with ce + pkt, CUDA graph / plain, B=64", graph.replay, plain)
    compiled = stepper(torch.compile(made(), mode="reduce-overhead"))
    yield device.ratio("step of resnet8 with ce + pkt, reduce-overhead / plain, B=64", compiled, plain)


def images(device: Clock) -> Figures:
    """Images that are bytes on the device and made numbers there, beside numbers made on the host and copied."""
    count, size = (128, 32) if device.quick else (8192, 512)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    there = pixels.to(device.name)
    places = [torch.randperm(count)[:size] for _ in range(4)]
    places_there = [place.to(device.name) for place in places]

    def on_device() -> None:
        for place in places_there:
            there[place].float().div_(255).sub_(0.5).div_(0.25)

    def copied() -> None:
        for place in places:
            pixels[place].float().div_(255).sub_(0.5).div_(0.25).to(device.name)

    yield device.ratio(f"images as bytes on the device / copied as numbers, B={size}", on_device, copied)


def optimizers(device: Clock) -> Figures:
    """A fused step of the optimizer beside torch's default."""
    name = "resnet8" if device.quick else "resnet32x4"

    def work(fused: bool | None, kind: Any) -> Work:
        model = cg.models.build(name, classes=CLASSES).to(device.name)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        return kind(model.parameters(), lr=1e-4, fused=fused).step

    for kind in (torch.optim.SGD, torch.optim.AdamW):
        yield device.ratio(f"{kind.__name__} of {name}, fused / default", work(True, kind), work(None, kind))


def cached_gradients(device: Clock) -> Figures:
    """The memory of PKT over a large batch: the model runs over parts of it, the loss over anchors, each to all rows.

    A batch of 65,536 has similarities of 17 GB a side. The gradient by the rows is kept for each part's second pass.
    """
    rows, part, anchors = (64, 16, 32) if device.quick else (65_536, 1024, 2048)
    student = cg.models.build("resnet8", classes=CLASSES).to(device.name)
    pixels = torch.randint(256, (rows, 3, 32, 32), dtype=torch.uint8, device=device.name)
    teacher = torch.randn(rows, 64, device=device.name)

    def forward(place: slice) -> Tensor:
        return student(pixels[place].float().div_(255))

    parts = [slice(start, start + part) for start in range(0, rows, part)]

    def work() -> None:
        student.zero_grad()
        with torch.no_grad():
            features = torch.cat([forward(place) for place in parts])
        features.requires_grad_()
        for start in range(0, rows, anchors):
            near, wanted = (_probabilities(side, slice(start, start + anchors)) for side in (features, teacher))
            ((wanted * (wanted / near).log()).sum() / rows).backward()
        for place in parts:
            forward(place).backward(features.grad[place])

    yield from device.memory(f"pkt by cached gradients, megabytes, B={rows}, {anchors} anchors at a time", work)


def _probabilities(rows: Tensor, anchors: slice) -> Tensor:
    """PKT's conditional probabilities of some anchors."""
    units = F.normalize(rows)
    similarities = (units[anchors] @ units.T + 1) / 2 + 1e-7
    return similarities / similarities.sum(1, keepdim=True)


def peers(device: Clock) -> Figures:
    """A step of `fit`'s arithmetic beside the loop that the peers' repositories share, written anew."""
    pairs = [("resnet8", "resnet8")] if device.quick else [("resnet32x4", "resnet8x4"), ("vit", "vit small")]
    size = 8 if device.quick else 64
    data = (torch.randn(size, 3, 32, 32), torch.randint(CLASSES, (size,)), torch.arange(size))
    inputs = [tensor.to(device.name) for tensor in data]
    for names in pairs:
        sides = []
        for _ in range(2):
            teacher, student = (_model(name).to(device.name) for name in names)
            sides.append((teacher, student, torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)))
        teacher, student, optimizer = sides[0]
        distiller = cg.Distiller(teacher, student, ["ce", "kd"], example=inputs[0][:2]).to(device.name).train()

        def ours(distiller: Any = distiller, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            distiller(*inputs).loss.backward()
            optimizer.step()

        def theirs(side: Any = sides[1]) -> None:
            teacher, student, optimizer = side
            teacher.eval(), student.train()
            scores = student(inputs[0])
            with torch.no_grad():
                wanted = teacher(inputs[0])
            soft = F.kl_div(F.log_softmax(scores / 4, 1), F.softmax(wanted / 4, 1), reduction="batchmean") * 16
            optimizer.zero_grad()
            loss = F.cross_entropy(scores, inputs[1]) + soft
            loss.backward()
            optimizer.step()
            loss.item()  # their meters read it in every step

        yield device.ratio(f"step of ce + kd, ours / peers' form, {' -> '.join(names)}, B={size}", ours, theirs)


class _Vit(nn.Module):
    """A vision transformer of 4×4 patches."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.places = nn.Parameter(torch.zeros(64, width))
        layer = nn.TransformerEncoderLayer(width, width // 32, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.patches(x).flatten(2).mT + self.places).mean(1))


def _model(name: str) -> nn.Module:
    sizes = {"vit": (384, 12), "vit small": (192, 6)}
    return _Vit(*sizes[name]) if name in sizes else cg.models.build(name, classes=CLASSES)


SECTIONS = (coherence, class_transport, graphs, images, optimizers, cached_gradients, peers)

"""Convolutions with their channels last in memory beside first: the table behind `channels_last="auto"`.

python benchmarks/memory_order.py [cpu|cuda]

A teacher's forward and a student's step, each in float32 and in bfloat16, of networks that differ in what their
convolutions are: dense, grouped, depthwise, 1×1, of few and of many channels, of one dimension, and a single one before
a transformer. `congruence.models.memory_order` is the rule that is read off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from interleaved import medians
from record import figure, write
from torch import nn
from torch.nn import functional as F

from congruence.models import build
from congruence.models.memory_order import ordered, prefers_channels_last

CLASSES = 10
Work = Callable[[], object]
DEFINITION = (
    "channels last / first, medians of interleaved calls: a teacher's forward without gradient, and a student's step "
    "(forward, backward, SGD); bfloat16 is of the teacher's weights, and autocast of the student's; `auto` is what the "
    "rule chooses (1: last)"
)


class Patches(nn.Module):
    """A small vision transformer: its only convolution cuts the image into patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 128, 4, stride=4)
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(1))


def signal_net() -> nn.Module:
    """A network of convolutions over one dimension, which has no channels-last order."""
    layers = [nn.Conv1d(3, 32, 5), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 5), nn.ReLU()]
    return nn.Sequential(nn.Flatten(2), *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, CLASSES))


ZOO = (
    *("cnn3", "resnet8", "resnet20", "resnet8x4", "wrn16_2", "vgg8"),
    *("mobilenetv2", "shufflenetv1", "shufflenetv2"),
)
# Network, its maker, channels and side of its images, and samples in a batch.
SETTINGS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    **{name: (lambda name=name: build(name, classes=CLASSES), 3, 32, 64) for name in ZOO},
    "cnn3, 1 channel": (lambda: build("cnn3", classes=CLASSES, in_channels=1), 1, 28, 64),
    "resnet20, 8 samples": (lambda: build("resnet20", classes=CLASSES), 3, 32, 8),
    "resnet18, 96²": (lambda: build("resnet18", classes=CLASSES, stem="imagenet"), 3, 96, 16),
    "mobilenetv2, 96²": (lambda: build("mobilenetv2", classes=CLASSES, stem="imagenet"), 3, 96, 16),
    "patches": (Patches, 3, 32, 64),
    "signals": (signal_net, 3, 32, 64),
}


def works(name: str, device: str) -> Iterator[tuple[str, dict[str, Work], bool]]:
    """Yield each way to use a network: its name, the two orders, and what the rule chooses."""
    make, channels, side, batch = SETTINGS[name]
    images = torch.randn(batch, channels, side, side, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def made(*, last: bool) -> nn.Module:
        torch.manual_seed(0)
        return ordered(make().to(device), last=last)

    def forward(module: nn.Module, dtype: torch.dtype) -> Work:
        module = module.eval().to(dtype)

        @torch.no_grad()
        def work() -> None:
            module(images.to(dtype))

        return work

    def step(module: nn.Module, dtype: torch.dtype) -> Work:
        optimizer = torch.optim.SGD(module.train().parameters(), lr=1e-3, momentum=0.9, fused=True)

        def work() -> None:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = F.cross_entropy(module(images), labels)
            loss.backward()
            optimizer.step()

        return work

    for dtype in (torch.float32, torch.bfloat16):
        for use, work in (("teacher", forward), ("student", step)):
            auto = prefers_channels_last(made(last=False), torch.device(device), dtype)
            ways = {order: work(made(last=order == "last"), dtype) for order in ("first", "last")}
            yield f"{use}, {str(dtype).removeprefix('torch.')}", ways, auto


def seconds_on_device(work: Work) -> Work:
    """Make a work wait for the GPU, whose time a processor's clock does not show."""

    def whole() -> None:
        work()
        torch.cuda.synchronize()

    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="?", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if arguments.device == "cuda" else time.process_time
    figures = []
    for name in SETTINGS:
        for use, ways, auto in works(name, arguments.device):
            if arguments.device == "cuda":
                ways = {order: seconds_on_device(work) for order, work in ways.items()}
            times = medians(ways, arguments.rounds, clock)
            milliseconds = {f"{order}_milliseconds": round(1e3 * seconds, 2) for order, seconds in times.items()}
            figures.append(figure(f"{name}: {use}", times["last"] / times["first"], **milliseconds, auto=int(auto)))
    write("memory_order", DEFINITION, figures, arguments.device, rounds=arguments.rounds)


if __name__ == "__main__":
    main()

"""A loop of your own: `python examples/own_loop.py [--epochs 20]`.

2,000 points of four classes are made. A teacher sees the labels of all. A student that is 8 times as narrow sees 100
labels: once it learns from these points alone, once from all points with the teacher beside the labels. Printed are the
accuracies of all three on 1,000 other points.

A `Distiller` is a module: it takes a batch and returns the loss. The loop and the optimizer are plain PyTorch.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import congruence as cg


def points(count: int) -> TensorDataset:
    """Return points whose class two of their twelve numbers decide."""
    x = torch.rand(count, 12)
    labels = 2 * (x[:, 0] > 0.5).long() + (x[:, 1] > x[:, 0]).long()
    return TensorDataset(x - 0.5, labels)


def network(width: int) -> nn.Module:
    """Return two hidden layers and a head for four classes."""
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def train(distiller: cg.Distiller, data: TensorDataset, epochs: int) -> None:
    """Train what the distiller holds: its students and its terms' own parts, never its teacher."""
    optimizer = torch.optim.AdamW(distiller.parameter_groups(), lr=3e-3)
    for epoch in range(epochs):
        distiller.begin_epoch(epoch)
        for inputs, labels in DataLoader(data, batch_size=64, shuffle=True):
            out = distiller(inputs, labels)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
        distiller.end_epoch()


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Return the share of the points whose class is found."""
    inputs, labels = data.tensors
    predicted: Tensor = model.eval()(inputs).argmax(1)
    return (predicted == labels).float().mean().item()


def main() -> None:
    """Train teacher and students, and print their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    data, test = points(2000), points(1000)
    example, labels = data[:2][0], data.tensors[1].clone()
    labels[100:] = -1  # not known
    few, most_unlabelled = TensorDataset(*data[:100]), TensorDataset(data.tensors[0], labels)
    teacher, alone, student = network(128), network(16), network(16)
    train(cg.Distiller(None, teacher, ["ce"], example=example), data, epochs)
    train(cg.Distiller(None, alone, ["ce"], example=example), few, epochs)
    terms = ["ce", "kd", cg.Term("pkt", weight="balanced")]
    train(cg.Distiller(teacher, student, terms, example=example), most_unlabelled, epochs)
    for name, model in {"teacher": teacher, "student alone": alone, "student with teacher": student}.items():
        print(f"{name}: {accuracy(model, test):.3f}")


if __name__ == "__main__":
    main()

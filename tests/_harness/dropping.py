"""An encoder whose layers drop out at random, and a distiller that reads one of them."""

import torch
from _harness.fits import data
from torch import nn

import congruence as cg

MIDDLE = {"student_layer": "layers.1", "teacher_layer": "layers.1"}


class Dropping(nn.Module):
    """An encoder of layers that drop out at random in training, as speech models have them."""

    def __init__(self, chance=0.5, layers=3):
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(layers)])
        self.act, self.head, self.chance, self.ran = nn.Tanh(), nn.Linear(6, 3), chance, []

    def forward(self, hidden):
        ran = {n for n in range(len(self.layers)) if not self.training or torch.rand(()) >= self.chance}
        if self.training:
            self.ran.append(ran)
        for number, layer in enumerate(self.layers):
            if number in ran:
                hidden = hidden + self.act(layer(hidden))
        return self.head(hidden)


def made(*terms, chance=0.5, seed=0):
    torch.manual_seed(seed)
    teacher, student = Dropping(0.0), Dropping(chance)
    built = cg.Distiller(teacher, student, terms, example=data().tensors[0][:4])
    student.ran.clear()
    return built

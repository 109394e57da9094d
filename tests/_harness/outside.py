"""A package from outside with rows of its own: a method over maps with a memory, and a method that is all wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from congruence import Method, Needs
from congruence.methods import Row


def mean_map_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the mean activations.

    L = (mean(student) − mean(teacher))².

    Shape:
        Two maps [B, C, H, W]; returns [].
    """
    return (student.mean() - teacher.mean()).square()


class MeanMap(Method):
    """Two layers of maps, a trained scale, and a running mean of the teacher."""

    needs = Needs(
        roles=("maps", "features"), views=("main", "strong"), labels=True, index=True, facts=True, epochs=True
    )

    def __init__(self, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum

    def build(self, probe):
        self.scale = nn.Parameter(torch.ones(len(probe.shapes["student", "maps"])))
        self.register_buffer("mean", torch.zeros(probe.known_facts().size))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def embed(self, signals):
        key = ("student", "main", "maps")
        return signals.replace({key: tuple(s * m for s, m in zip(self.scale, signals.tensors[key], strict=True))})

    def loss(self, signals):
        sides = zip(signals.layers("student", "maps"), signals.layers("teacher", "maps"), strict=True)
        apart = (
            signals.one("student").mean(1) - self.mean[signals.index] - signals.one("student", view="strong").mean(1)
        )
        seen = signals.labels >= 0
        return {
            "maps": torch.stack([mean_map_loss(*side) for side in sides]).sum(),
            "rows": (apart.square() * seen).mean(),
        }

    def update(self, signals):
        rows = signals.one("teacher").mean(1).to(self.mean.dtype)
        self.mean[signals.index] = self.momentum * self.mean[signals.index] + (1 - self.momentum) * rows

    def end_epoch(self):
        self.epochs += 1


ROW = Row(
    key="mean_map",
    summary="The mean activation.",
    reference="none",
    part=MeanMap,
    function=mean_map_loss,
    needs=MeanMap.needs,
    weight={"maps": 1.0, "rows": 0.5},
)


class Flawed(Method):
    """A method with one flaw, by name."""

    def __init__(self, *, flaw: str = "none") -> None:
        super().__init__()
        self.flaw = flaw
        roles = ("maps" if flaw == "strides" else "features",)
        self.needs = Needs(roles=roles, scope="sample" if flaw == "scope" else "batch")
        self.register_buffer("count", torch.zeros(()))
        self.hidden = 0.0

    def loss(self, signals):
        if self.flaw == "strides":  # reads memory in its order, whatever that is
            student = signals.layers("student", "maps")[1]
            return {"loss": (torch.as_strided(student, (student.numel(),), (1,))[:9]).square().sum()}
        student, teacher = signals.one("student"), signals.one("teacher")
        value = (student.std() - teacher.std()).square()
        if self.flaw == "writes":
            self.count += 1
        if self.flaw == "shape":
            return {"loss": value.expand(2)}
        if self.flaw == "nan":
            return {"loss": value * float("nan")}
        if self.flaw == "random":
            return {"loss": value * (1 + torch.rand(()).item() + torch.seed() * 0)}
        if self.flaw == "order":
            return {"loss": (student[0] * teacher.mean()).square().sum()}
        if self.flaw == "constant":
            return {"loss": value * 0.0}
        if self.flaw == "forgets":  # keeps its memory where no checkpoint looks
            self.hidden = self.hidden + 1.0 if self.training else self.hidden
            return {"loss": value * self.hidden}
        if self.flaw == "half":
            return {"loss": value if student.dtype != torch.bfloat16 else value / 0.0}
        return {"loss": value}


def flawed(flaw: str) -> Row:
    return Row(
        key="flawed", summary="A flaw.", reference="none", part=Flawed, function=mean_map_loss, needs=Flawed.needs
    )

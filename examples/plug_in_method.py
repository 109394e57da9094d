"""A method of your own: `python examples/plug_in_method.py`.

A loss is a function, its module and one row; `check_row` holds it to the contract of the library's own methods. Printed
are that the contract holds, and the losses of both terms after each epoch of a short training on made points.

`docs/develop/adding-a-method.md` puts such a row into a package, whose key configurations and the command line know.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import congruence as cg
from congruence.methods import Needs, Row
from congruence.testing import Case, check_row


def spread_loss(student: Tensor, teacher: Tensor, *, power: float = 1.0) -> Tensor:
    """Squared difference of the embeddings' spreads over the batch: L = (σ_s^p − σ_t^p)².

    σ² is the mean squared distance of the rows to their mean. Shape: [B, D_s] and [B, D_t]; returns [].
    """
    return (_spread(student) ** power - _spread(teacher) ** power).square()


def _spread(rows: Tensor) -> Tensor:
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    return (rows - rows.mean(0)).square().sum(1).mean().add(1e-12).sqrt()


class SpreadLoss(nn.Module):
    """`spread_loss` with its hyper-parameter stored."""

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__()
        if not power > 0:
            raise ValueError(f"`SpreadLoss`: `power` must be a number > 0, got {power!r}.")
        self.power = power

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of embeddings [B, D_s] and [B, D_t]."""
        return spread_loss(student, teacher, power=self.power)


ROW = Row(
    key="spread",
    summary="How far the batch spreads.",
    reference="this file",
    part=SpreadLoss,
    function=spread_loss,
    needs=Needs(),
)


def main() -> None:
    """Check the row, and train with it."""
    check_row(Case(ROW, {"power": 0.5}, zero_at_equal=True))
    print("the row keeps the contract")
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, 12), torch.arange(256) % 4)
    teacher = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 4))
    student = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    terms = ["kd", cg.Term(ROW.make(power=0.5), name="spread")]
    distiller = cg.Distiller(teacher, student, terms, example=data[:2][0])
    optimizer = torch.optim.AdamW(distiller.parameter_groups(), lr=1e-2)
    for epoch in range(5):
        for batch in cg.data.loader(data, batch_size=64):
            out = distiller(*batch)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in out.terms.items()))


if __name__ == "__main__":
    main()

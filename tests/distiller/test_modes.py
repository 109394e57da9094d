"""Students whose output differs between training and evaluation: what is taught is asked, what is measured is said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import congruence as cg
from congruence.training.validate import validate


class TwoHeads(nn.Module):
    """As a vision transformer taught by a token: (class, distilled) in training, their mean in evaluation."""

    def __init__(self, *, names: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.head_dist = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.names = names

    def forward(self, x: Tensor):
        hidden = self.body(x).tanh()
        first, second = self.head(hidden), self.head_dist(hidden)
        if not self.training:
            return (first + second) / 2
        return {"logits": first, "distilled": second} if self.names else (first, second)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(12, 6, generator=generator)
    return points, points[:, :3].argmax(1)


def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))


def test_a_student_of_two_heads_asks_which_is_taught(batch):
    for term in ("ce", "kd"):
        with pytest.raises(
            ValueError, match=r"student .* its output holds several \('output\[0\]' \[2, 3\], .*_layer="
        ):
            cg.Distiller(teacher(), TwoHeads(), [term], example=batch[0][:2])
    distiller = cg.Distiller(teacher(), TwoHeads(), ["pkt"], example=batch[0][:2])  # both heads read one embedding
    assert distiller.layers()["pkt"]["student features"] == ("input:head_dist",)
    with pytest.raises(ValueError, match=r"made of 'head' in training and of 'head', 'head_dist' in evaluation: name"):
        cg.Distiller(teacher(), TwoHeads(names=True), ["kd"], example=batch[0][:2])


@pytest.mark.parametrize("names", [False, True])
def test_what_is_measured_is_the_output_in_evaluation(batch, names):
    points, labels = batch
    student = TwoHeads(names=names)
    layers = ("head", "head_dist")
    terms = [cg.Term("ce", student_layer=layers[0]), cg.Term("kd", student_layer=layers[1])]
    distiller = cg.Distiller(teacher(), student, terms, example=points[:2])
    measured = validate(distiller, DataLoader(TensorDataset(points, labels), 5), torch.device("cpu"))
    with torch.no_grad():
        said = student.eval()(points)
    assert measured["loss"] == pytest.approx(F.cross_entropy(said, labels).item(), rel=1e-6)
    assert measured["accuracy"] == pytest.approx((said.argmax(1) == labels).double().mean().item())
    comparison = cg.compare(teacher(), student, [(points, labels)])
    assert comparison.student_accuracy == measured["accuracy"]


def test_an_auxiliary_head_is_taught_and_the_output_measured(batch):
    class Auxiliary(TwoHeads):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x).tanh()
            self.head_dist(hidden)
            return self.head(hidden)

    points, _ = batch
    distiller = cg.Distiller(teacher(), Auxiliary(), [cg.Term("ce", student_layer="head_dist")], example=points[:2])
    assert torch.equal(distiller.eval().logits("student", points), distiller.student(points))


def test_an_embedding_is_not_measured_in_place_of_the_layer_that_is_taught(batch):
    class Embeds(TwoHeads):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x).tanh()
            self.head(hidden)
            return hidden

    points, _ = batch
    distiller = cg.Distiller(teacher(), Embeds(), [cg.Term("ce", student_layer="head")], example=points[:2])
    assert distiller.eval().logits("student", points).shape == (12, 3)
    with pytest.raises(ValueError, match=r"default layer for 'logits', since its output \[2, 8\] is what enters"):
        cg.Distiller(teacher(), Embeds(), ["ce"], example=points[:2])


def test_a_student_that_cannot_run_in_evaluation_is_not_measured(batch):
    class Trains(TwoHeads):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("no")
            return self.head(self.body(x))

    distiller = cg.Distiller(teacher(), Trains(), ["kd"], example=batch[0][:2])
    assert distiller(*batch).loss.isfinite()
    with pytest.raises(ValueError, match="The student has no layer that is known to give class logits"):
        distiller.logits("student", batch[0])

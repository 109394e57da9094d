"""What datasets tell about themselves."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from congruence.data import ArrayDataset, facts, indexed


class Vision(Dataset):
    """Attributes as torchvision names them."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> object:
        raise AssertionError("facts must not read samples")


def test_an_array_dataset_tells_all() -> None:
    labels = torch.tensor([0, -1, 1])
    data = ArrayDataset(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), labels, classes=7, mean=[0.5], std=[1])
    known = facts(data)
    assert (known.size, known.classes) == (3, 7)
    assert torch.equal(known.labels, labels)
    assert facts(data.subset([2])).labels.tolist() == [1]


@pytest.mark.parametrize(
    ("attributes", "classes", "labels"),
    [
        ({"targets": [0, 2, 1, 2], "classes": ["a", "b", "c", "d"]}, 4, [0, 2, 1, 2]),
        ({"targets": torch.tensor([0, 2, 1, 2])}, 3, [0, 2, 1, 2]),
        ({"labels": [1, 1, 0, -1]}, 2, [1, 1, 0, -1]),
        ({"targets": [[0, 1], [1]], "classes": 5}, 5, None),
        ({"targets": [0.5, 1.0, 2.0, 3.0]}, None, None),
        ({"targets": ["cat"] * 4}, None, None),
        ({"targets": [0, 1]}, None, None),
        ({}, None, None),
    ],
)
def test_targets_and_labels(attributes: dict[str, object], classes: int | None, labels: list[int] | None) -> None:
    known = facts(Vision(**attributes))
    assert known.size == 4
    assert known.classes == classes
    assert (None if known.labels is None else known.labels.tolist()) == labels


def test_wrappers_are_seen_through() -> None:
    data = Vision(targets=[0, 2, 1, 2])
    assert facts(Subset(data, [3, 1])).labels.tolist() == [2, 2]
    assert facts(Subset(data, [2])).classes == 3
    assert facts(indexed(data)).labels.tolist() == [0, 2, 1, 2]
    assert facts(Subset(indexed(data), [1])).labels.tolist() == [2]
    pairs = TensorDataset(torch.zeros(2, 3), torch.tensor([1, 0]))
    assert facts(pairs).classes == 2
    assert facts(TensorDataset(torch.zeros(2, 3))).labels is None


def test_a_dataset_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="`facts`: `dataset` must be a map-style dataset with a length, got SimpleN"):
        facts(SimpleNamespace())

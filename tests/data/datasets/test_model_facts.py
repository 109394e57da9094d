"""What a model was trained on: found, written, read, and compared."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from congruence import data
from congruence.data.datasets.model_facts import (
    ModelFacts,
    check_prepared,
    check_same_classes,
    forget,
    other_classes,
    remember,
    remembered,
)
from congruence.models import Head, WithHead

OURS = ModelFacts((1, 4, 4), (0.5,), (0.25,), None, 2, ("cat", "dog"))


def images(**changed):
    about = {"classes": 2, "mean": [0.5], "std": [0.25], "class_names": ("cat", "dog")} | changed
    return data.ArrayDataset(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 2, **about)


class Foreign(Dataset):
    """As torchvision's folders."""

    def __init__(self, classes=("cat", "dog"), inner=None):
        self.classes, self.dataset = classes, inner

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), index % 2


class Features(Foreign):
    """As a dataset of Hugging Face's with one label."""

    def __init__(self):
        super().__init__(None)
        self.features = {"image": object(), "label": SimpleNamespace(names=["cat", "dog"])}


@pytest.mark.parametrize(
    "source",
    [
        images(),
        images().subset([0, 3]),
        data.keep_labels(images(), 1),
        data.indexed(images()),
        Subset(data.indexed(images()), [0, 1]),
        data.loader(images(), batch_size=2),
        DataLoader(Subset(images(), [0, 1])),
        DataLoader(ConcatDataset([images(), images()])),
    ],
)
def test_our_images_say_all_however_they_are_wrapped(source):
    assert ModelFacts.of(source) == OURS


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        (DataLoader(Foreign()), ModelFacts(classes=2, class_names=("cat", "dog"))),
        (DataLoader(Foreign(None, images())), ModelFacts(classes=2, class_names=("cat", "dog"))),  # no mean: unknown
        (Foreign(7), ModelFacts(classes=7)),
        (Features(), ModelFacts(classes=2, class_names=("cat", "dog"))),
        (Foreign([0, 1]), ModelFacts(classes=2)),
        (TensorDataset(torch.zeros(2, 3)), ModelFacts()),
        (ConcatDataset([images(), images(mean=[0.1])]), ModelFacts()),
        ([(torch.zeros(2, 3), torch.zeros(2))], ModelFacts()),
        (iter([1]), ModelFacts()),
        (None, ModelFacts()),
    ],
)
def test_of_foreign_ones_what_they_say(source, facts):
    assert ModelFacts.of(source) == facts


def test_the_shape_of_a_foreign_batch():
    bare = ModelFacts()
    assert bare.with_input(torch.zeros(8, 3, 5, 5)).shape == (3, 5, 5)
    assert bare.with_input({"ids": torch.zeros(8, 3)}) == bare.with_input(torch.zeros(8, 3).long()) == bare
    assert OURS.with_input(torch.zeros(8, 3, 9, 9)) is OURS


@pytest.mark.parametrize("facts", [OURS, ModelFacts(), ModelFacts(resize=9), ModelFacts(resize=(9, 8), classes=3)])
def test_what_is_written_is_read(facts):
    assert ModelFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts
    assert ModelFacts.from_dict({**facts.to_dict(), "of a later version": 1}) == facts


@pytest.mark.parametrize("values", [[], None, {"mean": "x"}, {"shape": 3}, {"classes": []}])
def test_what_is_damaged_is_refused(values):
    with pytest.raises(ValueError):
        ModelFacts.from_dict(values)


def model(facts=OURS):
    made = nn.Linear(2, 2)
    remember(made, facts, "runs/a/student.safetensors")
    return made


def test_a_module_remembers_until_it_is_told_to_forget():
    made = model()
    assert remembered(made) == (OURS, "The model of 'runs/a/student.safetensors'")
    assert remembered(nn.DataParallel(made))[0] == OURS
    assert remembered(WithHead(made, Head(2, 2), example=torch.ones(2, 2)))[0] == OURS
    assert remembered(pickle.loads(pickle.dumps(made)))[0] == OURS
    assert "congruence" not in str(pickle.dumps(made))
    assert list(made.state_dict()) == ["weight", "bias"]
    forget(made)
    assert remembered(made) is remembered(None) is None
    again = model()
    del again.trained_on
    assert remembered(again) is None


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"mean": [0.3]}, "with mean [0.5] and std [0.25], these are of [1, 4, 4] with mean [0.3] and std [0.25]"),
        ({"std": [0.5]}, "--set 'data.std=[0.25]'"),
    ],
)
def test_other_preparation_is_one_sentence_with_both_and_ways_on(changed, sentence):
    with pytest.raises(ValueError) as caught:
        check_prepared(model(), ModelFacts.of(images(**changed)))
    said = str(caught.value)
    assert said.startswith("The model of 'runs/a/student.safetensors' was trained on images of [1, 4, 4] with mean")
    assert sentence in said
    assert "load(..., mean=[0.5], std=[0.25])" in said
    assert "`del model.trained_on`" in said


def test_another_size_or_resize_or_number_of_channels():
    large = ModelFacts((3, 8, 8), (0.5,) * 3, (0.2,) * 3, 9)
    for other in (
        ModelFacts((3, 6, 8), (0.5,) * 3, (0.2,) * 3, 9),
        ModelFacts((3, 8, 8), (0.5,) * 3, (0.2,) * 3, None),
        ModelFacts((1, 8, 8), (0.5,), (0.2,), 9),
    ):
        with pytest.raises(ValueError, match="prepare them in the same way"):
            check_prepared(model(large), other)
    with pytest.raises(ValueError, match=r"--set 'data.size=\[8, 8\]' --set 'data.resize=9'"):
        check_prepared(model(large), ModelFacts((3, 6, 8), (0.5,) * 3, (0.2,) * 3))


def test_a_difference_that_hardly_matters_is_a_warning(caplog):
    check_prepared(model(), ModelFacts.of(images()))
    assert not caplog.records
    check_prepared(model(), ModelFacts.of(images(mean=[0.505])))
    assert "such a small difference is accepted" in caplog.text


def test_nothing_is_compared_with_what_is_not_known():
    check_prepared(model(), ModelFacts())
    check_prepared(model(ModelFacts()), OURS)
    check_prepared(nn.Linear(2, 2), OURS)
    check_same_classes(model(), ModelFacts())
    check_same_classes(nn.Linear(2, 2), OURS)


@pytest.mark.parametrize(
    ("names", "clause"),
    [
        (("dog", "cat"), "has the classes 'cat', 'dog', the data 'dog', 'cat' (the same ones in another order)"),
        (("cat", "hound"), "(class 1 is 'dog' to the model and 'hound' in the data)"),
        (("cat", "dog", "eel"), "the data 'cat', 'dog', 'eel'"),
        (("cat",), "the data 'cat'"),
    ],
)
def test_other_classes(names, clause):
    found = other_classes(OURS, ModelFacts(classes=len(names), class_names=names))
    assert clause in found
    with pytest.raises(ValueError, match="give the classes their names and order from before"):
        check_same_classes(model(), ModelFacts(classes=len(names), class_names=names))


def test_further_classes_of_a_test_part():
    wider = ModelFacts(classes=3, class_names=("cat", "dog", "eel"))
    assert other_classes(OURS, wider, more=True) is None
    assert other_classes(ModelFacts(classes=2), wider) == "has 2 classes, the data 3"
    assert other_classes(ModelFacts(classes=2), wider, more=True) is None


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
def test_any_kind_of_module_remembers():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    parallel, compiled = nn.DataParallel(nn.Linear(2, 2)), torch.compile(nn.Linear(2, 2), backend="eager")
    for made in (scripted, parallel, compiled):
        remember(made, OURS, "a file")
        assert remembered(made)[0] == OURS
        forget(made)
        assert remembered(made) is None

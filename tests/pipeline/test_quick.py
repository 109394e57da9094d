"""What a run without a configuration decides, for the command and the function alike."""

from __future__ import annotations

import pytest
import torch
from _harness.cases import OWN_KEYS
from torch import nn

from congruence.cli.distill import _Quick
from congruence.config.training import TrainConfig
from congruence.data.datasets.model_facts import ModelFacts
from congruence.methods import Term, row
from congruence.pipeline import quick


@pytest.mark.parametrize("weight", ["balanced", "published", 0.5])
def test_something_in_every_run_on_labels_has_a_number(weight):
    """Else a balanced term would have nothing to be held against."""
    for key in OWN_KEYS:
        check_terms(key, weight)


def check_terms(key, weight):
    tables = [quick.weighed(key, weight)]
    if (of_labels := quick.label_term([key], weight)) is not None:
        tables.append(of_labels)
    terms = [Term(table.pop("key"), **table) for table in tables]
    assert any(not term.balanced for term in terms)
    if weight == "balanced" and (of_labels is not None or key == "mlld") and key != "arcface":
        assert [(term.key, term.share) for term in terms if term.balanced] == [(key, row(key).share)]


def test_the_command_and_the_function_train_alike():
    config, _ = _Quick("resnet8", "weights", "cnn3", "digits", 7).config(["kd"])
    train = config.stages["student"].train
    assert train == TrainConfig(epochs=7, augment=True, **quick.train_tables())
    assert (train.optimizer.name, train.schedule.name) == ("adamw", "cosine")


def test_little_data_is_seen_more_often():
    config, splits = _Quick("resnet8", "weights", "cnn3", "digits", None).config(["kd"])
    train = config.stages["student"].train
    steps = -(-len(splits.train) // train.batch_size)
    assert train.epochs == quick.epochs_of(len(splits.train), train.batch_size) == -(-3000 // steps) > quick.EPOCHS
    assert [quick.epochs_of(samples, 64) for samples in (1, 64, 65, 99 * 64, 100 * 64)] == [3000, 3000, 1500, 31, 30]


def test_a_teacher_is_asked_only_where_its_classes_matter():
    def never():
        raise AssertionError

    assert quick.chosen(["pkt", "ce"], never, "x", labelled=True) == (["pkt", "ce"], "", False)
    assert quick.chosen(None, lambda: None, "x", labelled=True) == (["kd"], "", False)
    fitted = "They differ: a classifier of the data's classes is fitted on its features."
    assert quick.chosen(None, lambda: "They differ", "x", labelled=True) == (["kd"], fitted, True)
    told = "They differ: the method is queue_relation, which compares features, not kd."
    assert quick.chosen(None, lambda: "They differ", "x", labelled=False) == (["queue_relation"], told, False)
    with pytest.raises(ValueError, match=r"They differ: 'soft' compares class logits; .* for one --method pkt"):
        quick.chosen([Term("kd", name="soft")], lambda: "They differ", "--method pkt", labelled=True)


def test_an_encoder_is_told_from_what_gives_class_scores():
    class Normalised(nn.Linear):
        def forward(self, rows):
            return nn.functional.normalize(super().forward(rows))

    rows = torch.randn(4, 4)
    classifier, encoder = nn.Linear(4, 3), Normalised(4, 3)
    clause = "output is an embedding, not class scores"
    assert quick.gives_embeddings({"teacher": encoder, "student": classifier}, rows) == f"The teacher's {clause}"
    assert quick.gives_embeddings({"teacher": classifier, "student": encoder}, rows) == f"The student's {clause}"
    of_pixels = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 1))
    for model in (classifier, nn.Sequential(classifier, nn.Softmax(1)), of_pixels):
        assert quick.gives_embeddings({"teacher": model}, rows) is None
    assert quick.gives_embeddings({"teacher": encoder}, torch.randn(4, 5)) is None  # the run itself says what is wrong


def test_other_classes_by_number():
    rows = torch.randn(2, 4)
    teacher, student = nn.Linear(4, 5), nn.Linear(4, 3)
    assert quick.knows_other_classes(teacher, rows, ModelFacts()) is None
    assert quick.knows_other_classes(teacher, rows, ModelFacts(classes=5)) is None
    assert quick.knows_other_classes(teacher, rows, ModelFacts(classes=4)) == "The teacher has 5 classes, the data 4"
    assert quick.knows_other_classes(teacher, rows, ModelFacts(), student) == "The teacher has 5 classes, the student 3"
    assert quick.knows_other_classes(nn.Unflatten(1, (2, 2)), rows, ModelFacts(classes=4), student) is None

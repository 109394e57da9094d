"""From a configuration to models, loaders and options."""

import sys
from pathlib import Path

import pytest
import torch
from _harness.configs import tiny

from congruence.config import from_values
from congruence.config.references import StudentRef
from congruence.models import build, save_weights
from congruence.pipeline import RunContext, build_stage
from congruence.pipeline.context import load_splits

FACTORIES = """
from torch import nn

def body(classes, in_channels, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, width), nn.ReLU(), nn.Linear(width, classes))

def wide():
    return body(12, 1)

def nothing():
    return 3

number = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_factories"
    sys.modules.pop("my_factories", None)


def test_models_come_from_the_seed_alone():
    config = tiny()
    splits = load_splits(config.data)
    first = build_stage(config, "student", RunContext(splits=splits))
    torch.rand(7)
    second = build_stage(config, "student", RunContext(splits=splits))
    other = build_stage(tiny("digits/pkt", "stages.student.train.seed=1"), "student", RunContext(splits=splits))
    weights = [built.models.students["student"].fc.weight for built in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_few_labels_are_trained_on_and_all_are_kept_for_measuring():
    built = build_stage(tiny("digits/pkt", "stages.student.labels_per_class=2"), "student", RunContext())
    assert int((built.train_loader.dataset.labels >= 0).sum()) == 20
    assert int((built.splits.train.labels >= 0).sum()) == 200
    assert int((build_stage(tiny(), "teacher", RunContext()).train_loader.dataset.labels >= 0).sum()) == 200


def test_training_options_reach_loader_and_engine():
    sets = ["stages.student.train.drop_last=true", "stages.student.train.batch_size=64"]
    sets += ["stages.student.train.augment={pad=2}"]
    built = build_stage(tiny("digits/pkt", *sets), "student", RunContext(out=Path("x"), resume=True))
    assert (built.train_loader.batch_size, len(built.train_loader)) == (64, 3)  # of 200 pictures
    assert built.train_loader.augment["main"].pad == 2
    assert (built.options.max_steps, built.options.out, built.options.resume) == (2, Path("x"), True)
    assert next(iter(built.val_loader))[2].tolist() == list(range(20))


def test_no_validation_images_give_no_validation():
    assert build_stage(tiny("digits/pkt", "data.validation=0"), "student", RunContext()).val_loader is None


def test_a_teacher_is_the_earlier_stages_student_with_its_weights(tmp_path):
    config = tiny()
    teacher = build_stage(config, "teacher", RunContext()).models.students["student"]
    save_weights(teacher.state_dict(), tmp_path / "t.safetensors")
    built = build_stage(config, "student", RunContext(teachers={StudentRef("teacher"): tmp_path / "t.safetensors"}))
    assert torch.equal(built.models.teacher.fc.weight, teacher.fc.weight)
    assert not built.models.teacher.fc.weight.requires_grad


def quick(student, teacher=None, terms=("ce",)):
    stage = {"student": student, "terms": [{"key": key} for key in terms], "train": {"epochs": 1, "device": "cpu"}}
    stage |= {"teacher": teacher} if teacher else {}
    return from_values({"data": {"name": "digits"}, "stages": {"s": stage}}, "here")


def test_a_factory_gets_what_it_asks_for(factories):
    config = quick({"factory": f"{factories}:body", "options": {"width": 5}})
    student = build_stage(config, "s", RunContext(trust=True)).models.students["student"]
    assert [layer.out_features for layer in student if hasattr(layer, "out_features")] == [5, 10]


@pytest.mark.parametrize(
    ("name", "trust", "sentence"),
    [
        ("body", False, "imports and runs your code: allow it with trust=True, or --trust."),
        ("bodi", True, "The factory 'my_factories:bodi' is not there. Did you mean 'body'"),
        ("number", True, "must be callable, got int."),
        ("nothing", True, "must return a torch module, got int."),
    ],
)
def test_factories_that_cannot_be_used(factories, name, trust, sentence):
    with pytest.raises(ValueError) as caught:
        build_stage(quick({"factory": f"{factories}:{name}"}), "s", RunContext(trust=trust))
    assert sentence in str(caught.value)


def test_a_factory_in_no_module():
    with pytest.raises(ValueError, match="cannot be imported: No module named 'no_such'"):
        build_stage(quick({"factory": "no_such:f"}), "s", RunContext(trust=True))


def test_class_counts_that_differ_are_the_distillers_sentence(factories):
    config = quick({"model": "resnet8"}, {"factory": f"{factories}:wide"}, ["kd"])
    with pytest.raises(ValueError, match=r"'kd' does not fit.*\[2, 10\].*\[2, 12\]"):
        build_stage(config, "s", RunContext(trust=True))


def test_students_of_unlabelled_data_get_the_teachers_classes(factories):
    config = quick({"model": "resnet8"}, {"factory": f"{factories}:wide"}, ["kd"])
    splits = load_splits(config.data)
    from dataclasses import replace

    bare = type(splits)(*(replace(part, labels=None, classes=None) for part in splits))
    built = build_stage(config, "s", RunContext(splits=bare, trust=True))
    assert built.models.students["student"].fc.out_features == 12
    with pytest.raises(ValueError, match="The data has no classes: say how many"):
        build_stage(quick({"model": "resnet8"}), "s", RunContext(splits=bare))
    embeds = quick({"model": "resnet8"}, {"factory": f"{factories}:wide"}, ["pkt"])
    with pytest.raises(ValueError, match="The data has no classes: say how many"):  # a head that nobody would train
        build_stage(embeds, "s", RunContext(splits=bare, trust=True))
    with pytest.raises(ValueError, match=r"The term 'ce' needs labels, the data 'digits' has none\."):
        build_stage(quick({"model": "resnet8", "options": {"classes": 3}}), "s", RunContext(splits=bare))


def test_a_trained_teacher_keeps_its_own_classes(tmp_path):
    save_weights(build("resnet14", classes=7, in_channels=1).state_dict(), tmp_path / "t.safetensors")
    config = quick({"model": "resnet8"}, {"model": "resnet14", "weights": str(tmp_path / "t.safetensors")}, ["pkt"])
    built = build_stage(config, "s", RunContext())
    assert (built.models.teacher.fc.out_features, built.models.students["student"].fc.out_features) == (7, 10)


def test_the_loaders_make_the_views_that_the_terms_compare():
    teacher = build_stage(tiny("digits/intra_class"), "teacher", RunContext())
    student = build_stage(tiny("digits/intra_class"), "student", RunContext())
    assert teacher.train_loader.views == teacher.val_loader.views == ("main", "clean")
    assert student.train_loader.views == student.val_loader.views == ("main",)
    batch = next(iter(teacher.train_loader))
    assert torch.equal(batch["inputs"], batch["views"]["main"])
    assert not torch.equal(batch["views"]["clean"], batch["views"]["main"])
    assert torch.equal(batch["views"]["clean"], teacher.train_loader.dataset.batch(batch["index"]))
    batch = next(iter(teacher.val_loader))
    assert torch.equal(batch["views"]["clean"], batch["views"]["main"])

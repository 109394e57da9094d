"""Photographs in files, as a configuration asks for them."""

from pathlib import Path

import pytest
import torch
from _harness import layouts
from _harness.configs import quick
from pydantic import ValidationError

from congruence.config import ConfigError, load_config
from congruence.config.tables import ModelConfig
from congruence.config.training import TrainConfig
from congruence.data import Augment, FileDataset, PhotoAugment, load, loader, read_reid
from congruence.evaluation.embed import embed
from congruence.evaluation.measure import measure
from congruence.metrics import reid_evaluate
from congruence.models import build, save_weights
from congruence.pipeline import RunContext, build_stage, load_splits, run

STAGES = """
[stages.teacher.student]
model = "resnet8"
[[stages.teacher.terms]]
key = "ce"
[stages.teacher.train]
epochs = 1
augment = { rotation = 30.0 }
workers = 2

[stages.student]
teacher = "teacher"
teacher_head = { width = 5 }
student = { model = "resnet8", options = { embedding_dim = 5 } }
train = { epochs = 1, augment = { crop = "resized" }, sampler = { name = "class_uniform", k = 4 } }
[[stages.student.terms]]
key = "cckd"
[[stages.student.terms]]
key = "kd"
"""
DATA = """
[data]
name = "image-folder"
root = "{root}"
size = 16
resize = [20, 18]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def write(tmp_path, data=DATA, stages=STAGES):
    path = tmp_path / "run.toml"
    path.write_text(data.replace("{root}", str(tmp_path / "photographs")) + stages)
    return path


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_stream_trains_and_teaches(tmp_path):
    layouts.write_classes(tmp_path / "photographs", {"a": 12, "b": 12, "c": 12}, size=(20, 24))
    config = load_config(write(tmp_path), quick(("teacher", "student")))
    splits = load_splits(config.data)
    assert isinstance(splits.train, FileDataset)
    assert (splits.train.resize, splits.train.mean) == ((20, 18), (0.5, 0.5, 0.5))
    finished = run(config, tmp_path / "out")
    assert [stage.result.steps for stage in finished.values()] == [2, 2]
    assert finished["student"].result.student_file.exists()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"rotation": 30.0}, PhotoAugment(rotation=30.0)),
        ({"crop": "resized", "area": [0.5, 1.0]}, PhotoAugment(crop="resized", area=(0.5, 1.0))),
        ({"sides": [256, 480], "flip": False}, PhotoAugment(sides=(256, 480), flip=False)),
        ({"pad": 2, "flip": False}, Augment(pad=2, flip=False)),
        ({"flip": False}, Augment(flip=False)),
        (True, True),
    ],
)
def test_one_key_with_three_meanings(table, expected):
    made = TrainConfig(epochs=1, augment=table)
    assert made.augmentation() == expected
    assert TrainConfig.model_validate(made.model_dump()) == made
    assert made.model_copy(update={"epochs": 2}).augmentation() == expected


def test_every_misfit_at_once(tmp_path):
    data = DATA.replace("std = [0.25, 0.25, 0.25]", "stream = false\nclasses = 0")
    stages = STAGES.replace("rotation = 30.0", "rotation = 300.0, rotate = 3")
    stages = stages.replace('crop = "resized"', 'crop = "resized", sides = [9, 8]')
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, data, stages))
    found = [line.partition("run.toml: ")[2] for line in error.value.lines]
    starts = {
        "data.classes: expected an integer >= 1, got 0.",
        "stages.teacher.train.augment.rotation: expected a number >= 0 and <= 180, got 300.0.",
        "stages.teacher.train.augment.rotate: expected one of crop, flip, rotation, sides, area, got 'rotate'. Did you",
        "stages.student.train.augment.sides: expected two integers >= 1, the smaller first, or None, got (9, 8).",
    }
    assert [start for start in starts if not any(line.startswith(start) for line in found)] == []
    assert len(found) == len(starts)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (DATA.replace("std", "#std"), "data.std: expected numbers too where `mean` is given."),
        (DATA.replace("mean", "#mean"), "data.mean: expected numbers too where `std` is given."),
        (DATA.replace("std = [0.25,", "std = [0.0,"), "data.std: expected numbers > 0, got [0.0, 0.25, 0.25]."),
        (DATA + "stream = false", "data.resize: expected none where `stream` is false, got (20, 18)."),
    ],
)
def test_data_that_does_not_fit_together(tmp_path, data, sentence):
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, data))
    assert [line.partition("run.toml: ")[2] for line in error.value.lines] == [sentence]


def test_a_student_starts_from_weights_of_other_classes(tmp_path):
    donor = build("resnet8", classes=7)
    save_weights(donor.state_dict(), tmp_path / "donor.safetensors")
    layouts.write_classes(tmp_path / "photographs", {"a": 12, "b": 12})
    config = load_config(write(tmp_path), [f'stages.teacher.student.start="{tmp_path}/donor.safetensors"'])
    student = build_stage(config, "teacher", RunContext()).models.students["student"]
    assert torch.equal(student.conv1.weight, donor.conv1.weight)
    assert student.fc.weight.shape[0] == 2
    alone = config.with_teacher(tmp_path / "trained.safetensors").stages["student"].teacher
    assert (alone.start, Path(alone.weights).name) == (None, "trained.safetensors")


def test_weights_and_a_start_are_not_both_given():
    with pytest.raises(ValidationError, match="expected none beside `weights`, got both"):
        ModelConfig(model="resnet8", weights="a.pt", start="b.pt")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_numbers_of_a_stream_are_those_of_an_array(tmp_path):
    layouts.write_classes(tmp_path, {"a": 8, "b": 8, "c": 8}, size=(20, 24))
    student, teacher = (build(name, classes=3).eval() for name in ("resnet8", "resnet14"))
    found = [
        measure(student, load(tmp_path, size=16, stream=stream), teacher=teacher).to_dict() for stream in (True, False)
    ]
    assert found[0] == found[1]
    assert found[0]["gpcl"] is not None


def test_superclasses_of_a_stream(tmp_path):
    layouts.write_classes(tmp_path / "photographs", {"a": 12, "b": 12, "c": 12}, size=(20, 24))
    sampler = 'stages.student.train.sampler={name="superclass_uniform", k=4, clusters=3}'
    config = load_config(write(tmp_path), [*quick(("teacher", "student")), sampler])
    splits = load_splits(config.data)
    built = build_stage(config, "student", RunContext(splits=splits))
    batches = built.train_loader.plan(0)
    assert len(batches) > 0
    assert all(len(batch) == 8 for batch in batches)


@pytest.mark.parametrize("name", ["market1501", "msmt17"])
def test_queries_of_strangers_have_features_and_no_accuracy(tmp_path, name):
    {"market1501": layouts.write_market1501, "msmt17": layouts.write_msmt17}[name](
        tmp_path, {1: 8, 2: 8} if name == "market1501" else {1: (8, 2), 2: (8, 2)}
    )
    data = read_reid(name, tmp_path, size=(16, 8))
    model = build("resnet8", classes=2).eval()
    features = [embed(model, loader(part, batch_size=2, shuffle=False)).features for part in (data.query, data.gallery)]
    ranked = reid_evaluate(*features, *data[3:], max_rank=2)
    assert 0 < ranked.map <= 1
    assert ranked.cmc.shape == (2,)
    told = [torch.nn.functional.one_hot(ids + 1, 9).float() for ids in (data.query_ids, data.gallery_ids)]
    assert reid_evaluate(*told, *data[3:], max_rank=2).map == 1
    measured = measure(model, data.splits, teacher=model)
    assert (measured.accuracy, measured.retrieval_map) == (None, None)
    assert measured.gpcl == pytest.approx(1.0)

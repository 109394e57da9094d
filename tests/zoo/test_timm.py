"""Real models of timm, with drawn weights, as teachers and students: `make zoo` runs this, in its own environment."""

import logging

import pytest
import torch

import congruence as cg
from congruence import pipeline
from congruence.config import from_values
from congruence.models import named

timm = pytest.importorskip("timm")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{each}") for each in ("DeprecationWarning", "FutureWarning")]
SMALL = {"num_classes": 10, "in_chans": 1, "img_size": 32}
VIT = {**SMALL, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
MODELS = {  # a name, its options, and the layer of its embedding
    "vit_tiny_patch16_224": (VIT, "input:head"),
    "resnet10t": ({"num_classes": 10, "in_chans": 1}, "input:fc"),
    "convnext_atto": (
        {"num_classes": 10, "in_chans": 1, "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
        "input:head.fc",
    ),
}
IMAGES = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_the_embedding_is_what_timm_calls_pre_logits(name):
    options, features = MODELS[name]
    model = named.load(f"timm:{name}", **options)
    taps = cg.models.Taps(model, name="teacher")
    taps.probe(IMAGES, training=False)
    assert taps.default("features") == features
    taps.require([features, taps.default("logits"), taps.default("tokens")])
    model.eval()
    with torch.no_grad():
        output, values = taps.read(IMAGES)
        expected = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(values[features].flatten(1), expected)
    torch.testing.assert_close(values[taps.default("logits")], output)
    assert values[taps.default("tokens")].shape[0] == len(IMAGES)


def test_a_models_settings_say_what_it_takes():
    taken = cg.models.input_of(named.load("timm:resnet10t"))
    settings = timm.create_model("resnet10t").pretrained_cfg
    assert (taken.mean, taken.std) == (tuple(settings["mean"]), tuple(settings["std"]))
    assert taken.size == tuple(settings["input_size"][1:])


def test_its_state_goes_back_into_timm(tmp_path):
    options, _ = MODELS["resnet10t"]
    model = named.load("timm:resnet10t", **options).eval()
    cg.models.save_native(model, tmp_path / "out")
    again = timm.create_model("resnet10t", checkpoint_path=str(tmp_path / "out" / "model.safetensors"), **options)
    torch.testing.assert_close(again.eval()(IMAGES), model(IMAGES))


def test_a_folder_that_timm_saved_is_a_model(tmp_path):
    options, _ = MODELS["resnet10t"]
    model = named.load("timm:resnet10t", **options).eval()
    timm.models.save_for_hf(model, str(tmp_path), model_args={"in_chans": 1})
    torch.testing.assert_close(named.load(f"timm:{tmp_path}").eval()(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        (
            {"model": "timm:vit_tiny_patch16_224", "options": {**VIT, "img_size": 8, "patch_size": 2}},
            {"model": "resnet8"},
        ),
        ({"model": "timm:resnet10t"}, {"model": "resnet8"}),
        ({"model": "resnet8"}, {"model": "timm:resnet10t"}),
    ],
)
def test_a_model_of_timm_teaches_one_of_the_zoo_and_the_other_way_round(tmp_path, teacher, student, caplog):
    stage = {
        "teacher": teacher,
        "student": student,
        "terms": [{"key": "kd"}, {"key": "pkt"}, {"key": "ce"}],
        "train": {"epochs": 1, "max_steps": 3, "batch_size": 16, "device": "cpu"},
    }
    data = {"name": "digits", "train_size": 64, "validation": 20, "test": 20}
    config = from_values({"name": "timm", "data": data, "stages": {"student": stage}}, "a test")
    with caplog.at_level(logging.WARNING, logger="congruence"):
        done = pipeline.run(config, tmp_path / "run")["student"]
    images = done.splits.test.batch(range(4))
    torch.testing.assert_close(cg.load_student(tmp_path / "run")(images), done.student(images))
    if student["model"].startswith("timm:"):
        assert (tmp_path / "run" / "student-timm" / "model.safetensors").is_file()


def test_an_unknown_name_is_said_in_one_sentence():
    with pytest.raises(ValueError, match=r"^The model 'timm:resnet11' cannot be loaded by timm: .*"):
        named.load("timm:resnet11")

"""timm's models, by a stand-in for it: it needs torchvision, which does not import beside every torch.

`make zoo` tries real ones.
"""

import logging
import sys
import types

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.models import named
from congruence.models.inputs import ImageInput


class Model(nn.Module):
    """A model as timm makes them: a body, a pooling, a head, and its settings."""

    def __init__(self, num_classes=1000, in_chans=3):
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (3, 32, 24),
            "mean": (0.4, 0.5, 0.6),
            "std": (0.1, 0.2, 0.3),
            "interpolation": "bicubic",
            "crop_pct": 0.875,
        }
        self.conv = nn.Conv2d(in_chans, 6, 3, padding=1)
        self.head = nn.Linear(6, num_classes)

    def forward_features(self, x):
        return self.conv(x).relu()

    def forward_head(self, x, pre_logits=False):
        x = x.mean((2, 3))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.fixture
def timm(monkeypatch):
    made = []

    def create_model(name, pretrained=False, **options):
        made.append((name, pretrained, options))
        if name.startswith("resnet"):
            return Model(**options)
        raise RuntimeError(f"Unknown model ({name})")

    fake = types.ModuleType("timm")
    fake.create_model, fake.made = create_model, made
    monkeypatch.setattr(Model, "__module__", "timm.models.fake")
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


def test_a_name_with_a_tag_has_its_weights_and_one_without_is_drawn(timm, caplog):
    with caplog.at_level(logging.INFO, logger="congruence"):
        assert named.load("timm:resnet18", num_classes=4).head.out_features == 4
        named.load("timm:resnet18.a1_in1k")
    assert timm.made == [("resnet18", False, {"num_classes": 4}), ("resnet18.a1_in1k", True, {})]
    assert caplog.text.count("is randomly initialised") == 1


def test_a_folder_is_read_where_it_lies(timm, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown model \(local-dir:"):
        named.load(f"timm:{tmp_path}")
    assert timm.made == [(f"local-dir:{tmp_path}", True, {})]


def test_its_settings_say_what_it_takes(timm):
    model = named.load("timm:resnet18")
    expected = ImageInput(mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), size=(32, 24), interpolation="bicubic")
    assert cg.models.input_of(model) == expected


def test_the_embedding_is_the_row_before_the_logits(timm):
    model = named.load("timm:resnet18", num_classes=4).eval()
    images = torch.randn(2, 3, 8, 8)
    taps = cg.models.Taps(model, name="teacher")
    taps.probe(images, training=False)
    taps.require([taps.default("features"), taps.default("logits")])
    _, values = taps.read(images)
    assert torch.equal(values["input:head"], model.forward_head(model.forward_features(images), pre_logits=True))
    assert torch.equal(values["head"], model(images))


def test_its_state_is_saved_for_timm(timm, tmp_path):
    model = named.load("timm:resnet18", num_classes=4)
    cg.models.save_native(model, tmp_path / "out")
    other = named.load("timm:resnet18", num_classes=4)
    cg.models.load_into(other, cg.models.load_weights(tmp_path / "out" / "model.safetensors"), source="the folder")
    assert torch.equal(other.head.weight, model.head.weight)


def test_an_unknown_name_and_an_absent_library_are_said_in_one_sentence(timm, monkeypatch):
    with pytest.raises(ValueError, match=r"^The model 'timm:wresnet' cannot be loaded by timm: .*Unknown model"):
        named.load("timm:wresnet")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm, .*: pip install 'congruence\[zoo\]'"):
        named.load("timm:resnet18")


def test_a_torchvision_of_another_torch_is_told(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "timm":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ValueError, match=r"cannot be imported .*operator torchvision::nms does not exist"):
        named.load("timm:resnet18")

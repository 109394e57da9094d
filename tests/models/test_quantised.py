"""Quantised teachers, torchao's int8 and torch's own: read by hooks, told apart by their content, left as they are."""

import copy
import logging
import warnings

import pytest
import torch
from torch import nn

from congruence import Distiller, FitOptions, TeacherCache, compare, data, fit
from congruence.models import Teacher, save_weights
from congruence.models.parameters import is_quantized
from congruence.models.weights import not_writable

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
DATASET = data.ArrayDataset(IMAGES, torch.arange(40) % 3, classes=3, mean=[0.5], std=[0.5])
X = DATASET.batch([0, 1, 2, 3])


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)
    ).eval()


def int8(name):
    def made(model):
        ao = pytest.importorskip("torchao.quantization")
        ao.quantize_(model, getattr(ao, name)())
        return model

    return made


KINDS = {
    "weights": int8("Int8WeightOnlyConfig"),
    "dynamic": int8("Int8DynamicActivationInt8WeightConfig"),
    "torch.ao": lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}),
}


@pytest.fixture(params=list(KINDS))
def made(request):
    return KINDS[request.param]


def student():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def test_its_content_tells_it_from_others(made):
    first, again, other = (Teacher(made(net(seed))).fingerprint() for seed in (0, 0, 1))
    assert not first.unreadable
    assert first == again == Teacher(copy.deepcopy(made(net()))).fingerprint()
    assert first.content != other.content
    assert first.structure == other.structure
    plain = Teacher(net()).fingerprint()
    assert first.content != plain.content


def test_it_teaches_by_its_layers_and_is_left_as_it_is(made, caplog):
    teacher = made(net())
    assert is_quantized(teacher)
    assert not is_quantized(net())
    distiller = Distiller(teacher, student(), ["kd", "pkt"], example=X)
    assert "teacher features 'input:5' [4, 24]" in distiller.describe_layers()["pkt"]
    loader = data.loader(DATASET, batch_size=20, seed=1)
    with caplog.at_level(logging.INFO, logger="congruence"):
        fit(distiller, loader, None, FitOptions(epochs=1, device="cpu"))
    assert distiller.teacher.prepared is None
    assert "The teacher is not run" not in caplog.text
    assert "no gradient" not in caplog.text
    report = compare(teacher, distiller.student, loader)
    assert report.samples == 40
    assert not torch.equal(teacher(X), net()(X))


def test_its_answers_are_cached_and_told_where_mates_matter(made, tmp_path, caplog):
    teacher, loader = made(net()), data.loader(DATASET, batch_size=20, seed=1)
    cache = TeacherCache(teacher, loader, tmp_path, dtype="float32")
    x, labels, index = next(iter(loader))
    losses = [
        float(Distiller(each, student(), ["kd", "pkt"], example=X).train()(x, labels, index).loss.detach())
        for each in (teacher, cache)
    ]
    mates = "depends on the other samples in its batch" in caplog.text
    assert mates == (made is KINDS["torch.ao"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05 if mates else 1e-5)
    again = TeacherCache(made(net()), loader, tmp_path, dtype="float32")
    Distiller(again, student(), ["kd", "pkt"], example=X).train()(x, labels, index)
    other = Distiller(TeacherCache(made(net(1)), loader, tmp_path, dtype="float32"), student(), ["kd"], example=X)
    with pytest.raises(ValueError, match="teacher"):
        other.train()(x, labels, index)


def test_what_safetensors_cannot_hold_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    assert not_writable({"a": torch.ones(2), "w": weight}) == "'w' (Tensor)"
    with pytest.raises(ValueError, match=r"`state_dict` must be plain tensors, .*, got Tensor at 'w'"):
        save_weights({"w": weight}, tmp_path / "w.safetensors")
    part = KINDS["weights"](nn.Sequential(nn.Linear(8, 8))).requires_grad_(False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), part, nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"got Int8Tensor at '2\.0\.weight'"):
        save_weights(model.state_dict(), tmp_path / "w.safetensors")
    distiller = Distiller(net(), model, ["kd"], example=X)
    options = FitOptions(epochs=1, device="cpu", out=tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"`out` must be left out where the student is quantised, since '2\.0\.weight'"
    ):
        fit(distiller, data.loader(DATASET, batch_size=20), None, options)
    fit(distiller, data.loader(DATASET, batch_size=20), None, FitOptions(epochs=1, device="cpu"))

"""`cg.export`: what is written, that it is compared, and what is refused."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _harness.configs import pictures
from _harness.encoders import THIRD_PARTY, save_processor, save_sentences, texts
from torch import nn

import congruence as cg
from congruence.data.datasets.model_facts import ModelFacts
from congruence.evaluation.exporting import formats
from congruence.evaluation.exporting.sameness import Samples, compare_runs
from congruence.models import build, named, save_weights
from congruence.pipeline import export as exporting
from congruence.pipeline.student import write_students
from congruence.training.saving.run_directory import RunDirectory

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]
CLEAN = Path(__file__).with_name("clean_onnx.py")


def net(width=5, out=3):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, out))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of `fit` whose term `mimic` has a trained map from width 5 to 8."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    inputs, labels = torch.randn(16, 6), torch.arange(16) % 3
    distiller = cg.Distiller(net(8), net(), ["ce", "mimic"], example=inputs[:2])
    options = cg.FitOptions(epochs=2, out=folder, device="cpu")
    cg.fit(distiller, [(inputs, labels)], options=options)
    return folder, distiller


def test_a_run_as_a_program_of_torch(run_dir, tmp_path, caplog):
    folder, distiller = run_dir
    with caplog.at_level(logging.WARNING):
        done = cg.export(
            folder, tmp_path / "out", to="torch-export", factory=net, projection="mimic", teacher_license="mit"
        )
    assert "compared on random inputs" in caplog.text
    assert done.files == ("student.pt2", "model.json", "README.md")
    assert done.outputs == ("logits", "features")
    program = torch.export.load(str(done.file)).module()
    student, x = cg.load_student(folder, net), torch.randn(5, 6)
    logits, features = program(x)
    torch.testing.assert_close(logits, student(x))
    torch.testing.assert_close(features, distiller.methods["mimic"].projectors[0](student[:2](x)))
    said = json.loads((tmp_path / "out" / "model.json").read_text())
    assert said["export"]["outputs"][1] == {"name": "features", "dtype": "float32", "shape": ["batch", 8]}
    assert said["export"]["check"]["batch_sizes"] == [1, 2, 7, 64]
    assert ModelFacts.from_dict(said).shape == (6,)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| mimic | 1.0 | - |" in card
    assert "Its teacher: mit." in card


def test_a_map_is_taken_of_the_student_that_is_exported_alone(run_dir, tmp_path):
    folder, _ = run_dir
    with pytest.raises(ValueError, match=r"has no term 'mimc', only ce, mimic. Did you mean 'mimic'"):
        cg.export(folder, tmp_path / "a", to="torch-export", factory=net, projection="mimc")
    with pytest.raises(ValueError, match=r"The term 'ce' has trained no linear map from the student's embedding"):
        cg.export(folder, tmp_path / "a", to="torch-export", factory=net, projection="ce")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("run.json", "student.safetensors", "model.json"):
        (moved / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="has no checkpoints any more"):
        cg.export(moved, tmp_path / "a", to="torch-export", factory=net, projection="mimic")
    (moved / "checkpoints").mkdir()
    for path in (folder / "checkpoints").iterdir():
        (moved / "checkpoints" / path.name).write_bytes(path.read_bytes())
    save_weights(net().state_dict(), moved / "student.safetensors")
    with pytest.raises(ValueError, match=r"No checkpoint left in .* is of the student that is exported"):
        cg.export(moved, tmp_path / "a", to="torch-export", factory=net, projection="mimic")
    assert not (tmp_path / "a").exists()


def test_safetensors(run_dir, tmp_path):
    done = cg.export(run_dir[0], tmp_path / "out", to="safetensors", factory=net)
    other = net()
    other.load_state_dict(cg.models.load_weights(done.file))
    x = torch.randn(2, 6)
    assert torch.equal(other(x), cg.load_student(run_dir[0], net)(x))


def test_a_folder_of_other_files_is_left_alone(run_dir, tmp_path):
    out = tmp_path / "out"
    cg.export(net(), out, to="safetensors")
    with pytest.raises(ValueError, match=r"holds files already \(README.md, model.json, student.safetensors\)"):
        cg.export(net(), out, to="safetensors")
    (out / "notes.txt").write_text("mine")
    model = net()
    cg.export(model, out, to="safetensors", overwrite=True)
    assert torch.equal(cg.models.load_weights(out / "student.safetensors")["0.weight"], model[0].weight)
    assert (out / "notes.txt").read_text() == "mine"
    said = json.loads((out / "model.json").read_text())
    said["export"]["files"] += ["..", "../../out", 3]
    (out / "model.json").write_text(json.dumps(said))
    cg.export(model, out, to="safetensors", overwrite=True)
    assert (out / "notes.txt").exists()
    (out / "model.json").unlink()
    with pytest.raises(ValueError, match="holds files that are no export"):
        cg.export(net(), out, to="safetensors", overwrite=True)


def test_what_differs_leaves_nothing(tmp_path, monkeypatch):
    right = formats.run_program

    def off(path, graph):
        run = right(path, graph)
        return lambda inputs: {name: value + 1e-3 for name, value in run(inputs).items()}

    monkeypatch.setattr(exporting.formats, "run_program", off)
    with pytest.raises(ValueError, match=r"does not give the model's outputs: .* up to 0.001 in logits, and 0.0001 is"):
        cg.export(net(), tmp_path / "out", to="torch-export", example=torch.randn(4, 6))
    assert not list(tmp_path.iterdir())


def test_accuracy_counts_each_sample_once():
    labels = torch.arange(80) % 3
    right, wrong = torch.eye(3)[labels], torch.eye(3)[labels]
    wrong[:8] = wrong[:8].roll(1, 1)
    samples = Samples("the test data", 80, lambda at: at, labels)
    found, alike = compare_runs(lambda at: {"logits": right[at]}, lambda at: {"logits": wrong[at]}, samples)
    assert not alike
    assert (found.accuracy, found.exported_accuracy, found.agreement) == (1.0, 0.9, 0.9)


def test_small_scores_must_give_the_same_class():
    scores = torch.eye(3)[torch.arange(12) % 3] * 1e-6
    samples = Samples.of_batch("the example", torch.arange(12))
    assert compare_runs(lambda at: {"logits": scores[at]}, lambda at: {"logits": scores[at]}, samples)[1]
    assert not compare_runs(lambda at: {"logits": scores[at]}, lambda at: {"logits": scores[at].flip(1)}, samples)[1]
    assert compare_runs(lambda at: {"features": scores[at]}, lambda at: {"features": scores[at].flip(1)}, samples)[1]


def test_nan_in_a_file_is_a_difference():
    samples = Samples.of_batch("the example", torch.ones(3, 2))
    found, alike = compare_runs(lambda x: {"logits": x}, lambda x: {"logits": x * float("nan")}, samples)
    assert not alike
    assert found.largest_difference["logits"] == float("inf")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"to": "onx"}, "`export`: `to` must be one of onnx, torch-export, .* got 'onx'. Did you mean 'onnx'"),
        ({"to": "hf"}, r"The model is no model of transformers \(Sequential\)"),
        ({"to": "torch-export"}, "What the model takes is not known: give a batch"),
        ({"to": "safetensors", "features": True}, "`to` must be one of onnx, torch-export with features"),
        ({"to": "safetensors", "int8": True}, "`int8` must be left out unless to='onnx'"),
        ({"to": "torch-export", "example": torch.ones(2, 6), "layer": "9"}, "has no layer '9'"),
        ({"to": "torch-export", "example": torch.ones(2, 7)}, "forward on the example"),
        ({"to": "torch-export", "projection": "mimic"}, "`projection` must be a module, unless a run"),
        ({"to": "safetensors", "out": None}, "`out` must be a folder, for a module"),
    ],
)
def test_what_cannot_be_exported(arguments, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        cg.export(net(), **{"out": tmp_path / "out", **arguments})


@pytest.mark.parametrize("what", ["absent", "empty", "unfinished"])
def test_a_folder_without_a_student(what, tmp_path):
    folder = tmp_path / what
    sentence = {"absent": "is no run's folder", "empty": "holds no run", "unfinished": "has its run finished an epoch"}
    if what != "absent":
        folder.mkdir()
    if what == "unfinished":
        (folder / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=sentence[what]):
        cg.export(folder, to="safetensors")


def test_a_fixed_batch_is_a_sentence(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x.reshape(2, 6))

    with pytest.raises(ValueError, match=r"cannot be exported by torch.export: "):
        cg.export(Fixed(), tmp_path / "out", to="torch-export", example=torch.randn(2, 6))


def vit(channels=1):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=channels)).eval()


def test_the_folder_of_transformers(tmp_path):
    from transformers import ViTForImageClassification

    model = vit()
    done = cg.export(model, tmp_path / "out", to="hf")
    assert done.check is None, "there is nothing to compare on"
    assert done.files == ("model.safetensors", "config.json", "model.json", "README.md")
    again, x = ViTForImageClassification.from_pretrained(tmp_path / "out"), torch.randn(2, 1, 8, 8)
    assert torch.equal(again(x).logits, model(x).logits)
    assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_of_a_library_is_loaded_by_it_and_compared(tmp_path):
    done = cg.export(vit().bfloat16(), tmp_path / "out", to="hf", example=torch.randn(9, 1, 8, 8))
    assert (done.check.largest_difference, done.check.agreement, done.check.samples) == ({"logits": 0.0}, 1.0, 9)
    assert "on 9 samples of the example" in (tmp_path / "out" / "README.md").read_text()


def test_what_a_folder_of_transformers_cannot_say_is_refused(tmp_path):
    """The weights are those of the configuration, and what is done with them is not."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = vit()
    model.classifier = Doubled(8, 2)
    with pytest.raises(ValueError, match=r"does not give the model's outputs: on 4 samples .* in logits"):
        cg.export(model, tmp_path / "out", to="hf", example=torch.randn(4, 1, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_sentence_transformers_is_compared_too(tmp_path):
    save_sentences(tmp_path)
    student = named.load(f"st:{tmp_path / 'st'}").eval()
    done = cg.export(student, tmp_path / "out", to="st", example=texts(8))
    assert (done.check.largest_difference, done.check.samples) == ({"features": 0.0}, 8)


def test_data_reach_a_model_of_another_library_as_it_takes_them(tmp_path):
    """Data as they come from `load`: texts without tokens, images of another size than the model's."""
    save_sentences(tmp_path)
    words = cg.data.TextDataset(["the world", "a small model", "the model sees"] * 2)
    done = cg.export(named.load(f"st:{tmp_path / 'st'}"), tmp_path / "st-out", to="st", data=words)
    assert (done.check.on, done.check.samples, done.check.largest_difference) == ("the test data", 6, {"features": 0.0})
    vit(channels=3).save_pretrained(tmp_path / "vit")
    save_processor(tmp_path / "vit", image_mean=[0.5] * 3, image_std=[0.2] * 3, size={"height": 8, "width": 8})
    images = pictures(6, 0, side=12)
    done = cg.export(named.load(f"hf:{tmp_path / 'vit'}"), tmp_path / "hf-out", to="hf", data=images)
    assert (done.check.samples, done.check.largest_difference) == (6, {"logits": 0.0})


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_model_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(6, 3))
    model.register_buffer("codes", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    with pytest.raises(ValueError, match=r"A quantised model \(Sequential\) cannot be exported"):
        cg.export(model, tmp_path / "out", to="torch-export", example=torch.randn(2, 6))


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"needs onnx, which is not there: pip install 'congruence\[export\]'"):
        cg.export(net(), tmp_path / "out", example=torch.randn(2, 6))


# With onnxruntime


def digits_run(tmp_path):
    """A student of digits in a run's folder, with a configuration and test numbers."""
    torch.manual_seed(0)
    splits, options = cg.data.load("digits"), {"classes": 10, "in_channels": 1}
    model = build("cnn3", **options).eval()
    facts = ModelFacts.of(splits.train)
    directory = RunDirectory(tmp_path / "run", writes=True)
    directory.save_student("student", model.state_dict(), facts=facts)
    write_students(directory, {"student": {"model": "cnn3", "factory": None, "options": options}})
    directory.config.write_text(
        'name = "x"\n[data]\nname = "digits"\n[stages.student.student]\nmodel = "cnn3"\n'
        '[[stages.student.terms]]\nkey = "ce"\n[stages.student.train]\nepochs = 1\n'
    )
    return directory.path, splits, model


def test_onnx_in_a_clean_process_gives_the_accuracy_of_the_run(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import numpy as np

    folder, splits, model = digits_run(tmp_path)
    done = cg.export(folder, features=True, int8=True)
    assert done.files == ("student.onnx", "student.int8.onnx", "model.json", "README.md")
    assert done.check.agreement == 1.0
    assert done.check.samples == len(splits.test)
    assert max(done.check.largest_difference.values()) < 1e-4
    assert done.int8.agreement > 0.8
    assert done.int8.how == "static: calibrated on 256 training samples"
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "student.onnx").write_bytes(done.file.read_bytes())  # nothing beside it but what says how to use it
    (alone / "model.json").write_bytes((done.folder / "model.json").read_bytes())
    images = splits.test.raw(range(len(splits.test))).numpy()
    np.savez(alone / "test.npz", images=images, labels=splits.test.labels.numpy())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    told = subprocess.run(
        [sys.executable, str(CLEAN), str(alone)], capture_output=True, text=True, check=True, env=environment
    )
    expected = cg.evaluation.measure(model, splits).accuracy
    assert float(told.stdout) == pytest.approx(expected, abs=1e-9)


def test_inputs_by_name_in_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, input_ids, attention_mask):
            real = attention_mask.unsqueeze(2).float()
            return {"logits": self.fc((self.words(input_ids) * real).sum(1) / real.sum(1))}

    example = {"input_ids": torch.randint(9, (6, 5)), "attention_mask": torch.ones(6, 5, dtype=torch.int64)}
    done = cg.export(Words(), tmp_path / "out", example=example, features=True)
    said = json.loads((tmp_path / "out" / "model.json").read_text())["export"]
    assert [each["name"] for each in said["inputs"]] == ["input_ids", "attention_mask"]
    assert done.outputs == ("logits", "features")

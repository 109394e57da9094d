"""Models of other libraries in configurations and commands: built, trained, saved as theirs, and found again."""

import json
import shutil

import pytest
import torch
from _harness.encoders import THIRD_PARTY, WORDS, imported, of_images, save_bert, save_sentences
from typer.testing import CliRunner

import congruence as cg
from congruence import pipeline
from congruence.cli.main import app
from congruence.config import from_values
from congruence.pipeline.models import describe_model, rebuild

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]
DIGITS = {"num_channels": 1, "image_size": 8, "patch_size": 4, "num_hidden_layers": 1}
DATA = {"name": "digits", "train_size": 64, "validation": 20, "test": 20}


def save_vit(folder, seed=0, **more):
    of_images("ViTForImageClassification", seed, **DIGITS, num_labels=10, **more).save_pretrained(folder)


def values(teacher, student, **options):
    return {
        "name": "vit",
        "data": DATA,
        "stages": {
            "student": {
                "teacher": {"model": teacher},
                "student": {"model": student, **({"options": options} if options else {})},
                "terms": [{"key": "kd"}, {"key": "ce"}],
                "train": {"epochs": 1, "max_steps": 2, "batch_size": 8, "device": "cpu"},
            }
        },
    }


def test_a_run_of_a_folder_leaves_a_folder_of_the_same_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_vit("teacher", seed=1)
    save_vit("base")
    config = from_values(values("hf:teacher", "hf:base"), "a test")
    stage = config.stages["student"]
    assert stage.teacher.model == f"hf:{tmp_path / 'teacher'}"  # it is found from anywhere
    done = pipeline.run(config, "run")["student"]
    loaded = imported("transformers").AutoModelForImageClassification.from_pretrained("run/student-hf")
    images = done.splits.test.batch(range(4))
    torch.testing.assert_close(loaded(images).logits, done.student(images).logits)
    described = json.loads((tmp_path / "run" / "students.json").read_text())["student"]
    assert rebuild(described)(images).logits.shape == (4, 10)
    shutil.move("run", "elsewhere")
    shutil.rmtree("base")  # the run has all that its student needs
    again = cg.load_student("elsewhere")
    torch.testing.assert_close(again(images).logits, done.student(images).logits)


def test_options_change_a_folders_config_and_another_stages_weights_come_into_it(tmp_path):
    save_vit(tmp_path / "base")
    config = from_values(values(f"hf:{tmp_path / 'base'}", f"hf:{tmp_path / 'base'}", num_labels=4), "a test")
    with pytest.raises(ValueError, match=r"cannot be loaded by transformers|differ"):  # its head has 10 classes
        pipeline.run(config, tmp_path / "run")
    model = describe_model(config.stages["student"].student, classes=10, in_channels=1)
    assert model == {"model": f"hf:{tmp_path / 'base'}", "factory": None, "options": {"num_labels": 4}}


def test_what_a_folder_says_is_not_said_again():
    for name, options in (("st:folder", {"max_seq_length": 3}), ("onnx:teacher.onnx", {"size": 3})):
        with pytest.raises(ValueError, match=r"options.*expected none beside"):
            from_values(values(name, name, **options), "a test")


def test_a_timm_name_without_weights_has_the_datas_classes_and_channels():
    config = from_values(values("timm:resnet18.a1_in1k", "timm:resnet18", drop_rate=0.1), "a test")
    stage = config.stages["student"]
    student = describe_model(stage.student, classes=10, in_channels=1)
    assert student["options"] == {"num_classes": 10, "in_chans": 1, "drop_rate": 0.1}
    assert describe_model(stage.teacher, classes=10, in_channels=1)["options"] == {}
    with pytest.raises(ValueError, match=r"no classes: .* options = \{ num_classes = 10 \}"):
        describe_model(stage.student, classes=None, in_channels=1)


def test_a_sentence_encoder_teaches_a_text_model_each_with_its_own_tokenizer(tmp_path):
    imported("sentence_transformers")
    save_sentences(tmp_path)
    save_bert(tmp_path / "base", num_hidden_layers=1, seed=3)
    lines = [" ".join(WORDS[4 + (n * k) % 6] for k in range(1, 3 + n % 4)) for n in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf8")
    given = values(f"st:{tmp_path / 'st'}", f"hf:{tmp_path / 'base'}")
    given["data"] = {"name": str(tmp_path / "texts.txt"), "validation": 8, "test": 8}
    given["stages"]["student"]["terms"] = [{"key": "pkt"}]
    done = pipeline.run(from_values(given, "a test"), tmp_path / "run")["student"]
    lengths = {name: taken.max_length for name, taken in done.splits.train.inputs.items()}
    assert (lengths["teacher"], lengths["student"]) == (8, 9)
    tokenizer = imported("transformers").AutoTokenizer.from_pretrained(tmp_path / "run" / "student-hf")
    assert tokenizer("the world")["input_ids"] == [2, 8, 9, 3]


def test_the_command_takes_folders(tmp_path):
    save_vit(tmp_path / "teacher", seed=1)
    save_vit(tmp_path / "base")
    arguments = ["--teacher", f"hf:{tmp_path / 'teacher'}", "--student", f"hf:{tmp_path / 'base'}", "--data", "digits"]
    few = ["data.train_size=64", "data.validation=20", "data.test=20"]
    few += [f"stages.student.train.{key}" for key in ("epochs=1", "max_steps=2", 'device="cpu"')]
    overrides = [part for each in few for part in ("--set", each)]
    done = CliRunner().invoke(app, ["distill", *arguments, *overrides, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "student-hf" / "config.json").is_file()
    assert "No --teacher-weights" not in done.output


def test_an_absent_folder_is_said_in_one_sentence(tmp_path):
    config = from_values(values(f"hf:{tmp_path / 'absent'}", "resnet8"), "a test")
    with pytest.raises(ValueError, match=r"There is no folder '.*absent' for the model 'hf:"):
        pipeline.run(config, tmp_path / "run")

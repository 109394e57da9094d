"""Small sentence encoders from end to end: by name in a configuration, trained, loaded, and by another library."""

import json

import pytest
import torch
from _harness.encoders import THIRD_PARTY, imported, save_sentences
from typer.testing import CliRunner

import congruence as cg
from congruence import pipeline
from congruence.bench.identity import settings
from congruence.bench.named_models import told
from congruence.cli.main import app
from congruence.config import from_values
from congruence.config.tables import ModelConfig
from congruence.evaluation.measure import measure
from congruence.pipeline import quick

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]
NOUNS, VERBS = ("the cat", "a dog", "my sister", "the moon"), ("sees", "likes", "paints", "a small", "the world")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("texts")
    save_sentences(made)
    texts = [f"{one} {verb} {two}" for one in NOUNS for verb in VERBS for two in NOUNS]
    (made / "texts.txt").write_text("\n".join(texts) + "\n")
    return made


def config(place, student, **term):
    values = {
        "name": "texts",
        "data": {"name": str(place / "texts.txt"), "test": 16, "validation": 8},
        "protocol": {"kind": "fidelity", "k": 3, "dims": [4]},
        "stages": {
            "student": {
                "teacher": {"model": f"st:{place / 'st'}"},
                "student": student,
                "terms": [{"key": "mimic"}, {"key": "pkt", "weight": "balanced", **term}],
                "train": {"epochs": 2, "batch_size": 16, "device": "cpu", "optimizer": {"name": "adamw", "lr": 0.01}},
            }
        },
    }
    return from_values(values, "a test")


def test_the_quick_command_takes_a_method_of_embeddings_for_encoders(place, tmp_path):
    student = ["--student", "text:static", "--set", "stages.student.student.options={width=8, vocabulary=40}"]
    words = ["--teacher", f"st:{place / 'st'}", *student, "--data", str(place / "texts.txt"), "--epochs", "1"]
    done = CliRunner().invoke(app, ["distill", *words, "--no-report", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    expected = f"The teacher's output is an embedding, not class scores: the method is {quick.RELATIONAL}"
    assert expected in " ".join(done.stderr.split())
    kd = CliRunner().invoke(app, ["distill", *words, "--method", "kd", "--out", str(tmp_path / "kd")])
    assert kd.exit_code != 0
    assert "no default layer for 'logits'" in " ".join(kd.stderr.split())


@pytest.mark.parametrize(
    "student",
    [
        {"model": "text:static", "options": {"width": 8, "vocabulary": 40}},
        {"model": "text:transformer", "options": {"width": 8, "heads": 2, "layers": 1, "vocabulary": 40}},
    ],
    ids=["static", "transformer"],
)
def test_a_run_without_labels(place, student, tmp_path):
    done = pipeline.run(config(place, student, dims=[4, 8]), tmp_path / "run")["student"]
    texts = done.splits.test.selected_texts()
    taken = done.splits.test.model_input("student")
    with torch.no_grad():
        embedded = done.student(**taken(texts))
        again = cg.load_student(tmp_path / "run")
        torch.testing.assert_close(again(**cg.models.input_of(again)(texts)), embedded)
    numbers = measure(done.student, done.splits, teacher=done.teacher, protocol=done.protocol)
    assert 0 <= numbers.neighbour_overlap_3 <= 1
    assert numbers.gpcl_at_4 is not None
    assert embedded.shape == (16, 8)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tmp_path / "run" / "student-st"), device="cpu")
    torch.testing.assert_close(model.encode(texts, convert_to_tensor=True), embedded)


def test_the_command(place, tmp_path):
    out = tmp_path / "run"
    words = ["distill", "--teacher", f"st:{place / 'st'}", "--student", "text:static", "--method", "score_distill"]
    words += ["--data", str(place / "texts.txt"), "--out", str(out), "--epochs", "1"]
    words += ["--set", "stages.student.student.options={width=8, vocabulary=40}"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (out / "student-st" / "modules.json").is_file()
    compared = CliRunner().invoke(app, ["compare", "--teacher", f"st:{place / 'st'}", "--student", str(out)])
    assert compared.exit_code == 0, compared.output
    assert "neighbour_overlap_10" in compared.output or "overlap" in compared.output


def test_data_without_texts_is_refused(place, tmp_path):
    values = config(place, {"model": "text:static"}).model_dump(exclude_none=True)
    values["data"] = {"name": "digits", "train_size": 64}
    values["stages"]["student"].pop("teacher")
    values["stages"]["student"]["terms"] = [{"key": "ce"}]
    values.pop("protocol")
    with pytest.raises(ValueError, match="The model 'text:static' takes texts, and the data 'digits/train' has none"):
        pipeline.run(from_values(values, "a test"), tmp_path / "run")


def test_what_decides_a_cell_is_told(place, tmp_path):
    imported("transformers")
    made = config(place, {"model": "text:static", "options": {"width": 8}}, dims=[4])
    before = settings(made, made.stages)
    assert before["stages"]["student"]["models"]["teacher"]["model"].startswith("st:")
    assert str(place) not in json.dumps(before)
    assert before["stages"]["student"]["terms"][1]["dims"] == [4]
    plain = config(place, {"model": "text:static", "options": {"width": 8}})
    assert "dims" not in settings(plain, plain.stages)["stages"]["student"]["terms"][1]
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    model = ModelConfig(model="text:static", options={"tokenizer": str(tmp_path)})
    first = told(model)
    (tmp_path / "tokenizer.json").write_text('{"model": {"a": 1}}')
    assert told(model) != first
    assert told(ModelConfig(model="onnx:teacher.onnx")) is None

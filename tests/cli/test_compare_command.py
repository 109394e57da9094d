"""`congruence compare`: models by all kinds of words in one table and one JSON, and what it says of wrong ones."""

import json
import shutil
import sys

import pytest
import torch
from _harness.configs import tiny
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from congruence import models, pipeline
from congruence.cli.compare import _left_out, _named, _short, report
from congruence.cli.main import app
from congruence.config import from_values
from congruence.data import load

NETS = """
from torch import nn

def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, classes))

def wide(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, classes))

def large(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 9), nn.ReLU(), nn.Linear(9, classes))
"""
FEW = ("--set", "data.test=40")
COSTS = ("parameters", "multiply_adds", "latency_1_ms", "latency_64_ms", "peak_memory_mb")


def invoke(*words):
    return CliRunner().invoke(app, ["compare", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "run"
    pipeline.run(tiny("digits/pkt"), out)
    return out


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "compared_nets.py").write_text(NETS)
    torch.manual_seed(0)
    small = models.build("cnn3", classes=10, in_channels=1)
    models.save_weights(small.state_dict(), tmp_path / "small.safetensors")
    yield tmp_path
    sys.modules.pop("compared_nets", None)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A run whose student is narrower than its teacher, and learns through a map to its width."""
    out = tmp_path_factory.mktemp("narrow") / "run"
    small = "stages.student.student={model='cnn3', options={embedding_dim=24}}"
    pipeline.run(tiny("digits/mimic", small, "stages.teacher.train.seed=1"), out)
    return out


def save_photos(folder, side, count=10):
    generator = torch.Generator().manual_seed(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for each in range(count):
            pixels = torch.randint(0, 255, (side, side), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / name / f"{each}.png")


def test_a_run_is_looked_up_in_its_own_teacher_through_the_map_that_it_trained(narrow, run, here):
    students = ("--student", narrow, "--student", f"same={narrow / 'teacher'}")
    own = invoke("--teacher", narrow / "teacher", *students, "--data", "digits", *FEW, "--no-latency", "--json")
    found = json.loads(own.stdout)["students"]
    key = "asymmetric_retrieval_map"
    assert 0 < found["run"][key] < 1
    assert found["same"][key] == pytest.approx(found["same"]["student_retrieval_map"])
    assert key not in found["run"]["left_out"]
    other = invoke("--teacher", run / "teacher", *students, "--data", "digits", *FEW, "--no-latency", "--json")
    found = json.loads(other.stdout)["students"]["run"]
    assert found[key] is None  # the map leads to another teacher's space
    assert "projection" in found["left_out"][key]


def test_a_run_says_its_own_teacher_and_data(run, here):
    short = invoke("--student", run, *FEW, "--no-latency", "--json")
    whole = invoke("--teacher", run / "teacher", "--student", run, "--data", "digits", *FEW, "--no-latency", "--json")
    assert (short.exit_code, whole.exit_code) == (0, 0), short.output + whole.output
    assert json.loads(short.stdout)["students"] == json.loads(whole.stdout)["students"]
    assert json.loads(short.stdout)["teacher"] == json.loads(whole.stdout)["teacher"]


def test_the_last_epochs_weights_are_those_of_their_own_file(run, here):
    best, last = (shutil.copytree(run, here / name) for name in ("best", "last"))
    (best / "student-last.safetensors").unlink()
    (last / "student.safetensors").unlink()
    words = ("--no-report", "--no-latency", "--json", *FEW)
    found = [
        json.loads(invoke("--student", folder, *words, *more).stdout)
        for folder, more in ((best, ()), (last, ("--last",)))
    ]
    assert [list(each["students"]) for each in found] == [["best"], ["last"]]
    for folder, more, missing in ((best, ("--last",), "student-last.safetensors"), (last, (), "student.safetensors")):
        wrong = invoke("--student", folder, *words, *more)
        assert wrong.exit_code == 2
        assert missing in wrong.stderr


def test_a_run_says_a_teacher_that_a_factory_made(here):
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10))
    torch.save(teacher.state_dict(), "wide.pt")
    factory = ("factory='compared_nets:wide'", "weights='wide.pt'", "options={classes=10}")
    config = tiny("digits/kd", f"stages.student.teacher={{{', '.join(factory)}}}")
    config = config.model_copy(update={"stages": {"student": config.stages["student"]}})
    pipeline.run(config, here / "runs", trust=True)
    done = invoke("--student", "runs", *FEW, "--no-latency", "--json", "--trust")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["teacher"]
    data = load("digits", test=40)
    with torch.no_grad():
        answers = teacher(data.test.batch(range(len(data.test)))).argmax(1)
    assert found["accuracy"] == pytest.approx((answers == data.test.labels).double().mean().item())


def test_three_kinds_of_words_are_in_one_table_and_one_json(run, here):
    students = ("--student", run, "--student", "small=cnn3", "--student-weights", "small=small.safetensors")
    given = ("--teacher", run / "teacher", *students, "--student", "compared_nets:net", "--data", "digits", "--trust")
    result = invoke(*given, *FEW, "--no-latency")
    assert result.exit_code == 0, result.stderr
    rows = [line.split()[1] for line in result.stdout.split("\n\n")[0].splitlines()[2:]]
    assert rows == ["teacher", "run", "small", "net"]
    assert "(measured with --exact)" in result.stdout
    result = invoke(*given, *FEW, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert list(found["students"]) == ["run", "small", "net"]
    for prefix, numbers in (("", found["teacher"]), *(("student_", each) for each in found["students"].values())):
        assert all(numbers[f"{prefix}{key}"] > 0 for key in COSTS)
        assert 0 <= numbers[f"{prefix}accuracy"] <= 1
    for numbers in found["students"].values():
        assert 0 <= numbers["agreement"] <= 1
        assert "asymmetric_retrieval_map" in numbers
    small = models.build("cnn3", classes=10, in_channels=1)
    assert found["students"]["small"]["student_parameters"] == sum(p.numel() for p in small.parameters())


def test_a_newcomers_folder_is_a_table_with_the_names_of_files(here):
    save_photos(here / "photos", 8)
    given = ("--teacher", "compared_nets:wide", "--student", "compared_nets:net", "--data", "photos", "--trust")
    result = invoke(*given, "--set", "data.test=8", "--batch-size", "3", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    first, second = (next(n for n, line in enumerate(lines) if f"| {name} " in line) for name in ("teacher", "net"))
    assert first < second
    at = next(n for n, line in enumerate(lines) if line.startswith("net: the samples that changed most"))
    assert lines[at + 1].split()[0] == "sample"
    assert lines[at + 2].split()[0].startswith(("cats/", "dogs/"))


def test_models_take_images_of_their_own_sizes_and_know_their_classes(here):
    save_photos(here / "photos", 8)
    student = {"factory": "compared_nets:large", "inputs": {"size": 16}}
    train = {"epochs": 1, "max_steps": 1, "batch_size": 4, "device": "cpu"}
    stage = {"student": student, "terms": [{"key": "ce"}], "train": train}
    pipeline.run(from_values({"data": {"name": "photos"}, "stages": {"s": stage}}, "a test"), "large", trust=True)
    students = ("--student", "compared_nets:net", "--student", "large")  # the one takes 8x8, the other 16x16
    given = ("--teacher", "large", *students, "--data", "photos", "--trust", "--json", "--no-latency")
    result = invoke(*given)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["students"]
    assert found["large"]["agreement"] == 1
    assert all(found[name]["student_latency_1_ms"] is None for name in found)
    (here / "photos" / "cats").rename(here / "photos" / "wolves")
    result = invoke(*given)
    assert result.exit_code == 2
    assert "has the classes 'cats', 'dogs', the data 'dogs', 'wolves'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--teacher", "resnet8", "--student", "cnn3"),
            "Give --teacher-weights: the teacher 'resnet8' comes without weights",
        ),
        (("--teacher", "{run}", "--student", "cnn4"), "The student 'cnn4' must be a model of the zoo"),
        (("--teacher", "{run}", "--student", "no/run"), "The student 'run': there is no file and no folder 'no/run'."),
        (("--student", "cnn3"), "Give --teacher: the student 'cnn3' is no run's folder"),
        (("--student", "{run}/teacher"), "/teacher' names no teacher, which would say what it learned from."),
        (
            ("--student", "{run}", "--teacher-weights", "x.pt"),
            "--teacher-weights is for a --teacher, and none is given",
        ),
        (("--teacher", "x:y", "--student", "cnn3"), "allow it with trust=True, or --trust"),
        (("--teacher", "{run}", "--student", "a=cnn3", "--student", "a=cnn3"), "Two students are called 'a'"),
        (("--teacher", "{run}", "--student", "teacher=cnn3"), "A student cannot be called 'teacher'"),
        (
            ("--teacher", "{run}", "--student", "a=cnn3", "--student", "b=cnn3", "--student-weights", "x"),
            "Say whose weights 'x' are: --student-weights NAME=FILE, with NAME one of a, b.",
        ),
        (
            ("--teacher", "{run}", "--student", "a=cnn3", "--student", "b=cnn3", "--student-weights", "c=x"),
            "there is no student 'c', only a, b.",
        ),
        (("--teacher", "{run}", "--student", "cnn3", "--student-weights", "none.pt"), "There is no weights file '"),
        (("--teacher", "{run}", "--student", "cnn3", "--split", "dev"), "--split must be one of test, validation,"),
        (("--teacher", "{run}", "--student", "cnn3", "--set", "stages.x=1"), "expected data.KEY=VALUE"),
        (("--teacher", "{run}", "--student", "cnn3", "--set", "data.siez=1"), "data.siez: expected one of"),
        (
            ("--teacher", "{run}", "--student", "cnn3", "--set", "data.validation=0", "--split", "validation"),
            "The data",
        ),
        (("--teacher", "{run}", "--student", "cnn3", "--device", "cuda:99"), "must be an available device"),
    ],
)
def test_wrong_words_are_one_sentence(run, here, words, sentence):
    result = invoke(*(word.format(run=run) for word in words), "--data", "digits")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_data_that_is_not_there_is_one_sentence(run, here):
    result = invoke("--teacher", run, "--student", "cnn3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Give --data: the student 'cnn3' is no run's folder, which would say its data.\n"
    result = invoke("--teacher", run, "--student", run, "--data", "digitz")
    assert result.exit_code == 2
    assert "data.name: expected a folder or one of" in result.stderr
    assert "Did you mean 'digits'" in result.stderr


def test_students_have_short_names_that_tell_them_apart():
    assert _named(["runs/pkt", "a=resnet8", "onnx:out/small.onnx"]) == {
        "pkt": "runs/pkt",
        "a": "resnet8",
        "small": "onnx:out/small.onnx",
    }
    assert list(_named(["one/run", "two/run", "runs/teacher"])) == ["one/run", "two/run", "runs/teacher"]
    assert [_short(word) for word in ("runs/pkt/", "nets:small", "timm:resnet18.a1", "p.pt2", "resnet20")] == [
        "pkt",
        "small",
        "resnet18.a1",
        "p",
        "resnet20",
    ]


class Said:
    """A comparison as `report` reads it."""

    def __init__(self, left_out, **values):
        self.left_out, self.values = left_out, values

    def to_dict(self):
        return self.values


class Several(dict):
    def table(self):
        return "the table"


def test_a_report_has_worst_classes_changed_samples_and_what_was_left_out():
    worst = [{"class": f"c{n}", "teacher_accuracy": 1.0, "student_accuracy": 0.25, "samples": 12} for n in range(7)]
    kept = {"class": "kept", "teacher_accuracy": 1.0, "student_accuracy": 1.0, "samples": 12}  # which lost nothing
    changed = [{"index": 1, "label": "c0", "phi": 0.5}, {"index": 0, "label": None, "phi": 0.25}]
    no_labels = {"teacher_accuracy": "the data has no labels.", "student_accuracy": "the data has no labels."}
    no_labels |= {"wasserstein": "measured with exact=True", "student_knn_accuracy": "needs images (train_loader)"}
    found = Several(
        small=Said({**no_labels, "mmd": "widths differ"}, worst_classes=[*worst, kept], changed=changed),
        tiny=Said(no_labels, worst_classes=[kept], changed=[]),
    )
    assert report(found, ["", "cats/7.png"]).splitlines() == [
        "the table",
        "",
        "small: the classes that lost most (5 of 7; all with --json)",
        "  class  teacher accuracy  student accuracy  samples",
        *(f"  c{n}               1.0000            0.2500       12" for n in range(5)),
        "",
        "small: the samples that changed most",
        "  sample      index  label     phi",
        "  cats/7.png      1     c0  0.5000",
        "                  0      -  0.2500",
        "",
        "left out: accuracy (the data has no labels)",
        "left out: wasserstein (measured with --exact)",
        "left out: student_knn_accuracy (needs images (--probe))",
        "left out of small: mmd (widths differ)",
    ]
    assert _left_out({"a": {}, "b": {}}) == []


def test_a_probe_is_fitted_on_the_training_part_and_what_was_seen_is_kept(run, here):
    given = ("--teacher", run / "teacher", "--student", run, "--data", "digits", "--no-latency", "--json")
    first = invoke(*given, "--probe", "--keep", "kept", "--set", "data.test=40", "--set", "data.train_size=200")
    assert first.exit_code == 0, first.stderr
    found = json.loads(first.stdout)
    assert found["teacher"]["linear_probe_accuracy"] > 0.2
    assert found["students"]["run"]["student_linear_probe_accuracy"] > 0.2
    assert any((here / "kept").rglob("*.*"))
    assert invoke(*given, "--split", "validation", "--set", "data.validation=20").exit_code == 0

"""What a run was trained on stands in its folder and its students' files, and is compared where these serve again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import congruence as cg
from congruence.cli.main import app
from congruence.config import from_values
from congruence.evaluation import measure
from congruence.pipeline import run
from congruence.training.saving.run_directory import RunDirectory, facts_of

STUDENT = {"model": "cnn3", "options": {"width": 2}}


def photos(folder, names=("cat", "dog"), bright=0):
    for label, name in enumerate(names):
        for number in range(15):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (10 * number + bright, 40 + 150 * label, number)).save(path)
    return folder


def config(folder, *overrides, terms=({"key": "ce"},), **stage):
    train = {"epochs": 1, "batch_size": 8, "seed": 1, "device": "cpu", "schedule": {"name": "constant"}}
    values = {
        "data": {"name": str(folder), "validation": 4, "test": 6},
        "stages": {"student": {"student": STUDENT, "terms": list(terms), "train": train, **stage}},
    }
    return from_values(values, "test", overrides=overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    run(config(photos(folder / "photos")), folder / "run")
    return folder


@pytest.fixture
def own(made, tmp_path):
    """A copy whose photos may be changed."""
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "photos", tmp_path / "photos")
    text = (tmp_path / "run" / "config.toml").read_text().replace(str(made), str(tmp_path))
    (tmp_path / "run" / "config.toml").write_text(text)
    return tmp_path


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_a_run_says_what_it_was_trained_on_in_its_folder_and_files(made):
    said = json.loads((made / "run" / "model.json").read_text())
    train = cg.data.load(made / "photos", validation=4, test=6).train
    assert said == {
        "format": 1,
        "shape": [3, 8, 8],
        "mean": list(train.mean),
        "std": list(train.std),
        "classes": 2,
        "class_names": ["cat", "dog"],
    }
    for file in ("student", "student-last"):
        with safe_open(made / "run" / f"{file}.safetensors", "pt") as opened:
            assert json.loads(opened.metadata()["model"]) == said
    assert cg.load_student(made / "run").trained_on["class_names"] == ["cat", "dog"]


@pytest.mark.parametrize("names", [("dog", "zebra"), ("cat", "hound")])
def test_renamed_folders_are_told_not_measured(own, names):
    before = json.loads(evaluate(own / "run", "--json").stdout)["student"]["accuracy"]
    for old, new in zip(("cat", "dog"), names, strict=True):
        (own / "photos" / old).rename(own / "photos" / f"-{new}")
    for new in names:
        (own / "photos" / f"-{new}").rename(own / "photos" / new)
    found = evaluate(own / "run", "--json")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "has the classes 'cat', 'dog', the data " in found.stderr
    assert f"'{names[1]}'" in found.stderr
    assert "--unchecked" in found.stderr
    unchecked = evaluate(own / "run", "--json", "--unchecked")
    assert unchecked.exit_code == 0, unchecked.stderr
    assert before is not None
    weights = ("--weights", own / "run" / "student.safetensors")
    assert "has the classes" in evaluate(own / "run" / "config.toml", *weights).stderr
    splits = cg.data.load(own / "photos", validation=4, test=6)
    student = cg.load_student(own / "run")
    loader = cg.data.loader(splits.test, batch_size=4)
    for use in (
        lambda: measure(student, splits),
        lambda: cg.compare(student, student, loader),
        lambda: cg.load_student(own / "run", data=splits),
        lambda: run(config(own / "photos"), own / "run", resume=True),
    ):
        with pytest.raises(ValueError, match="has the classes 'cat', 'dog', the data"):
            use()
    del student.trained_on
    assert cg.compare(student, student, loader).samples == 6


def test_other_images_are_told(own):
    changed = ("data.mean=[0.1,0.1,0.1]", "data.std=[0.2,0.2,0.2]")
    found = evaluate(own / "run", *(word for each in changed for word in ("--set", each)))
    assert found.exit_code == 2
    assert "with mean [0.1, 0.1, 0.1] and std [0.2, 0.2, 0.2]" in found.stderr
    assert "--set 'data.mean=[" in found.stderr
    sized = evaluate(own / "run", "--set", "data.size=12")
    assert "was trained on images of [3, 8, 8]" in sized.stderr
    assert "--set 'data.size=[8, 8]'" in sized.stderr
    way_on = sized.stderr.split("or --set '")[1].split("'")[0]
    assert evaluate(own / "run", "--set", "data.size=12", "--set", way_on).exit_code == 0


def teach(own, folder, *overrides, key="kd"):
    weights = own / "run" / "student.safetensors"
    teacher = {**STUDENT, "weights": str(weights)}
    return run(config(folder, *overrides, terms=[{"key": key}], teacher=teacher), own / f"taught-{key}")


def test_an_earlier_runs_student_as_a_teacher(own):
    other = photos(own / "others", ("bus", "car"))
    with pytest.raises(ValueError, match=r"has the classes 'cat', 'dog', the data 'bus', 'car'"):
        teach(own, other)
    with pytest.raises(ValueError, match=r"unchecked = true in the teacher's table"):
        teach(own, own / "photos", "data.mean=[0.1,0.1,0.1]", "data.std=[0.2,0.2,0.2]")
    assert not (own / "taught-kd").exists()
    related = teach(own, other, key="pkt")["student"]  # relations are of any classes
    assert measure(related.student, related.splits, teacher=related.teacher).gpcl is not None
    teach(own, other, "stages.student.teacher.unchecked=true")
    assert json.loads((own / "taught-kd" / "model.json").read_text())["class_names"] == ["bus", "car"]
    found = json.loads(evaluate(own / "taught-pkt", "--json").stdout)
    assert found["teacher"]["accuracy"] is None


def test_a_teacher_in_python(own):
    splits = cg.data.load(photos(own / "others", ("bus", "car")), validation=4, test=6)
    teacher, student = cg.load_student(own / "run"), nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    example = splits.train.batch([0, 1])
    options = cg.FitOptions(epochs=1, device="cpu")
    with pytest.raises(ValueError, match=r"has the classes 'cat', 'dog', the data 'bus', 'car'"):
        cg.fit(
            cg.Distiller(teacher, student, ["kd"], example=example),
            cg.data.loader(splits.train, batch_size=8),
            options=options,
        )
    loader = cg.data.loader(splits.test, batch_size=4)
    compared = cg.compare(teacher, student, loader)
    assert (compared.teacher_accuracy, compared.agreement) == (None, None)
    assert compared.student_accuracy is not None
    assert compared.gpcl is not None
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, 1000))  # of classes that nobody named
    assert cg.compare(wide, student, loader).teacher_accuracy is None
    distiller = cg.Distiller(None, teacher.requires_grad_(True), ["ce"], example=example)
    cg.fit(distiller, cg.data.loader(splits.train, batch_size=8), options=options)
    assert not hasattr(teacher, "trained_on")  # it has been trained on these now
    assert measure(teacher, splits).accuracy is not None


def test_an_older_run_goes_on_and_says_that_nothing_is_compared(own, caplog):
    (own / "run" / "model.json").unlink()
    for name in ("student", "student-last"):
        path = own / "run" / f"{name}.safetensors"
        cg.models.save_weights(cg.models.load_weights(path), path)
    assert facts_of(own / "run" / "student.safetensors") is None
    with caplog.at_level("INFO", logger="congruence"):
        assert not hasattr(cg.load_student(own / "run"), "trained_on")
        assert evaluate(own / "run").exit_code == 0
        older = config(own / "photos")
        run(older, own / "run", resume=True)
    assert caplog.text.count("nothing to compare") == 2
    assert "does not say what it was trained on" in caplog.text


def test_a_student_of_another_run_beside_model_json(own):
    said = json.loads((own / "run" / "model.json").read_text())
    (own / "run" / "model.json").write_text(json.dumps({**said, "class_names": ["a", "b"]}))
    with pytest.raises(ValueError, match="beside it are of different training data"):
        cg.load_student(own / "run")
    (own / "run" / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.json' is damaged"):
        cg.load_student(own / "run")


class Named(TensorDataset):
    classes = ("up", "down")


def fit(out, dataset, students=None, **options):
    torch.manual_seed(0)
    students = students or nn.Sequential(nn.Flatten(), nn.Linear(18, 2))
    distiller = cg.Distiller(None, students, ["ce"], example=torch.zeros(2, 2, 3, 3))
    settings = {"epochs": 1, "out": out, "device": "cpu", "schedule": cg.ScheduleOptions("constant")} | options
    return cg.fit(distiller, DataLoader(dataset, batch_size=4), options=cg.FitOptions(**settings))


def test_fit_over_a_foreign_loader_says_what_it_knows(tmp_path):
    dataset = Named(torch.randn(8, 2, 3, 3), torch.arange(8) % 2)
    fit(tmp_path / "run", dataset)
    expected = {"format": 1, "shape": [2, 3, 3], "classes": 2, "class_names": ["up", "down"]}
    assert json.loads((tmp_path / "run" / "model.json").read_text()) == expected
    fit(tmp_path / "run", dataset, resume=True)
    Named.classes = ("down", "up")
    with pytest.raises(ValueError, match=r"another order\).*choose another `out`, or remove model.json"):
        fit(tmp_path / "run", dataset, resume=True)
    Named.classes = ("up", "down")
    fit(tmp_path / "bare", TensorDataset(*dataset.tensors))
    assert json.loads((tmp_path / "bare" / "model.json").read_text()) == {"format": 1, "shape": [2, 3, 3]}


def test_removing_model_json_is_a_way_on_and_leaves_files_that_agree(tmp_path):
    dataset = Named(torch.randn(8, 2, 3, 3), torch.arange(8) % 2)
    settings = {
        "evaluate": lambda student: {"loss": float(len(list(tmp_path.rglob("model.json"))))}
    }  # the first is best
    fit(tmp_path / "run", dataset, epochs=1, **settings)
    Named.classes = ("left", "right")
    try:
        with pytest.raises(ValueError, match=r"or remove model\.json to continue anyway"):
            fit(tmp_path / "run", dataset, epochs=2, resume=True, **settings)
        (tmp_path / "run" / "model.json").unlink()
        result = fit(tmp_path / "run", dataset, epochs=2, resume=True, **settings)
    finally:
        Named.classes = ("up", "down")
    assert facts_of(result.student_file).class_names == ("left", "right")
    assert facts_of(tmp_path / "run" / "student-last.safetensors") == facts_of(result.student_file)


def test_several_students_share_one(tmp_path):
    dataset = Named(torch.randn(8, 2, 3, 3), torch.arange(8) % 2)
    students = {name: nn.Sequential(nn.Flatten(), nn.Linear(18, 2)) for name in ("a", "b")}
    result = fit(tmp_path, dataset, students)
    known = {facts_of(file) for file in result.student_files.values()}
    assert known == {RunDirectory(tmp_path).facts()}

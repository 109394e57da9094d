"""`congruence distill` and `teach`: with and without a configuration."""

import json
import shutil
import sys
import tomllib

import pytest
import torch
from _harness.configs import quick
from PIL import Image
from typer.testing import CliRunner

from congruence import load_student
from congruence.cli.distill import _Quick
from congruence.cli.main import app
from congruence.config import load_config
from congruence.config.shipped import names
from congruence.models import build, save_weights

FEW = ["data.train_size=200", "data.validation=20", "data.test=40"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sets(*overrides):
    return [word for override in overrides for word in ("--set", override)]


SMALL = sets(*FEW, *quick(["teacher", "student"]), 'stages.teacher.student={model="resnet8"}')


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("distilled") / "run"
    return out, invoke("distill", "recipes/digits/pkt.toml", "--out", out, *SMALL)


def test_a_recipe_ends_with_numbers_and_a_student(finished):
    out, result = finished
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("teacher: epoch 1/1, step 2/2  loss ")
    assert lines[1].startswith("student: epoch 1/1, step 2/2  loss ")
    assert "validation: accuracy" in lines[1]
    assert lines[2].split() == ["test", "set", "best", "last", "teacher"]
    assert [line.split()[0] for line in lines[3:7]] == ["accuracy", "retrieval", "coherence", "parameters"]
    assert lines[-1] == f"student: {out / 'student.safetensors'}"
    tested = json.loads((out / "test.json").read_text())
    assert list(tested) == ["best", "last", "teacher"]
    assert tested["best"]["parameters"] == sum(p.numel() for p in load_student(out).parameters())
    assert tested["teacher"]["gpcl"] is None


def test_diagnostics_are_where_the_last_line_says(tmp_path):
    asked = sets('diagnostics.measures=["gpcl", "kernel_transfer_error"]', 'diagnostics.stages=["student"]')
    result = invoke("distill", "recipes/digits/pkt.toml", "--out", tmp_path, *SMALL, *asked)
    assert result.exit_code == 0, result.stderr
    path = tmp_path / "metrics.jsonl"
    assert result.stdout.splitlines()[-1] == f"diagnostics: {path}"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [row["diagnostics"] for row in rows if "diagnostics" in row]
    assert [sorted(numbers) for numbers in found] == [["gpcl", "kernel_transfer_error"]]
    misspelt = invoke("distill", "recipes/digits/pkt.toml", *sets('diagnostics.measures=["gpc"]'))
    assert (misspelt.exit_code, misspelt.stdout) == (2, "")
    assert "got 'gpc'. Did you mean 'gpcl'" in misspelt.stderr


def test_the_same_again_is_refused_and_resumes(finished):
    out, result = finished
    again = invoke("distill", "recipes/digits/pkt.toml", "--out", out, *SMALL)
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr == (
        f"The folder '{out}' holds this run already: resume it (resume=True, or --resume), or choose another. "
        "Nothing in it was changed.\n"
    )
    resumed = invoke("distill", "recipes/digits/pkt.toml", "--out", out, "--resume", *SMALL)
    assert resumed.exit_code == 0
    assert resumed.stdout.splitlines() == result.stdout.splitlines()[2:]


def test_another_run_in_the_folder_is_refused(finished):
    out, _ = finished
    result = invoke("distill", "digits/kd", "--out", out, "--resume", *SMALL)
    assert result.exit_code == 2
    assert "holds another run (its name is digits/pkt, this one's digits/kd)" in result.stderr


def test_evaluate_measures_the_same(finished):
    out, _ = finished
    result = invoke("evaluate", out, "--json")
    assert result.exit_code == 0, result.stderr
    measured, tested = json.loads(result.stdout), json.loads((out / "test.json").read_text())
    assert measured["student"] == pytest.approx(tested["best"])
    assert measured["teacher"] == pytest.approx(tested["teacher"])
    last = json.loads(invoke("evaluate", out, "--json", "--last").stdout)
    assert last["student"] == pytest.approx(tested["last"])


@pytest.mark.parametrize("content", ["", '{"best": {"accur', "[1]", '{"best": 3}', "{}"])
def test_damaged_test_numbers_are_measured_again(finished, tmp_path, caplog, content):
    out = shutil.copytree(finished[0], tmp_path / "run")
    tested = (out / "test.json").read_text()
    (out / "test.json").write_text(content)
    result = invoke("distill", "recipes/digits/pkt.toml", "--out", out, "--resume", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert (content == "{}") != ("test.json' is damaged" in caplog.text)
    assert json.loads((out / "test.json").read_text()) == json.loads(tested)


def test_evaluate_weights_with_a_configuration(finished):
    out, _ = finished
    file = out / "student.safetensors"
    result = invoke("evaluate", "digits/pkt", "--weights", file, *sets(*FEW))
    assert result.exit_code == 0, result.stderr
    rows = ["test", "accuracy", "retrieval", "parameters", "soft-label", "intra-class", "inter-class"]
    assert [name for line in result.stdout.splitlines() if (name := line.split()[0]) in rows] == rows


def test_a_student_that_learned_no_class_has_no_accuracy(finished):
    out, _ = finished
    terms = "stages.student.terms=[{key='pkt'}]"
    arguments = ("--weights", out / "student.safetensors", "--json", *sets(*FEW, terms))
    found = json.loads(invoke("evaluate", "digits/pkt", *arguments).stdout)["student"]
    assert found["accuracy"] is None
    assert found["retrieval_map"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["RUN/checkpoints"], "holds no run (no config.toml): give a configuration and --weights."),
        (["digits/pkt"], "'digits/pkt' is no run's folder: give --weights with a configuration."),
        (["digits/pkt", "--weights", "RUN/absent.pt"], "There is no weights file 'RUN/absent.pt'."),
        (["digits/pkt", "--weights", "RUN/teacher/student.safetensors"], "do not fit Cnn3"),
    ],
)
def test_evaluate_refuses(finished, arguments, sentence):
    out, _ = finished
    result = invoke("evaluate", *(argument.replace("RUN", str(out)) for argument in arguments))
    assert result.exit_code == 2
    assert sentence.replace("RUN", str(out)) in result.stderr


def test_a_teachers_weights_instead_of_its_stage(finished, tmp_path):
    out, _ = finished
    weights = out / "teacher" / "student.safetensors"
    result = invoke("distill", "digits/pkt", "--out", tmp_path / "run", "--teacher-weights", weights, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert not (tmp_path / "run" / "teacher").exists()
    first, second = (json.loads((folder / "test.json").read_text()) for folder in (out, tmp_path / "run"))
    assert first == second


def test_teach_trains_the_first_stage_alone(finished, tmp_path):
    out, _ = finished
    result = invoke("teach", "digits/pkt", "--out", tmp_path, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "student: epoch" not in result.stdout
    first, second = (load_student(folder).state_dict() for folder in (out / "teacher", tmp_path))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Bring a model, its weights and a place to work."""
    torch.manual_seed(0)
    save_weights(build("resnet8", classes=10, in_channels=1).state_dict(), tmp_path / "teacher.safetensors")
    code = (
        "from congruence.models import build\n\n\ndef body():\n    return build('resnet8', classes=10, in_channels=1)\n"
    )
    (tmp_path / "my_models.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_models", None)


MINE = ("--teacher", "my_models:body", "--teacher-weights", "teacher.safetensors", "--data", "digits", "--epochs", "1")


def test_no_configuration(mine):
    result = invoke("distill", *MINE, "--student", "cnn3", "--trust", "--out", "out")
    assert result.exit_code == 0, result.stderr
    assert "student: epoch 1/1, step 20/20" in result.stdout
    assert load_student("out").fc.out_features == 10
    config = (mine / "out" / "config.toml").read_text()
    assert "\nbalanced weights, from the last line of metrics.jsonl: kd " in result.stdout
    assert 'key = "ce"\nweight = 1.0' in config
    assert 'key = "kd"\nweight = "balanced"\nshare = ' in config
    assert str(mine / "teacher.safetensors") in config
    assert invoke("evaluate", "out", "--trust").stdout.split()[:4] == ["test", "set", "student", "teacher"]


def test_no_configuration_with_overrides_and_photos_of_any_size(mine):
    for number in range(40):
        path = mine / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16 + number, 20), number).save(path)
    common = (*MINE[:4], "--data", "photos", "--student", "cnn3", "--trust", "--method", "pkt", "--out", "out")
    refused = invoke("distill", *common)
    assert refused.exit_code == 2
    assert "--set data.size=64" in refused.stderr
    chosen = ("data.size=16", "stages.student.train.epochs=1", "stages.student.terms.0.weight=7.0")
    result = invoke("distill", *common, *sets(*chosen))
    assert result.exit_code == 0, result.stderr
    config = tomllib.loads((mine / "out" / "config.toml").read_text())
    stage = config["stages"]["student"]
    assert config["data"]["size"] == 16
    assert [(term["key"], term["weight"]) for term in stage["terms"]] == [("pkt", 7.0), ("ce", 1.0)]
    assert (stage["train"]["epochs"], stage["train"]["optimizer"]["name"]) == (1, "adamw")


def terms_of(*methods, weight="published"):
    config, _ = _Quick("resnet8", "weights", "cnn3", "digits", 1, weight).config(methods)
    return {term.key: term.weight for term in config.stages["student"].terms}


def test_a_method_with_a_label_loss_of_its_own_gets_no_other():
    assert list(terms_of("mlld")) == ["mlld"]
    assert list(terms_of("pkt", "mlld")) == ["pkt", "mlld"]
    assert list(terms_of("arcface", "kd")) == ["arcface", "kd"]
    assert terms_of("kd") == {"kd": 0.9, "ce": 0.1}
    assert terms_of("dkd")["ce"] == terms_of("intra_class", "kd")["ce"] == 1.0


def test_a_label_loss_that_leaves_the_classifier_alone_gets_one_that_does_not():
    assert terms_of("arcface") == {"arcface": 1.0, "ce": 1.0}
    assert terms_of("arcface", "pkt")["ce"] == 1.0


def test_the_label_loss_is_there_where_the_shipped_recipes_have_it():
    told = set()
    for name in names("recipes"):
        if name.startswith("digits/"):
            config = load_config(name)
            keys = [term.key for term in config.stages[config.last].terms]
            methods = [key for key in keys if key != "ce"]
            reused = any(model.reused_classifier for model in config.stages[config.last].students().values())
            if methods and not reused:  # a classifier that is the teacher's needs no labels
                assert ("ce" in terms_of(*methods)) == ("ce" in keys), name
                told.update(methods)
    assert {"mlld", "arcface", "dkd", "kd"} <= told


def test_weights_are_balanced_against_what_learns_the_labels():
    assert terms_of("kd", weight="balanced") == {"kd": "balanced", "ce": 1.0}
    assert terms_of("rkd", "pkt", weight="balanced") == {"rkd": "balanced", "pkt": "balanced", "ce": 1.0}
    assert terms_of("arcface", "kd", weight="balanced") == {"arcface": 1.0, "kd": "balanced"}
    assert terms_of("mlld", weight="balanced") == {"mlld": "balanced", "ce": 1.0}  # its own part is next to nothing
    assert terms_of("pkt", "mlld", weight="balanced") == {"pkt": "balanced", "mlld": "balanced", "ce": 1.0}
    assert terms_of("ce", "pkt", weight=0.5) == {"ce": 1.0, "pkt": 0.5}


def test_the_published_weights_are_one_word_away(mine):
    words = (*MINE, "--student", "cnn3", "--trust", "--out", "out", *sets("stages.student.train.max_steps=1"))
    result = invoke("distill", *words, "--weight", "published")
    assert result.exit_code == 0, result.stderr
    stage = tomllib.loads((mine / "out" / "config.toml").read_text())["stages"]["student"]
    assert [(term["key"], term["weight"]) for term in stage["terms"]] == [("kd", 0.9), ("ce", 0.1)]
    refused = invoke("distill", *words, "--weight", "heavy")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "`weight` must be 'balanced', 'published' or a number >= 0, got 'heavy'." in refused.stderr
    for given in (("--weight", "1"), ("--epochs", "3"), ("--teacher-views", "2")):
        refused = invoke("distill", "digits/kd", *given)
        assert f"{given[0]}" in refused.stderr
        assert "are for runs without a configuration: use --set." in refused.stderr


def test_the_teacher_is_asked_about_so_many_views(mine):
    words = (*MINE, "--student", "cnn3", "--trust", "--out", "out", *sets("stages.student.train.max_steps=1"))
    assert invoke("distill", *words, "--teacher-views", "2").exit_code == 0
    stage = tomllib.loads((mine / "out" / "config.toml").read_text())["stages"]["student"]
    assert stage["teacher_cache"]["views"] == 2
    assert (mine / "out" / "teacher-cache" / "manifest.json").exists()


def test_help_says_the_default_method():
    text = " ".join(invoke("distill", "--help").stdout.replace("│", " ").split())
    assert "Default: kd; a teacher of other classes, or of none, gets a classifier of the data" in text
    assert "a single method on data without labels has weight 1" in text


def test_a_factorys_student_says_how_to_load_it(mine):
    result = invoke("distill", *MINE, "--student", "my_models:body", "--trust", "--method", "pkt", "--out", "out")
    assert result.exit_code == 0, result.stderr
    with pytest.raises(ValueError, match="'my_models:body' made it"):
        load_student("out")
    assert load_student("out", lambda: build("resnet8", classes=10, in_channels=1)).fc.out_features == 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*MINE, "--student", "cnn3"), "The factory 'my_models:body' imports and runs your code: allow it with "),
        (
            (*MINE, "--student", "cnn4", "--trust"),
            "command line: stages.student.student.model: expected one of resnet8",
        ),
        ((*MINE, "--student", "cnn3", "--method", "ptkk"), "Did you mean 'pkt'?"),
        ((*MINE[:4], "--student", "cnn3"), "or --teacher, --student and --data."),
        ((*MINE, "--student", "cnn3", "--set", "dta.size=1"), "Did you mean 'data'?"),
        ((*MINE, "digits/kd"), "are for runs without a configuration: use --set."),
        (("--teacher", "resnet8", "--data", "digits", "--student", "cnn3"), "Give --teacher-weights"),
        ((*MINE[:3], "absent.pt", *MINE[4:], "--student", "cnn3", "--trust"), "There is no weights file '"),
        ((*MINE[:5], "nowhere/at/all", "--student", "cnn3"), "There is no dataset named"),
        (
            (*MINE, "--student", "cnn3", "--trust", "--out", "my_models.py/out"),
            "cannot be written to: Not a directory.",
        ),
        (("digits/ce", "--set", "data.nam=1", "--set", "x"), "Did you mean 'name'?"),
    ],
)
def test_what_cannot_work_is_one_sentence(mine, arguments, sentence):
    result = invoke("distill", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in mine.iterdir()} <= {"teacher.safetensors", "my_models.py", "__pycache__"}


def test_truncated_weights(mine):
    path = mine / "teacher.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    result = invoke("distill", *MINE, "--student", "cnn3", "--trust", "--out", "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"The weights file '{path}' cannot be read: it is cut short")


def test_a_loss_that_is_not_finite(tmp_path):
    overrides = sets("stages.student.train.optimizer={lr=1e30}", "stages.student.train.max_steps=20")
    result = invoke("distill", "digits/ce", "--out", tmp_path / "run", *SMALL, *overrides)
    assert result.exit_code == 1
    assert "was not finite" in result.stderr
    assert "Traceback" not in result.stderr

"""The tables agree with what they stand for, and stages are linked."""

import dataclasses

import pytest
from pydantic import ValidationError

from congruence.config import from_values, load_config
from congruence.config.tables import TermConfig
from congruence.config.training import (
    AugmentConfig,
    OptimizerConfig,
    PhotoAugmentConfig,
    ScheduleConfig,
    TrainConfig,
)
from congruence.data import Augment, PhotoAugment
from congruence.methods import Term
from congruence.training import FitOptions, OptimizerOptions, ScheduleOptions


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (OptimizerConfig, OptimizerOptions),
        (ScheduleConfig, ScheduleOptions),
        (AugmentConfig, Augment),
        (PhotoAugmentConfig, PhotoAugment),
    ],
)
def test_tables_have_the_fields_and_defaults_of_what_they_stand_for(table, options):
    assert table().model_dump() == dataclasses.asdict(options())


def test_training_gives_the_engines_own_defaults():
    assert TrainConfig(epochs=3).options() == FitOptions(epochs=3)
    apart = {"out", "resume", "evaluate", "callbacks", "diagnose"}
    assert {f.name for f in dataclasses.fields(FitOptions)} - apart <= set(TrainConfig.model_fields)


def test_a_term_has_every_reserved_key_of_the_engines():
    assert set(TermConfig.model_fields) == {*Term.RESERVED, "key"} - {"method"}


def test_a_term_carries_everything():
    values = {"key": "pkt", "weight": 2.0, "name": "n", "student_layer": ["a", "b"], "warmup_epochs": 3, "eps": 0.5}
    term = TermConfig.model_validate(values).term()
    assert (term.key, term.weight, term.name, term.student_layer) == ("pkt", 2.0, "n", ["a", "b"])
    assert (term.warmup_epochs, term.hyperparameters) == (3, {"eps": 0.5})


def test_a_teachers_cache_can_be_taken_back():
    said = "stages.student.teacher_cache={views=2}"
    assert load_config("digits/pkt", [said]).stages["student"].teacher_cache.views == 2
    assert load_config("digits/pkt", [said, "stages.student.teacher_cache=false"]) == load_config("digits/pkt")
    with pytest.raises(ValueError, match=r"teacher_cache: expected a table, got True"):
        load_config("digits/pkt", ["stages.student.teacher_cache=true"])


def test_a_folder_of_shared_caches_is_of_the_views_too(tmp_path):
    said = "stages.student.teacher_cache={seed=0}"
    folders = [
        load_config(f"digits/{key}", [said]).with_teacher("w", cache=tmp_path).stages["student"].teacher_cache.folder
        for key in ("pkt", "mimic", "mlld")
    ]
    assert folders[0] == folders[1] != folders[2]


def test_everything_is_frozen():
    config = load_config("digits/pkt")
    with pytest.raises(ValidationError, match="frozen"):
        config.data.name = "cifar10"


@pytest.mark.parametrize("value", [True, "3", 3.0])
def test_nothing_is_converted_silently(value):
    with pytest.raises(ValidationError, match="epochs"):
        TrainConfig(epochs=value)


@pytest.mark.parametrize("name", ["channels_last", "compile"])
def test_ways_to_run_are_said_in_a_config(name):
    assert TrainConfig(**{"epochs": 1, name: True}).options() == FitOptions(**{"epochs": 1, name: True})


def test_micro_batches_are_said_in_a_config():
    assert TrainConfig(epochs=1, micro_batch=256).options() == FitOptions(epochs=1, micro_batch=256)
    values = stages(last={"student": ONE, "train": {"epochs": 1, "micro_batch": 0}})
    with pytest.raises(ValueError, match=r"stages\.last\.train\.micro_batch: expected an integer >= 1 or None, got 0"):
        from_values(values, "here")


def stages(**tables):
    rest = {"terms": [{"key": "ce"}], "train": {"epochs": 1}}
    return {"data": {"name": "digits"}, "stages": {name: {**rest, **table} for name, table in tables.items()}}


ONE = {"model": "resnet8"}


def test_several_students_and_their_names():
    config = from_values(
        stages(peers={"student": {"a": ONE, "b": ONE}}, last={"student": ONE, "teacher": "peers/b"}), "here"
    )
    assert list(config.stages["peers"].students()) == ["a", "b"]
    assert config.stages["last"].teacher == "peers/b"
    assert config.last == "last"


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        (
            {"a": {"student": ONE}, "b": {"student": ONE, "teacher": "c"}},
            "here: stages.b.teacher: expected a model's table or an earlier stage: a, got 'c'.",
        ),
        (
            {"a": {"student": ONE, "teacher": "b"}, "b": {"student": ONE}},
            "here: stages.a.teacher: expected a model's table, since no stage comes before, got 'b'.",
        ),
        (
            {"a": {"student": ONE}, "b": {"student": {**ONE, "start_stage": "c"}}},
            "here: stages.b.student.start_stage: expected an earlier stage: a, got 'c'.",
        ),
        (
            {"a": {"student": {"one": ONE, "two": {**ONE, "start_stage": "a"}}}},
            "here: stages.a.student.two.start_stage: expected none, since no stage comes before, got 'a'.",
        ),
        (
            {"a": {"student": ONE}, "b": {"student": {**ONE, "start_stage": "a", "start": "f"}}},
            "here: stages.b.student.start_stage: expected none beside `start`, got both.",
        ),
        (
            {"a": {"student": ONE}, "b": {"student": ONE, "teacher": {**ONE, "start_stage": "a"}}},
            "here: stages.b.teacher.start_stage: expected none of a teacher, which does not learn, got one.",
        ),
        (
            {"checkpoints": {"student": ONE}},
            "here: stages.checkpoints: expected a name of letters, digits, '-' and '_', got 'checkpoints'.",
        ),
        (
            {"a": {"student": {}}},
            "here: stages.a.student: expected `model` (of the zoo) or `factory` ('package.module:callable'), "
            "got neither.",
        ),
        (
            {"a": {"student": {"factory": "os.path"}}},
            "here: stages.a.student.factory: expected 'package.module:callable', got 'os.path'.",
        ),
        ({"a": {"student": "resnet8"}}, "here: stages.a.student: expected a table, got 'resnet8'."),
    ],
)
def test_links_and_models(tables, line):
    with pytest.raises(ValueError) as caught:
        from_values(stages(**tables), "here")
    assert str(caught.value) == line


def test_upto_keeps_a_stage_and_what_it_learns_from():
    config = from_values(
        stages(a={"student": ONE}, b={"student": ONE}, c={"student": ONE, "teacher": "b"}, d={"student": ONE}), "here"
    )
    assert list(config.upto("c").stages) == ["b", "c"]
    assert list(config.upto("a").stages) == ["a"]
    with pytest.raises(ValueError, match="got 'e'"):
        config.upto("e")


def test_a_teacher_from_a_file_replaces_its_stage(tmp_path):
    config = load_config("digits/pkt").with_teacher(tmp_path / "t.safetensors")
    assert list(config.stages) == ["student"]
    teacher = config.stages["student"].teacher
    assert (teacher.model, teacher.weights) == ("resnet20", str(tmp_path / "t.safetensors"))
    with pytest.raises(ValueError, match="has no teacher"):
        load_config("digits/teacher").with_teacher("t.safetensors")


def test_a_term_names_layouts_and_masks():
    values = {"key": "pkt", "layout": {"student": "BCT", "teacher": {"features": "BTC"}}, "mask": {"student": 1}}
    term = TermConfig.model_validate(values).term()
    assert (term.layout, term.mask) == (values["layout"], values["mask"])
    assert TermConfig.model_validate({"key": "pkt", "layout": "TBC", "mask": False}).term().mask is False
    with pytest.raises(ValidationError, match=r"`layout` must be 2 to 5 letters"):
        TermConfig.model_validate({"key": "pkt", "layout": "BTD"})
    with pytest.raises(ValidationError, match=r"`mask` must be a key of the inputs' mapping"):
        TermConfig.model_validate({"key": "pkt", "mask": True})


def test_a_flag_that_may_be_auto_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="channels_last") as error:
        load_config("digits/pkt", ["stages.student.train.channels_last=maybe"])
    (line,) = [line for line in str(error.value).splitlines() if "channels_last" in line]
    assert "True, False or 'auto'" in line
    assert "got 'maybe'" in line


def test_a_stage_keeps_the_one_that_its_student_begins_as():
    tables = {
        "first": {"student": ONE},
        "other": {"student": ONE},
        "last": {"student": {**ONE, "start_stage": "first"}},
    }
    config = from_values(stages(**tables, end={"student": ONE, "teacher": "last"}), "here")
    assert list(config.upto("end").stages) == ["first", "last", "end"]
    taught = from_values(
        stages(first={"student": ONE}, last={"student": {**ONE, "start_stage": "first"}, "teacher": "first"}), "here"
    )
    with pytest.raises(ValueError, match="its student begins as another stage's"):
        taught.with_teacher("file")


def test_a_file_of_texts_is_named_as_a_folder_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = load_config("digits/kd").model_dump(exclude_none=True)
    values["data"] = {"name": "texts.tsv", "validation": 5}
    values["stages"]["student"]["student"]["inputs"] = {"tokenizer": "words.json", "max_length": 4}
    config = from_values(values, "here")
    assert config.data.name == str(tmp_path / "texts.tsv")
    assert config.stages["student"].student.inputs.tokenizer == str(tmp_path / "words.json")


def test_shared_caches_are_of_what_the_models_take(tmp_path):
    def folder(*overrides):
        config = load_config("digits/kd", ["stages.student.teacher_cache={views=2}", *overrides])
        shared = config.with_teacher(tmp_path / "t.safetensors", cache=tmp_path)
        return shared.stages["student"].teacher_cache.folder

    taken = "stages.teacher.student.inputs={size=16}"
    assert folder() == folder() != folder(taken) == folder(taken)

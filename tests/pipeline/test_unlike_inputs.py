"""A teacher and a student that take the same data differently, from one configuration."""

import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import congruence as cg
from congruence import Inputs, models
from congruence.cli.main import app
from congruence.config import from_values, load_config, resolved_toml
from congruence.config.problems import ConfigError
from congruence.data import ImageInput, TextDataset, TextInput
from congruence.data.datasets.model_facts import ModelFacts
from congruence.evaluation import measure
from congruence.pipeline import RunContext, build_stage, load_splits, load_student, run, taken

FACTORIES = """
import torch
from torch import nn

class Bag(nn.Module):
    def __init__(self, words, width, length, classes):
        super().__init__()
        self.length = length
        self.table, self.head = nn.Embedding(words, width), nn.Linear(width, classes)

    def forward(self, input_ids, attention_mask):
        if input_ids.shape[1] != self.length:
            raise ValueError(f"expected {self.length} tokens, got {input_ids.shape[1]}")
        real = attention_mask[..., None].float()
        return self.head((self.table(input_ids) * real).sum(1) / real.sum(1))

def bag(words, width, length, classes):
    return Bag(words, width, length, classes)

class Eye(nn.Module):
    def __init__(self, side, in_channels, width, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * side * side, width), nn.ReLU())
        self.fc = nn.Linear(width, classes)

    def forward(self, images):
        return self.fc(self.body(images))

def eye(side, in_channels, classes, width=6):
    return Eye(side, in_channels, width, classes)
"""
WORDS = ["good", "fine", "bad", "poor", "film", "book", "the", "a", "was", "plot"]
TRAIN = {"epochs": 2, "batch_size": 8, "seed": 1, "device": "cpu", "schedule": {"name": "constant"}}
TERMS = [{"key": "ce"}, {"key": "kd", "weight": 0.5}, {"key": "pkt", "weight": 1.0}]


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "unlike_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "unlike_factories"
    sys.modules.pop("unlike_factories", None)


@pytest.fixture
def texts(tmp_path):
    """A file of texts of two kinds, and two vocabularies."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(40):
        words = [WORDS[at] for at in torch.randint(4, 10, (4,), generator=generator).tolist()]
        rows.append((" ".join([*words, WORDS[2 * (number % 2)]]), ("good", "bad")[number % 2]))
    (tmp_path / "texts.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    for name, words in (("large", WORDS), ("small", WORDS[:5])):
        vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
        (tmp_path / f"{name}.json").write_text(json.dumps(vocabulary))
    return tmp_path


@pytest.fixture
def photos(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for number in range(15):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (10 * number, 40 + 150 * label, number)).save(path)
    return tmp_path / "photos"


def of_texts(folder, factories, *overrides, cache=None, **changes):
    teacher = {"factory": f"{factories}:bag", "options": {"words": 12, "width": 8, "length": 9}}
    student = {"factory": f"{factories}:bag", "options": {"words": 7, "width": 4, "length": 5}}
    teacher["inputs"] = {"tokenizer": str(folder / "large.json"), "max_length": 9}
    student["inputs"] = {"tokenizer": str(folder / "small.json"), "max_length": 5}
    stages = {
        "teacher": {"student": teacher, "terms": [{"key": "ce"}], "train": TRAIN},
        "student": {"student": student, "teacher": "teacher", "terms": TERMS, "train": TRAIN},
    }
    if cache:
        stages["student"]["teacher_cache"] = {"dtype": cache, "views": 1}
    data = {"name": str(folder / "texts.tsv"), "validation": 6, "test": 8}
    return from_values({"data": data, "stages": stages, **changes}, "test", overrides=overrides)


def of_photos(folder, factories, *overrides, cache=None):
    teacher = {"factory": f"{factories}:eye", "options": {"side": 12, "width": 9}}
    teacher["inputs"] = {"size": 12, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.5, 0.25], "interpolation": "bicubic"}
    student = {"factory": f"{factories}:eye", "options": {"side": 6}, "inputs": {"size": [6, 6]}}
    stage = {"student": student, "teacher": teacher, "terms": TERMS, "train": {**TRAIN, "augment": {"pad": 1}}}
    if cache:
        stage["teacher_cache"] = {"dtype": cache, "views": 2}
    data = {"name": str(folder), "validation": 4, "test": 6}
    return from_values({"data": data, "stages": {"s": stage}}, "test", overrides=overrides)


# What a stage is built of


def test_grey_photographs_reach_a_teacher_of_colours_as_rgb(photos, factories):
    for path in photos.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    config = of_photos(photos, factories)
    built = build_stage(config, "s", RunContext(trust=True))
    assert built.splits.train.shape == (1, 8, 8)
    inputs, *_ = next(iter(built.train_loader))
    assert (inputs["teacher"].shape, inputs["student"].shape) == ((8, 3, 12, 12), (8, 1, 6, 6))
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.5, 0.5, 0.25])[:, None, None]
    seen = inputs["teacher"] * std + mean  # the same brightness three times over
    torch.testing.assert_close(seen, seen[:, :1].expand_as(seen), rtol=0, atol=1e-6)
    (student,) = built.models.students.values()
    assert student.body[1].in_features == 36  # of one channel
    assert ModelFacts.of(built.train_loader).shape == (1, 6, 6)
    assert ModelFacts.of(built.train_loader, "teacher", "teacher").shape == (3, 12, 12)


def test_texts_reach_each_model_as_its_tokenizer_has_them(texts, factories, caplog):
    config = of_texts(texts, factories)
    with caplog.at_level(logging.INFO, logger="congruence"):
        built = build_stage(config, "student", RunContext(trust=True))
    (line,) = [r.message for r in caplog.records if "its own way" in r.message]
    assert (
        line == "Each model takes the data its own way: the student 5 tokens of Words; the teacher 9 tokens of Words."
    )
    inputs, labels, index = next(iter(built.train_loader))
    assert isinstance(inputs, Inputs)
    assert (inputs["teacher"]["input_ids"].shape, inputs["student"]["input_ids"].shape) == ((8, 9), (8, 5))
    assert torch.equal(labels, built.splits.train.labels[index])
    assert built.models.students["student"].head.out_features == 2
    assert next(iter(built.val_loader))[0]["teacher"]["attention_mask"].shape == (6, 9)
    assert not built.train_loader.varies()


def test_images_reach_each_model_at_its_size(photos, factories, caplog):
    with caplog.at_level(logging.INFO, logger="congruence"):
        built = build_stage(of_photos(photos, factories), "s", RunContext(trust=True))
    (line,) = [r.message for r in caplog.records if "its own way" in r.message]
    assert "the student 6x6 (bilinear), mean [0.25" in line
    assert "the teacher 12x12 (bicubic), mean [0.5, 0.4, 0.3], std [0.5, 0.5, 0.25]." in line
    inputs, _, index = next(iter(built.train_loader))
    pixels = built.splits.train.drawn(index, seed=1, augment=built.train_loader.augment["main"])
    plain = load_splits(of_photos(photos, factories).data).train
    taken = ImageInput((0.5, 0.4, 0.3), (0.5, 0.5, 0.25), size=(12, 12), interpolation="bicubic")
    assert torch.equal(inputs["teacher"], taken(pixels))
    assert torch.equal(inputs["student"], ImageInput(plain.mean, plain.std, size=(6, 6))(pixels))
    assert ModelFacts.of(built.train_loader).shape == (3, 6, 6)
    assert ModelFacts.of(built.train_loader, "teacher", "teacher").shape == (3, 12, 12)


def test_who_takes_the_data_as_it_is_changes_nothing(photos, factories):
    config = of_photos(photos, factories, "stages.s.teacher.inputs={size=8}", "stages.s.student.inputs={}")
    config = config.model_copy(update={"stages": {"s": config.stages["s"].model_copy(update={"teacher": None})}})
    stage = config.stages["s"].model_copy(update={"terms": config.stages["s"].terms[:1]})
    options = {"side": 8}
    student = stage.student.model_copy(update={"options": options})
    config = config.model_copy(update={"stages": {"s": stage.model_copy(update={"student": student})}})
    built = build_stage(config, "s", RunContext(trust=True))
    assert built.train_loader.dataset.inputs is None
    assert built.train_loader.dataset.fingerprint() == load_splits(config.data).train.fingerprint()


def test_a_models_own_configuration_is_found_and_the_table_wins(photos, texts, factories, monkeypatch):
    own = ImageInput((0.1, 0.1, 0.1), (0.2, 0.2, 0.2), size=(12, 12), interpolation="bicubic")

    def input_of(model):
        return own if getattr(model, "body", None) is not None and model.fc.in_features == 9 else None

    monkeypatch.setattr(models, "input_of", input_of)
    config = of_photos(photos, factories, 'stages.s.teacher.inputs={interpolation="bilinear"}')
    stage = config.stages["s"]
    bare = stage.teacher.model_copy(
        update={"inputs": stage.teacher.inputs.model_copy(update=dict.fromkeys(("size", "mean", "std")))}
    )
    config = config.model_copy(update={"stages": {"s": stage.model_copy(update={"teacher": bare})}})
    train = build_stage(config, "s", RunContext(trust=True)).splits.train
    assert train.inputs["teacher"] == ImageInput(own.mean, own.std, size=(12, 12), interpolation="bilinear")
    assert train.inputs["student"].size == (6, 6)
    drawn = SimpleNamespace(is_drawn=lambda name: name == "cnn3")
    monkeypatch.setattr(models, "input_of", lambda model: own)
    monkeypatch.setattr(taken, "named", drawn)
    student = stage.student.model_copy(update={"model": "cnn3", "factory": None, "options": {}, "inputs": None})
    config = config.model_copy(update={"stages": {"s": stage.model_copy(update={"student": student})}})
    train = build_stage(config, "s", RunContext(trust=True)).splits.train
    assert train.inputs["student"] == train.own_input
    monkeypatch.setattr(models, "input_of", lambda model: TextInput(lambda texts: {}, max_length=3))
    with pytest.raises(ValueError, match="The teacher takes texts, as the tokenizer of its model says, and the data"):
        build_stage(config, "s", RunContext(trust=True))


def test_each_of_several_teachers_has_its_own(photos, factories):
    values = of_photos(photos, factories).model_dump(exclude_none=True)
    stage = values["stages"]["s"]
    small = {"factory": f"{factories}:eye", "options": {"side": 4}, "inputs": {"size": 4}}
    stage["teacher"] = {"big": stage["teacher"], "small": small}
    stage["terms"] = [{"key": "ce"}, *({"key": "kd", "name": name, "teacher": name} for name in ("big", "small"))]
    built = build_stage(from_values(values, "test"), "s", RunContext(trust=True))
    inputs = next(iter(built.train_loader))[0]
    assert {name: images.shape[-1] for name, images in inputs.items() if name != "teacher"} == {
        "student": 6,
        "big": 12,
        "small": 4,
    }
    assert ModelFacts.of(built.train_loader, "small", "teacher").shape == (3, 4, 4)
    values = of_photos(photos, factories).model_dump(exclude_none=True)
    stage = values["stages"]["s"]
    stage["student"] = {"anna": stage["student"], "bob": small}
    with pytest.raises(ValueError, match=r"must take the data alike, .*: 'anna' takes it with 6x6 .*'bob' with 4x4"):
        build_stage(from_values(values, "test"), "s", RunContext(trust=True))


def test_students_of_a_stage_share_a_tokenizer(texts, factories):
    values = of_texts(texts, factories).model_dump(exclude_none=True)
    small = values["stages"]["student"]["student"]
    large = {**small, "inputs": {**small["inputs"], "tokenizer": str(texts / "large.json")}}
    values["stages"]["student"]["student"] = {"anna": small, "bob": small}
    inputs = next(iter(build_stage(from_values(values, "test"), "student", RunContext(trust=True)).train_loader))[0]
    assert torch.equal(inputs["anna"]["input_ids"], inputs["bob"]["input_ids"])
    values["stages"]["student"]["student"] = {"anna": small, "bob": large}
    with pytest.raises(ValueError, match="The students of a stage must take the data alike"):
        build_stage(from_values(values, "test"), "student", RunContext(trust=True))


# Whole runs


@pytest.mark.parametrize("kind", ["texts", "photos"])
def test_a_float32_cache_gives_the_same_bits(texts, photos, factories, tmp_path, kind, caplog):
    caplog.set_level(logging.INFO, logger="congruence")
    made = {"texts": of_texts, "photos": of_photos}[kind]
    folder = {"texts": texts, "photos": photos}[kind]
    live = run(made(folder, factories), tmp_path / "live", trust=True)
    stored = run(made(folder, factories, cache="float32"), tmp_path / "stored", trust=True)
    name = list(live)[-1]
    weights = [done[name].student.state_dict() for done in (live, stored)]
    same_bits = "the last bits of the teacher's output" not in caplog.text  # of a width of 9 on some processors
    torch.testing.assert_close(weights[0], weights[1], rtol=0 if same_bits else 1e-5, atol=0 if same_bits else 1e-6)
    assert stored[name].result.last == pytest.approx(live[name].result.last, rel=0 if same_bits else 1e-5)


def test_the_command_trains_measures_and_resumes_texts(texts, factories, tmp_path):
    config = of_texts(texts, factories)
    path = tmp_path / "own.toml"
    path.write_text(resolved_toml(config))
    assert load_config(path) == config.model_copy(update={"name": load_config(path).name})
    out = tmp_path / "run"
    done = CliRunner().invoke(app, ["distill", str(path), "--out", str(out), "--trust"])
    assert done.exit_code == 0, done.output
    assert load_config(out / "config.toml").stages["student"].student.inputs.max_length == 5
    for words in (["distill", str(path), "--out", str(out), "--trust", "--resume"], ["evaluate", str(out), "--trust"]):
        again = CliRunner().invoke(app, words)
        assert again.exit_code == 0, again.output
    student = load_student(out, lambda: sys.modules[factories].bag(7, 4, 5, 2))
    assert student.trained_on["class_names"] == ["bad", "good"]
    splits = load_splits(config.data)
    small = build_stage(config, "student", RunContext(trust=True)).splits
    numbers = measure(student, small)
    assert numbers.accuracy is not None
    with pytest.raises(ValueError, match="`inputs` must be given before a batch is read"):
        measure(student, splits)


def test_the_command_trains_and_measures_unlike_images(photos, factories, tmp_path):
    path, out = tmp_path / "own.toml", tmp_path / "run"
    path.write_text(resolved_toml(of_photos(photos, factories)))
    done = CliRunner().invoke(app, ["distill", str(path), "--out", str(out), "--trust"])
    assert done.exit_code == 0, done.output
    facts = json.loads((out / "model.json").read_text())
    assert facts["shape"] == [3, 6, 6]
    again = CliRunner().invoke(app, ["evaluate", str(out), "--trust"])
    assert again.exit_code == 0, again.output


def test_an_earlier_stages_student_is_held_to_its_own_part(photos, factories, tmp_path):
    values = of_photos(photos, factories).model_dump(exclude_none=True)
    stage = values["stages"].pop("s")
    first = {"student": stage["teacher"], "terms": [{"key": "ce"}], "train": stage["train"]}
    values["stages"] = {"teacher": first, "s": {**stage, "teacher": "teacher"}}
    done = run(from_values(values, "test"), tmp_path / "run", trust=True)
    assert done["teacher"].student.trained_on["shape"] == [3, 12, 12]
    assert done["s"].student.trained_on["shape"] == [3, 6, 6]
    assert measure(done["s"].student, done["s"].splits, teacher=done["s"].teacher).accuracy is not None
    with pytest.raises(ValueError, match=r"was trained on images of .3, 6, 6.*, these are of .3, 8, 8."):
        load_student(
            tmp_path / "run",
            lambda: sys.modules[factories].eye(6, 3, 2),
            data=load_splits(from_values(values, "test").data),
        )


def test_one_call_takes_texts(texts, factories, tmp_path):
    bag = __import__(factories).bag
    splits = cg.data.load(texts / "texts.tsv", validation=6, test=8)
    splits = splits.for_models(
        teacher=cg.data.TextInput(texts / "large.json", max_length=9),
        student=cg.data.TextInput(str(texts / "small.json"), max_length=5),
    )
    done = cg.distill(bag(12, 8, 9, 2), bag(7, 4, 5, 2), splits, ["kd", "pkt"], epochs=1, batch_size=8)
    assert done.report.samples == 8
    assert isinstance(splits.test, TextDataset)
    with pytest.raises(ValueError, match="The student takes texts in no way that is known: say tokenizer and max_len"):
        cg.distill(bag(12, 8, 9, 2), bag(7, 4, 5, 2), str(texts / "texts.tsv"), epochs=1)


# What is told


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.student.student.inputs={max_length=5}", None),
        (
            "stages.student.student.options.words=5",
            r"The student's .* failed with IndexError: .* \(the largest numbers are 6 in input_ids, 1 in att",
        ),
        ("stages.student.student.options.length=4", "expected 4 tokens, got 5"),
        ("stages.student.train.augment={pad=1}", "`augment` must be None, since texts are not augmented"),
        ("data.size=8", "`size` must be left out for 'texts.tsv', which holds texts"),
    ],
)
def test_what_does_not_fit_texts_is_told(texts, factories, tmp_path, override, sentence):
    config = of_texts(texts, factories, override)
    if sentence is None:
        bare = config.stages["student"].student.inputs.model_copy(update={"tokenizer": None})
        student = config.stages["student"].student.model_copy(update={"inputs": bare})
        stage = config.stages["student"].model_copy(update={"student": student})
        config = config.model_copy(update={"stages": {**config.stages, "student": stage}})
        sentence = "The student takes texts in no way that is known: say tokenizer in its model's table"
    with pytest.raises(ValueError, match=sentence):
        run(config, tmp_path / "run", trust=True)
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_images_is_told(photos, texts, factories, tmp_path):
    grey = of_photos(photos, factories, "stages.s.teacher.inputs={mean=[0.5], std=[0.5]}")
    with pytest.raises(ValueError, match=r"The teacher takes images of 1 channel.*those of the data .* have 3"):
        run(grey, tmp_path / "run", trust=True)
    ready = load_splits(grey.data).for_models(teacher=ImageInput((0.5,) * 3, (0.5,) * 3, size=(12, 12)))
    with pytest.raises(ValueError, match=r"says how each model takes it .* so does the table `inputs` of the student"):
        run(of_photos(photos, factories), tmp_path / "run", trust=True, splits=ready)
    values = of_photos(photos, factories).model_dump(exclude_none=True)
    values["stages"]["s"]["student"]["inputs"] = {"tokenizer": "x.json", "max_length": 3}
    with pytest.raises(ValueError, match="The student takes texts, as the table `inputs` of its model says"):
        run(from_values(values, "test"), tmp_path / "run", trust=True)
    values = of_texts(texts, factories).model_dump(exclude_none=True)
    values["stages"]["student"]["student"] = {"model": "cnn3"}
    with pytest.raises(ValueError, match=r"The model 'cnn3' asks for the channels of images .* the data are texts"):
        run(from_values(values, "test"), tmp_path / "run", trust=True)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("{sise=3}", "inputs.sise: expected one of size, mean, std, interpolation, tokenizer, max_length, got 'sise'"),
        ("{mean=[0.5]}", "inputs.std: expected numbers too where `mean` is given"),
        ("{mean=[0.5], std=[0.0]}", "inputs.std: expected numbers > 0, got"),
        ("{size=8, max_length=3}", "inputs.max_length: expected none beside `size`, which is of images"),
        ('{interpolation="nearest"}', "inputs.interpolation: expected one of bilinear, bicubic, got 'nearest'"),
    ],
)
def test_a_wrong_table_is_told(photos, factories, table, line):
    with pytest.raises(ConfigError) as caught:
        of_photos(photos, factories, f"stages.s.student.inputs={table}")
    assert line in str(caught.value)

"""Files, what they extend, overrides, and every error at once."""

import pytest

from congruence.config import ConfigError, from_values, load_config
from congruence.core.brevity import listed
from congruence.data.sources.catalogue import sources

GOOD = """
[data]
name = "digits"
[stages.student.student]
model = "resnet8"
[[stages.student.terms]]
key = "ce"
[stages.student.train]
epochs = 2
"""


def written(folder, text, name="run.toml"):
    path = folder / name
    path.write_text(text, encoding="utf8")
    return path


def lines(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return list(caught.value.lines)


def test_defaults_and_the_name_of_the_file(tmp_path):
    config = load_config(written(tmp_path, GOOD))
    assert config.name == f"{tmp_path.name}/run"
    stage = config.stages["student"]
    assert (stage.train.batch_size, stage.train.optimizer.lr, stage.terms[0].weight) == (64, 0.05, 1.0)


@pytest.mark.parametrize(
    ("written_so", "weight", "share"),
    [
        ('weight = "balanced"', "balanced", 1.0),
        ('weight = "balanced"\nshare = 0.3', "balanced", 0.3),
        ('weight = "published"', {"distance": 25.0, "angle": 50.0}, None),
        ("", {"distance": 25.0, "angle": 50.0}, None),
    ],
)
def test_a_weight_in_a_word_is_resolved(written_so, weight, share, tmp_path):
    text = GOOD.replace('key = "ce"', f'key = "ce"\n[[stages.student.terms]]\nkey = "rkd"\n{written_so}')
    term = load_config(written(tmp_path, text)).stages["student"].terms[1]
    assert (term.weight, term.share) == (weight, share)
    assert (term.term().weight, term.term().share) == (weight, share)


def test_a_wrong_weight_or_share_is_one_sentence(tmp_path):
    wrong = GOOD.replace('key = "ce"', 'key = "ce"\nweight = "balance"\nshare = -1')
    found = lines(written(tmp_path, wrong))
    assert len(found) == 2
    assert "terms.0.weight: expected a finite number, one for each part, 'balanced' or 'published'" in found[0]


def test_extends_merges_tables_and_replaces_lists(tmp_path):
    written(tmp_path, GOOD, "base.toml")
    over = 'extends = "base.toml"\n[[stages.student.terms]]\nkey = "pkt"\n[stages.student.train]\nseed = 3\n'
    stage = load_config(written(tmp_path, over)).stages["student"]
    assert [term.key for term in stage.terms] == ["pkt"]
    assert (stage.train.epochs, stage.train.seed, stage.student.model) == (2, 3, "resnet8")


def test_a_cycle_is_refused(tmp_path):
    written(tmp_path, 'extends = "b.toml"', "a.toml")
    path = written(tmp_path, 'extends = "a.toml"', "b.toml")
    assert lines(path) == [
        f"{tmp_path / 'a.toml'}: extends: expected a chain that ends, got 'b.toml' extends 'a.toml' extends 'b.toml'."
    ]


def test_an_absent_base_is_named(tmp_path):
    told = "expected a file beside this one, or a shipped recipe, got"
    path = written(tmp_path, 'extends = "bass.toml"')
    assert lines(path) == [f"{path}: extends: {told} 'bass.toml'."]
    path = written(tmp_path, 'extends = "digits/cckdd"')
    assert lines(path)[0].startswith(f"{path}: extends: {told} 'digits/cckdd'. Did you mean 'digits/cckd'")


def test_extends_takes_a_shipped_recipe(tmp_path):
    path = written(tmp_path, 'extends = "digits/pkt"\n[stages.student.train]\nepochs = 3\n')
    ours, theirs = load_config(path), load_config("digits/pkt", ["stages.student.train.epochs=3"])
    assert ours.stages == theirs.stages
    assert (ours.name, theirs.name) == (f"{tmp_path.name}/{path.stem}", "digits/pkt")


def test_a_syntax_error_names_file_and_line(tmp_path):
    path = written(tmp_path, "a = 3\nb =\n")
    (line,) = lines(path)
    assert line.startswith(f"{path}: line 2: ")


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe")
    assert lines(path) == [f"{path}: the file cannot be read: it is not UTF-8 text."]


def test_every_error_at_once(tmp_path):
    base = written(tmp_path, GOOD, "base.toml")
    path = written(
        tmp_path,
        """
extends = "base.toml"
nmae = "x"
[data]
name = "digts"
split_seed = -1
[stages.student]
teacher = "studnet"
[stages.student.student]
options = { embeding_dim = 3 }
[stages.student.train]
epochs = "three"
seed = -1
batch_size = 0
precision = "fp8"
augment = { pad = -3 }
optimizer = { lr = 0, nam = "sgd" }
[[stages.student.terms]]
key = "ptk"
[[stages.student.terms]]
key = "pkt"
wieght = 3
eps = -1
decay = 0
[stages.third]
student = { model = "resnet9" }
terms = []
train = {}
""",
    )
    found = lines(path, "stages.student.train.schedule.name=cosin", "x", "stages.studnt.train.epochs=3")
    found = [line.replace(f"{path}: ", "").replace("stages.student.", "S.") for line in found]
    starts = {
        "--set x: expected key=value, got 'x'.",
        "--set stages.studnt.train.epochs=3: stages.studnt.train.epochs: expected a stage of the file: student, third, "
        "got 'studnt'. Did you mean 'student'?",
        "nmae: expected one of name, extends, data, protocol, diagnostics, stages, got 'nmae'. Did you mean 'name'?",
        f"data.name: expected a folder or one of {listed((*sources(), 'image-folder'))}, got 'digts'. "
        "Did you mean 'digits'?",
        "data.split_seed: expected an integer >= 0, got -1.",
        "S.teacher: expected a model's table, since no stage comes before, got 'studnet'.",
        "S.student.options.embeding_dim: The model 'resnet8' has no option 'embeding_dim'. Did you mean 'embedding",
        "S.train.epochs: expected an integer, got 'three'.",
        "S.train.seed: expected an integer >= 0, got -1.",
        "S.train.batch_size: expected an integer >= 1, got 0.",
        "S.train.precision: expected one of float32, bf16, fp16, got 'fp8'.",
        "S.train.augment.pad: expected an integer >= 0, got -3.",
        "S.train.optimizer.lr: expected a number > 0, got 0",
        "S.train.optimizer.nam: expected one of name, lr, momentum, nesterov, weight_decay, betas, got 'nam'. "
        "Did you mean 'name'?",
        "S.terms.0.key: expected one of ",
        "S.terms.1.wieght: expected one of weight, share, name, student_layer, ",
        "S.terms.1.eps: expected a number > 0, got -1.",
        "S.terms.1.decay: expected a number > 0, got 0.",
        "stages.third.student.model: expected one of resnet8, ",
        "stages.third.terms: expected at least one, got none.",
        "stages.third.train: `epochs` must be given, or `max_steps`, got neither.",
        "--set S.train.schedule.name=cosin: S.train.schedule.name: expected one of constant, step, cosine, "
        "got 'cosin'. Did you mean 'cosine'?",
    }
    assert [start for start in starts if not any(line.startswith(start) for line in found)] == []
    assert [line for line in found if not any(line.startswith(start) for start in starts)] == []
    assert base.read_text() == GOOD


def test_an_error_names_the_file_that_set_the_key(tmp_path):
    base = written(tmp_path, GOOD.replace("epochs = 2", "epochs = 0"), "base.toml")
    path = written(tmp_path, 'extends = "base.toml"\n[data]\ntrain_size = 0\n')
    assert sorted(lines(path)) == sorted(
        [
            f"{base}: stages.student.train.epochs: expected an integer >= 1 or None, got 0.",
            f"{path}: data.train_size: expected an integer >= 1, got 0.",
        ]
    )


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("stages.student.train.epochs=3", lambda s: s.train.epochs, 3),
        ("stages.student.train.device=cpu", lambda s: s.train.device, "cpu"),
        ("stages.student.train.augment=true", lambda s: s.train.augment, True),
        ("stages.student.train.schedule.milestones=[1, 2.5]", lambda s: s.train.schedule.milestones, (1, 2.5)),
        ("stages.student.terms.0.weight=0.5", lambda s: s.terms[0].weight, 0.5),
        ('stages.student.terms=[{key="pkt", eps=1e-3}]', lambda s: s.terms[0].term().hyperparameters, {"eps": 1e-3}),
        ("stages.student.student.options.embedding_dim=12", lambda s: s.student.options, {"embedding_dim": 12}),
    ],
)
def test_overrides_are_toml_values_and_bare_words(tmp_path, override, get, value):
    assert get(load_config(written(tmp_path, GOOD), [override]).stages["student"]) == value


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.student.terms.1.weight=2", "expected an item from 0 to 0 of the list, got '1'."),
        ("data.name.x=2", "expected a table at 'data.name', got 'digits'."),
        ("stages.student.train.epohcs=2", "Did you mean 'epochs'?"),
    ],
)
def test_overrides_of_nothing(tmp_path, override, sentence):
    (line,) = lines(written(tmp_path, GOOD), override)
    assert line.startswith(f"--set {override}: {override.partition('=')[0]}: ")
    assert line.endswith(sentence)


@pytest.mark.parametrize("name", ["digits/pkt", "recipes/digits/pkt.toml", "digits/pkt.toml"])
def test_shipped_recipes_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).name == "digits/pkt"


def test_an_unknown_recipe_has_near_names():
    with pytest.raises(ValueError, match=r"no file 'digits/ptk'.*Did you mean 'digits/pkt'"):
        load_config("digits/ptk")


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    text = GOOD.replace('"digits"', '"images"').replace('"resnet8"', '"resnet8"\nweights = "w.safetensors"')
    config = load_config(written(tmp_path, text))
    assert config.data.name == str(tmp_path / "images")
    assert config.stages["student"].student.weights == str(tmp_path / "w.safetensors")


def test_values_from_elsewhere_name_their_source():
    with pytest.raises(ConfigError, match=r"\Acommand line: data: expected a value, got nothing\.\n"):
        from_values({"stages": 3}, "command line")


@pytest.mark.parametrize(("key", "value"), [("data.size", "''"), ("data.validation", "[]")])
def test_a_value_of_several_types_is_named_by_its_key(key, value):
    with pytest.raises(ConfigError) as error:
        load_config("digits/pkt", [f"{key}={value}"])
    assert error.value.lines
    assert all(line.startswith(f"--set {key}={value}: {key}: expected ") for line in error.value.lines)


def test_a_key_that_means_something_beside_another_alone():
    term = "stages.student.terms.1"
    random = (f"{term}.count=20", f"{term}.landmarks='random'")
    config = load_config("digits/kda", random)
    assert config.stages["student"].terms[1].model_extra["count"] == 20
    with pytest.raises(ConfigError) as caught:
        load_config("digits/kda", (*random, f"{term}.warmup=-1"))
    assert len(caught.value.lines) == 1
    assert "terms.1.warmup: expected an integer >= 0, got -1." in caught.value.lines[0]
    with pytest.raises(ConfigError, match=r"count: expected None for the landmarks 'centres', got 20\."):
        load_config("digits/kda", random[:1])


def test_options_that_only_fit_together():
    term = "stages.student.terms=[{key='kda', landmarks='clusters', count=9%s}]"
    (found,) = load_config("digits/pkt", [term % ""]).stages["student"].terms
    assert found.term().hyperparameters["count"] == 9
    with pytest.raises(ConfigError) as raised:
        load_config("digits/pkt", [term % ", warmup=-1"])
    assert "warmup" in str(raised.value)
    assert "terms.0.count" not in str(raised.value)
    with pytest.raises(ConfigError, match="count: expected None for the landmarks 'centres', got 9"):
        load_config("digits/pkt", ["stages.student.terms=[{key='kda', count=9}]"])

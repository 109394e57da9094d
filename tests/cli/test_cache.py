"""`congruence cache` stores what the run of the same configuration then reads."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from congruence.cli.main import app

CONFIG = """
name = "cached"
[data]
name = "digits"
train_size = 160
[stages.student]
student = { model = "cnn3", options = { width = 4 } }
teacher = { VALUE }
terms = [{ key = "kd" }]
train = { epochs = 1, batch_size = 40 }
teacher_cache = { views = 1, dtype = "int8" }
"""


def said(*words, code=0):
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    import congruence as cg
    from congruence.models.weights import save_weights

    folder = tmp_path_factory.mktemp("config")
    teacher = cg.models.build("cnn3", classes=10, in_channels=1, width=6)
    save_weights(teacher.state_dict(), folder / "teacher.safetensors")
    path = folder / "cached.toml"
    value = f'model = "cnn3", options = {{ width = 6 }}, weights = "{folder}/teacher.safetensors"'
    path.write_text(CONFIG.replace("VALUE", value))
    return path


def test_shards_then_a_run(config, tmp_path):
    out = tmp_path / "run"
    assert "no shards" in said("cache", config, "--out", out, "--status")
    assert "shard 1/2" in said("cache", config, "--out", out, "--shard", "1/2")
    status = said("cache", config, "--out", out, "--status")
    assert "complete; rows of" in status
    assert "absent: 2/2" in status
    assert "lacks the shards 2/2" in said("distill", config, "--out", out, code=2)
    said("cache", config, "--out", out, "--shard", "2/2")
    assert not (out / "config.toml").exists()  # found before the run began
    said("distill", config, "--out", out)
    assert not list((out / "teacher-cache").glob("*.npy"))


def test_a_missing_shard_is_found_before_an_earlier_stage_trains(config, tmp_path):
    """The second stage's teacher is cached in a folder of its own, of which half is there."""
    first, second = config.read_text().split("[stages.student]")
    last = second.replace("views = 1", f'views = 1, folder = "{tmp_path}/cache"')
    two = tmp_path / "two.toml"
    two.write_text(f"{first}[stages.before]{second.partition('teacher_cache')[0]}[stages.student]{last}")
    said("cache", two, "--out", tmp_path / "run", "--stage", "student", "--shard", "1/2")
    assert "lacks the shards 2/2" in said("distill", two, "--out", tmp_path / "run", code=2)
    assert not (tmp_path / "run/before").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shard", "3/2"], "--shard must be I/N with 1 <= I <= N, such as 1/4, got '3/2'."),
        (["--stage", "teacher"], "--stage must be one of student, got 'teacher'."),
        (["--set", "stages.student.teacher_cache=false"], "The stage 'student' has no teacher_cache"),
    ],
)
def test_bad_words(config, tmp_path, words, sentence):
    assert sentence in said("cache", config, "--out", tmp_path, *words, code=2).replace("\n", " ")


def test_a_teacher_of_an_earlier_stage_must_be_trained(tmp_path):
    stages = CONFIG.replace(
        "[stages.student]",
        '[stages.big]\nstudent = { model = "cnn3" }\nterms = [{ key = "ce" }]\n'
        "train = { epochs = 1, batch_size = 40 }\n[stages.student]",
    ).replace("teacher = { VALUE }", 'teacher = "big"')
    (tmp_path / "two.toml").write_text(stages)
    words = ["cache", tmp_path / "two.toml", "--out", tmp_path / "run"]
    assert "learns from the stage 'big', which is not trained" in said(*words, code=2)
    assert "no shards" in said(*words, "--status")


def test_each_rank_has_its_shard(monkeypatch):
    from congruence.pipeline.caching import parse_shard

    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert parse_shard(None) == (3, 4)
    with pytest.raises(ValueError, match="left out under torchrun"):
        parse_shard("1/4")

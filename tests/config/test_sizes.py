"""What is too large for a configuration or a plan is one short sentence with the file and the key."""

import re

import pytest

from congruence.bench.planfile import load_plan
from congruence.config import load_config
from congruence.config.problems import ConfigError

HUGE = "1" + "0" * 400
CASES = {
    "digits": (f"stages.student.train.epochs={HUGE}", r"epochs: expected a number of at most 19 digits, got 1000"),
    "more digits": (
        f"seed={HUGE * 20}",
        r"seed: expected numbers of at most 19 digits, got one of",
    ),
    "a number beside a rate": (f"stages.student.train.optimizer.lr={HUGE}", r"lr: expected a number of at most 19 dig"),
    "64 bits": (f"stages.student.train.micro_batch={2**63}", r"micro_batch: expected a number of at most 19 digits, g"),
    "deep lists": ("stages.student.terms=" + "[" * 900 + "]" * 900, r"terms.*: expected tables and lists at most 20 d"),
    "deeper lists": (
        "stages.student.terms=" + "[" * 3000 + "]" * 3000,
        r"terms: expected tables and lists at most 20 de",
    ),
    "deep tables": ("data=" + "{a=" * 900 + "1" + "}" * 900, r"data.*: expected tables and lists at most 20 deep in e"),
    "long text": (f'data.name="{"x" * 100_000}"', r"data.name: expected text of at most 4,096 characters, got 100,000"),
    "a long name": (f'data.name="{"x" * 4000}"', r"data.name: expected a folder or one of digits, .*, got 'xxx"),
    "a long key": ("x" * 100_000 + "=1", r"expected keys of at most 4,096 characters, got 100,000"),
    "nul": (r'data.root="a\u0000b"', r"data.root: expected text without a NUL character, got 'a\\x00b'"),
    "a wrong list": (
        f"data.test={list(range(10_000))}",
        r"data.test: expected .*, got \[0, 1, 2, 3, 4, 5, 6, 7, \.\.\.\]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_override_too_large(case: str) -> None:
    override, sentence = CASES[case]
    with pytest.raises(ConfigError) as caught:
        load_config("digits/pkt", [override])
    assert any(re.search(sentence, line) for line in caught.value.lines)
    assert all(len(line) < 700 for line in caught.value.lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"seed = {HUGE}", r"a.toml: seed: expected a number of at most 19 digits, got 1000"),
        (f"seed = {'1' * 5000}", r"a.toml: expected numbers of at most 19 digits, got one of more than 4,300"),
        ("data = " + "[" * 3000 + "]" * 3000, r"a.toml: expected tables and lists at most 20 deep in each other"),
        ('name = "a\\u0000b"', r"a.toml: name: expected text without a NUL character, got 'a\\x00b'"),
    ],
)
def test_a_file_too_large(tmp_path, text: str, sentence: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(tmp_path / "a.toml")
    assert len(str(caught.value)) < 700
    plan = sentence.replace("a.toml: expected", "a.toml: not TOML: expected")
    with pytest.raises(ValueError, match=plan) as caught:
        load_plan(str(tmp_path / "a.toml"))
    assert len(str(caught.value)) < 700


def test_a_path_that_no_system_has_is_no_recipe() -> None:
    with pytest.raises(ValueError, match=r"^There is no file 'xxx"):
        load_config("x" * 100_000)
    with pytest.raises(ValueError, match=r"^There is no file 'a"):
        load_config("a\0b")

"""Tokenizers from files."""

import json

import pytest

from congruence.models.inputs import TextInput
from congruence.models.tokenizers import Words

VOCABULARY = {"<pad>": 3, "<unk>": 0, "good": 1, "film": 2, "!": 4}


def test_words_of_a_file(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps(VOCABULARY))
    taken = TextInput(path, max_length=4)
    given = taken(["Good film!", "no-one good film in here", ""])
    assert given["input_ids"].tolist() == [[1, 2, 4, 3], [0, 0, 0, 1], [0, 3, 3, 3]]
    assert given["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert TextInput(path, max_length=4).key == taken.key != TextInput(path, max_length=5).key
    assert TextInput(path, max_length=4).describe() == taken.describe()
    path.write_text(json.dumps(VOCABULARY | {"film": 5}))
    assert TextInput(path, max_length=4).key != taken.key


def test_a_tokenizer_json_cuts_and_pads(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "end": 3}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A end", special_tokens=[("end", 3)])
    made.save(str(tmp_path / "tokenizer.json"))
    given = TextInput(tmp_path / "tokenizer.json", max_length=4)(["a b", "a a a a a"])
    assert given["input_ids"].tolist() == [[2, 1, 3, 0], [2, 2, 2, 3]]
    assert given["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "is absent"),
        ("{", "is damaged: it is not JSON text"),
        ('{"a": 0}', r"cannot be used: `Words`: `vocabulary` must be one with the word '\[PAD\]' or '<pad>'"),
        ('["a"]', "`vocabulary` must be words and their numbers from 0 on, got list"),
        ('{"a": -1}', "`vocabulary` must be words and their numbers from 0 on"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, text, sentence):
    path = tmp_path / "words.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        TextInput(path, max_length=4)


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    for name in ("tokenizers", "transformers"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": {}}))
    with pytest.raises(ValueError, match="needs the package tokenizers, which is not installed"):
        TextInput(path, max_length=4)
    with pytest.raises(ValueError, match="needs the package transformers, which is not installed"):
        TextInput(tmp_path, max_length=4)


def test_words_says_what_it_needs():
    with pytest.raises(ValueError, match="one with the word"):
        Words({"a": 1}, max_length=2)

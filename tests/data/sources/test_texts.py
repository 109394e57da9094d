"""Files of texts: read, numbered, and split as images are."""

import json

import pytest

from congruence.data import TextDataset, load


def test_a_text_a_line(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\n\ntwo two\r\n  three \n" + "".join(f"line {n}\n" for n in range(17)))
    splits = load(path, test=0.2, validation=2)
    assert [len(part) for part in splits] == [14, 2, 4]
    assert all(isinstance(part, TextDataset) for part in splits)
    assert splits.train.labels is None
    assert splits.train.classes is None
    texts = [text for part in splits for text in part.texts]
    assert {"one", "two two", "  three "} < set(texts)
    assert len(set(texts)) == 20


@pytest.mark.parametrize("ending", ["tsv", "jsonl"])
def test_names_are_numbered_and_parts_keep_their_share(tmp_path, ending):
    path = tmp_path / f"reviews.{ending}"
    rows = [(f'number "{n}"', ("bad", "good", "")[n % 3]) for n in range(30)]
    if ending == "tsv":
        path.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in rows))
    else:
        path.write_text("".join(json.dumps({"text": text, "label": label or None}) + "\n" for text, label in rows))
    splits = load(path, split_seed=3, train_size=12, test=3, validation=6)
    assert splits.train.class_names == ("bad", "good")
    assert splits.train.name == f"reviews.{ending}/train"
    assert [len(part) for part in splits] == [12, 6, 3]
    known = dict(rows)
    for part in splits:
        names = ["" if label < 0 else part.class_names[label] for label in part.labels.tolist()]
        assert names == [known[text] for text in part.texts]
    assert [p.texts for p in load(path, split_seed=3, train_size=12, test=3, validation=6)] == [p.texts for p in splits]


def test_numbers_are_themselves(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f"t{n}\t{(2, 0, -1)[n % 3]}\n" for n in range(12)))
    splits = load(path, test=0, validation=0)
    assert splits.train.class_names == ("0", "1", "2")
    assert splits.train.labels.tolist() == [2, 0, -1] * 4
    few = load(path, test=0, validation=0, classes=2)
    assert set(few.train.labels.tolist()) == {0, -1}


@pytest.mark.parametrize(
    ("name", "text", "more", "sentence"),
    [
        ("a.txt", None, {}, "The file '.*a.txt' is absent"),
        ("a.txt", "\n\n", {}, "The file '.*a.txt' holds no text"),
        ("a.txt", b"\xff\xfe\xff", {}, "The file '.*a.txt' is damaged: it is not UTF-8 text"),
        ("a.tsv", "sentence\tlabel\nx\t1\n", {}, "first line of column names with 'text' .* got 'sentence', 'label'"),
        ("a.tsv", "text\tlabel\nx\n", {}, "line 2: expected 2 columns, got 1"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', {}, "line 2: it is not JSON"),
        ("a.jsonl", '{"sentence": "x"}\n', {}, 'line 1: expected an object with "text" .*, got {"sentence": "x"}'),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', {}, "line 1: expected a whole number or a name .*, got 0.5"),
        ("a.tsv", "text\tlabel\nx\t7\ny\t0\n", {}, "numbers from 0 on, below the 2 texts"),
        ("a.txt", "x\ny\n", {"size": 8}, "`size` must be left out for 'a.txt', which holds texts"),
        ("a.txt", "x\ny\n", {"mean": [0.5], "std": [0.5]}, "`mean and std` must be left out for 'a.txt'"),
        ("a.txt", "x\ny\n", {"root": "."}, "`root` must be None for a file of texts"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, name, text, more, sentence):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=sentence):
        load(path, **more)

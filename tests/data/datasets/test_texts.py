"""`TextDataset`: tokenised once for each model, then gathered a batch at a time."""

import pytest
import torch
from torch.utils.data import DataLoader

from congruence import Inputs
from congruence.data import Augment, TextDataset, TextInput, facts, keep_labels, loader
from congruence.data.datasets.facts import declared_classes
from congruence.data.datasets.model_facts import ModelFacts

TEXTS = [f"text number {n} {'abc'[n % 3]}" for n in range(11)]


class Letters:
    """A tokenizer of characters, which counts what it is asked."""

    def __init__(self, length, first=1):
        self.length, self.first, self.asked = length, first, 0

    def __call__(self, texts):
        self.asked += len(texts)
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in enumerate(texts):
            codes = [self.first + ord(letter) % 50 for letter in text[: self.length]]
            ids[row, : len(codes)] = torch.tensor(codes)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.fixture
def pair():
    return Letters(9), Letters(5, first=60)


@pytest.fixture
def dataset(pair):
    teacher, student = (TextInput(each, max_length=each.length) for each in pair)
    return TextDataset(TEXTS, torch.arange(11) % 3, inputs={"teacher": teacher, "student": student}, name="t")


def test_a_batch_is_what_each_tokenizer_gives(dataset, pair):
    batch = dataset.batch([4, 0])
    assert isinstance(batch, Inputs)
    for name, letters in zip(("teacher", "student"), pair, strict=True):
        for argument, tokens in letters([TEXTS[4], TEXTS[0]]).items():
            assert batch[name][argument].dtype == torch.int64
            assert torch.equal(batch[name][argument], tokens)


def test_all_is_tokenised_once(dataset, pair):
    for _ in range(3):
        dataset.batch([1, 2])
    dataset.subset([3, 4]).batch([0])
    keep_labels(dataset, 1).batch([0])
    dataset.for_models(teacher=dataset.inputs["teacher"]).batch([0])
    assert [letters.asked for letters in pair] == [11, 11]


def test_positions_that_are_padding_in_all_texts_are_left_out_where_told():
    texts, letters = ["abc", "abcdefg", "a"], Letters(12)
    whole = TextDataset(texts, inputs=TextInput(letters, max_length=12)).batch([0, 1, 2])
    data = TextDataset(texts, inputs=TextInput(letters, max_length=12, trim=True))
    for rows in ([0, 1, 2], [2]):  # one length for all: a text does not depend on its batch
        for name, tokens in data.batch(rows).items():
            assert tokens.shape == (len(rows), 7)
            assert torch.equal(tokens, whole[name][rows][:, :7])
    assert not whole["attention_mask"][:, 7:].any()
    assert data.subset([0, 2]).batch([0])["input_ids"].shape == (1, 7)


def test_what_has_no_mask_or_no_padding_is_whole():
    class Unmasked(Letters):
        def __call__(self, texts):
            return {"input_ids": super().__call__(texts)["input_ids"]}

    for letters, texts in ((Unmasked(6), ["a", "ab"]), (Letters(6), ["abcdefgh", "a"]), (Letters(6), ["", ""])):
        data = TextDataset(texts, inputs=TextInput(letters, max_length=6, trim=True))
        assert data.batch([0, 1])["input_ids"].shape == (2, 6)


def test_one_input_for_all_gives_a_mapping(pair):
    data = TextDataset(TEXTS, inputs=TextInput(pair[0], max_length=9))
    assert type(data.batch([0])) is dict
    item, label = data[-1]
    assert label == -1
    assert torch.equal(item["input_ids"], pair[0]([TEXTS[-1]])["input_ids"][0])


def test_the_stock_loader_collates_both(dataset):
    inputs, labels = next(iter(DataLoader(dataset, batch_size=4)))
    assert isinstance(inputs, Inputs)
    assert labels.tolist() == [0, 1, 2, 0]
    assert torch.equal(inputs["student"]["input_ids"], dataset.batch(range(4))["student"]["input_ids"])


def test_the_loader_gives_whole_batches_and_stores_one_view(dataset):
    batches = loader(dataset, batch_size=4, seed=3)
    whole = list(batches.batches(1))
    for number, (inputs, labels, index) in enumerate(batches.batches(1, start=1)):
        assert torch.equal(index, whole[number + 1][2])
        assert torch.equal(inputs["teacher"]["input_ids"], dataset.batch(index)["teacher"]["input_ids"])
        assert torch.equal(labels, dataset.labels[index])
    assert not batches.varies()
    assert not loader(dataset, batch_size=4, augment=True).varies()
    inputs, _, index = next(iter(batches.in_order(0, 6, torch.tensor([7, 2]))))
    assert index.tolist() == [7, 2]
    assert inputs["student"]["attention_mask"].shape == (2, 5)
    workers = loader(dataset, batch_size=4, seed=3, workers=2)
    assert torch.equal(next(workers.batches(1))[0]["student"]["input_ids"], whole[0][0]["student"]["input_ids"])
    assert batches.describe()["dataset"] == dataset.fingerprint()[:16]


def test_views_are_copies_or_refused(dataset):
    batch = next(iter(loader(dataset, batch_size=4, views=("main", "clean"))))
    assert torch.equal(batch["views"]["clean"]["teacher"]["input_ids"], batch["inputs"]["teacher"]["input_ids"])
    with pytest.raises(ValueError, match="`views` must be 'main' or 'clean', since texts are not augmented, got 'str"):
        loader(dataset, batch_size=4, views=("main", "strong"))
    with pytest.raises(ValueError, match="`augment` must be None, since texts are not augmented"):
        loader(dataset, batch_size=4, augment=Augment())


def test_what_is_known_of_it(dataset):
    known = facts(dataset.subset([0, 4]))
    assert (known.size, known.classes, known.labels.tolist()) == (2, 3, [0, 1])
    assert declared_classes(dataset) == 3
    named = TextDataset(TEXTS, class_names=("a", "b"))
    assert ModelFacts.of(named) == ModelFacts(classes=2, class_names=("a", "b"))
    assert ModelFacts.of(loader(dataset, batch_size=2), "teacher") == ModelFacts(classes=3)


def test_the_fingerprint_is_of_what_models_get(dataset, pair):
    again = TextDataset(TEXTS, dataset.labels, inputs=dict(dataset.inputs), name="other")
    assert again.fingerprint() == dataset.fingerprint()
    assert again.fingerprint(labels=False) == dataset.fingerprint(labels=False) != dataset.fingerprint()
    pair[0].first = 2  # the same name, other tokens
    assert TextDataset(TEXTS, dataset.labels, inputs=dict(dataset.inputs)).fingerprint() != dataset.fingerprint()
    assert TextDataset(TEXTS).fingerprint() != TextDataset(TEXTS[::-1]).fingerprint()
    assert TextDataset(TEXTS).subset([1]).fingerprint() == TextDataset(TEXTS[1:2]).fingerprint()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TextDataset("text"), "`texts` must be a sequence of texts, got str"),
        (lambda: TextDataset([3]), "`texts` must be texts, got int"),
        (lambda: TextDataset(TEXTS, [1, 2]), r"`labels` must be as many as there are texts \(11\), got 2"),
        (lambda: TextDataset(TEXTS, inputs=Letters(3)), "a TextInput, or one for each model by its name, got Letters"),
        (lambda: TextDataset(TEXTS, inputs={"student": 3}), "by its name, got int as 'student'"),
        (lambda: TextDataset(TEXTS).batch([0]), r"given before a batch is read: a TextInput\(tokenizer, max_length"),
        (lambda: TextDataset(TEXTS).for_models(), "a TextInput for each model, by its name, got none"),
    ],
)
def test_what_is_wrong_is_told(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_the_example_holds_the_largest_tokens(dataset):
    example = dataset.subset([2, 5, 7, 8]).example()
    for name, arguments in example.items():
        whole = dataset.subset([2, 5, 7, 8]).batch(range(4))[name]["input_ids"]
        assert arguments["input_ids"].max() == whole.max()
    assert 2 <= len(example["student"]["input_ids"]) <= 4

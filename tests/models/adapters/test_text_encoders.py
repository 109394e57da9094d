"""Small sentence encoders: made by sizes, with a tokenizer of their own, and loaded by sentence-transformers."""

import json

import pytest
import torch
from _harness.encoders import THIRD_PARTY, imported
from torch import nn

import congruence as cg
from congruence.config.tables import ModelConfig
from congruence.models.adapters import kind_of
from congruence.models.adapters.libraries import folder_of
from congruence.models.adapters.text_encoders import learn_tokenizer
from congruence.models.zoo.sentence_encoders import StaticText, TextTransformer, mean_of_tokens

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]
TEXTS = [f"the {size} model number {number} sees a world" for size in ("small", "large") for number in range(10)]


@pytest.fixture(scope="module")
def tokenizer():
    imported("tokenizers")
    return learn_tokenizer(TEXTS, vocabulary=50)


def made(kind, tokenizer, **sizes):
    torch.manual_seed(0)
    return cg.models.load(f"text:{kind}", tokenizer=tokenizer, width=16, max_length=12, **sizes).eval()


def embedded(model, texts):
    with torch.no_grad():
        return model(**cg.models.input_of(model)(texts))


def test_the_mean_leaves_padding_out():
    rows = torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    expected = nn.functional.normalize(rows[0, :2].mean(0), dim=0)
    torch.testing.assert_close(mean_of_tokens(rows, mask), torch.stack([expected, torch.zeros(4)]))


def test_a_tokenizer_of_its_own(tokenizer):
    model = made("transformer", tokenizer, heads=2)
    taken = cg.models.input_of(model)
    batch = taken(["the small model", "unknown € sign", ""])
    words = json.loads(tokenizer)["model"]["vocab"]
    assert len(words) == 50
    assert batch["input_ids"].shape == (3, 12)
    assert batch["input_ids"][0, :2].tolist() == [words["[CLS]"], words["the"]]
    assert batch["input_ids"][2, :3].tolist() == [words["[CLS]"], words["[SEP]"], words["[PAD]"]]
    long = taken(["small " * 40])
    assert long["input_ids"][0, -1] == words["[SEP]"]
    alone = taken(["the small"])["attention_mask"].sum().item() - 2  # without [CLS] and [SEP]
    static = cg.models.input_of(made("static", tokenizer))(["the small", ""])
    assert static["attention_mask"].sum(1).tolist() == [alone, 0]
    assert learn_tokenizer(reversed(TEXTS), vocabulary=50) == tokenizer


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_padding_and_the_rest_of_a_batch_change_nothing(kind, tokenizer):
    model = made(kind, tokenizer)
    alone, together = embedded(model, TEXTS[:1]), embedded(model, TEXTS)
    torch.testing.assert_close(alone[0], together[0])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(TEXTS)))
    batch = cg.models.input_of(model)(TEXTS[:2])
    wider = {name: nn.functional.pad(rows, (0, 5)) for name, rows in batch.items()}
    if kind == "static":
        torch.testing.assert_close(model(**wider), model(**batch))


def test_the_output_is_the_embedding(tokenizer):
    student = made("transformer", tokenizer)
    inputs = cg.models.input_of(student)(TEXTS[:4])
    distiller = cg.Distiller(
        made("static", tokenizer),
        student,
        ["pkt"],
        example=cg.Inputs(teacher=cg.models.input_of(made("static", tokenizer))(TEXTS[:4]), student=inputs),
    )
    assert distiller.describe_layers() == {
        "pkt": "student features 'output' [4, 16], teacher features 'output' [4, 16]"
    }


@pytest.mark.parametrize(("kind", "sizes"), [("static", {}), ("transformer", {"layers": 1, "heads": 2})])
def test_sentence_transformers_gives_the_same_embeddings(kind, sizes, tokenizer, tmp_path):
    imported("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    model = made(kind, tokenizer, **sizes)
    assert kind_of(model) == "st"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    folder = cg.models.save_native(model, tmp_path / "student-st")
    again = SentenceTransformer(str(folder), device="cpu")
    texts = [*TEXTS, "", "small " * 40, "UNKNOWN €"]
    torch.testing.assert_close(again.encode(texts, convert_to_tensor=True), embedded(model, texts))
    exported = cg.export(model, tmp_path / "export-st", to="st", data=cg.data.TextDataset(TEXTS))
    assert set(exported.files) > {path.name for path in folder.iterdir()}
    assert exported.check is None, "the texts' tokens are given in another form there"


def test_the_tokenizer_of_a_folder(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    for given in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        torch.testing.assert_close(embedded(made("static", given), TEXTS), embedded(made("static", tokenizer), TEXTS))


def test_a_model_in_an_installed_package(tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "my_encoder" / "model"
    cg.models.save_native(made("transformer", tokenizer), folder)
    files = [path.relative_to(tmp_path).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    about = tmp_path / "my_encoder-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-encoder\nVersion: 1.0\n")
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(tmp_path)
    assert folder_of("st:my-encoder", "sentence-transformers") == folder
    assert folder_of("hf:my-encoder", "transformers") == folder
    model = made("static", "st:my-encoder")
    torch.testing.assert_close(embedded(model, TEXTS), embedded(made("static", tokenizer), TEXTS))
    other = tmp_path / "my_encoder" / "other"
    cg.models.save_native(made("static", tokenizer), other)
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in [*files, "my_encoder/other/modules.json"]))
    with pytest.raises(ValueError, match="The package 'my-encoder' holds 2 folders of models: name one, as in"):
        folder_of("st:my-encoder", "sentence-transformers")


def test_sizes(tokenizer):
    model = made("transformer", tokenizer, layers=3, heads=8, feed_forward=24)
    assert isinstance(model, TextTransformer)
    assert (model.layers, model.heads, model.feed_forward, model.embedding_dim) == (3, 8, 24, 16)
    static = made("static", tokenizer)
    assert isinstance(static, StaticText)
    assert cg.models.count_parameters(static) == 50 * 16


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("text:rnn", {}, r"`load`: `name` must be 'text:static' or 'text:transformer', got 'text:rnn'"),
        ("text:static", {}, "The model 'text:static' needs a tokenizer"),
        ("text:static", {"layers": 2}, "The model 'text:static' has no option 'layers'"),
        ("text:static", {"width": 0}, "`text:static`: `width` must be an integer >= 1, got 0"),
        ("text:transformer", {"width": 10}, "`text:transformer`: `heads` must be a divisor of the width 10, got 4"),
        ("text:transformer", {"vocabulary": 3}, "`vocabulary` must be an integer >= 5, got 3"),
        ("text:static", {"tokenizer": "no/such"}, "There is no tokenizer.json to read at 'no/such'"),
        ("text:static", {"tokenizer": "{}"}, "it is not the JSON text of a tokenizer"),
        ("text:static", {"tokenizer": "{}", "vocabulary": 9}, "`vocabulary` must be left out beside `tokenizer`"),
    ],
)
def test_what_is_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        cg.models.load(name, **options)


def test_wrong_options_are_found_in_a_configuration():
    with pytest.raises(ValueError, match="has no option 'depth'"):
        ModelConfig(model="text:transformer", options={"depth": 2})
    with pytest.raises(ValueError, match="'text:static' or 'text:transformer', got 'text:rnn'"):
        ModelConfig(model="text:rnn")

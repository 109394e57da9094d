"""Sentence encoders: read as mappings, with their own embedding, and loaded by name."""

import copy
import pickle

import pytest
import torch
from _harness.encoders import THIRD_PARTY, imported, save_bert, save_sentences, texts

import congruence as cg
from congruence.models import named
from congruence.models.fingerprint import model_fingerprint

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    imported("sentence_transformers")
    made = tmp_path_factory.mktemp("sentences")
    save_sentences(made)
    return made / "st"


def test_the_embedding_is_what_encode_gives(folder):
    model = named.load(f"st:{folder}")
    assert model.training
    words = ["the small model sees a world", "the world"]
    inputs = cg.models.input_of(model)(words)
    taps = cg.models.Taps(model, name="teacher")
    taps.probe(inputs, training=False)
    assert taps.default("features") == "output[sentence_embedding]"
    taps.require([taps.default("features"), taps.default("tokens")])
    model.eval()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    with torch.no_grad():
        output, values = taps.read(inputs)
    torch.testing.assert_close(values["output[sentence_embedding]"], model.encode(words, convert_to_tensor=True))
    assert "sentence_embedding" in output
    assert inputs.keys() == before.keys()  # it writes into the mapping that it is given
    assert all(torch.equal(inputs[name], before[name]) for name in before)


def test_its_own_length_cuts_texts(folder):
    text = cg.models.input_of(named.load(f"st:{folder}"))
    assert text.max_length == 8
    assert text(["the small model sees a world a small world"])["input_ids"].shape == (1, 8)


def test_a_student_learns_from_it(folder):
    teacher = named.load(f"st:{folder}")
    student = named.load(f"st:{folder}")
    torch.nn.init.normal_(student[0].model.encoder.layer[0].output.dense.weight)
    distiller = cg.Distiller(teacher, student, ["pkt"], example=texts())
    out = distiller(texts())
    out.loss.backward()
    assert out.loss > 0
    assert student[0].model.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_it_copies_and_pickles_and_is_told_from_another(folder):
    model = named.load(f"st:{folder}").eval()
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    torch.testing.assert_close(other(texts())["sentence_embedding"], model(texts())["sentence_embedding"])
    first, loaded = model_fingerprint(model), named.load(f"st:{folder}").eval()
    assert first == model_fingerprint(loaded)
    cg.models.input_of(loaded)(["the small model"])
    loaded.encode("the world")
    assert first == model_fingerprint(loaded)  # what a tokenizer has cut before is no part of the model
    assert not first.unreadable
    with torch.no_grad():
        other[0].model.embeddings.word_embeddings.weight[5] += 1
    assert model_fingerprint(other).content != first.content


def test_what_is_no_folder_of_it_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"There is no folder '.*absent'"):
        named.load(f"st:{tmp_path / 'absent'}")
    with pytest.raises(ValueError, match=r"has no modules.json, by which sentence-transformers"):
        named.load(f"st:{tmp_path}")
    with pytest.raises(ValueError, match=r"has no options, got device"):
        named.load(f"st:{tmp_path}", device="cpu")


def test_a_plain_transformer_is_pooled_by_the_mean(tmp_path):
    imported("sentence_transformers")
    saved = save_bert(tmp_path)
    model = named.load(f"st:{tmp_path}").eval()
    inputs = texts()
    mask = inputs["attention_mask"][..., None].float()
    hidden = saved(**inputs).last_hidden_state
    torch.testing.assert_close(model(dict(inputs))["sentence_embedding"], (hidden * mask).sum(1) / mask.sum(1))


def test_a_static_embedding_is_refused_with_what_to_do(tmp_path):
    imported("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu").save(str(tmp_path))
    with pytest.raises(ValueError, match=r"is a table of embeddings \(StaticEmbedding\), .* a table and a mean"):
        named.load(f"st:{tmp_path}")

"""Students go back into their own libraries, which load them without this one."""

import json
import subprocess
import sys

import pytest
import torch
from _harness.encoders import (
    THIRD_PARTY,
    bert,
    imported,
    of_images,
    save_bert,
    save_processor,
    save_sentences,
    texts,
)
from torch import nn

import congruence as cg
from congruence.models import named
from congruence.models.adapters import kind_of

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]
ALONE = """
import json, sys
from transformers import AutoTokenizer, AutoModelForSequenceClassification
words = AutoTokenizer.from_pretrained(sys.argv[1])(["the small world"], return_tensors="pt")
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
assert not any(name.split(".")[0] == "congruence" for name in sys.modules)
json.dump(model(**words).logits.tolist(), sys.stdout)
"""


def test_a_text_model_with_its_tokenizer_loads_in_transformers_alone(tmp_path):
    save_bert(tmp_path / "base", "BertForSequenceClassification", num_labels=3)
    student = named.load(f"hf:{tmp_path / 'base'}")
    with torch.no_grad():
        student.classifier.weight += 1
    assert cg.models.save_native(student, tmp_path / "out") == tmp_path / "out"
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    given = {"input_ids": torch.tensor([[2, 8, 5, 9, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    expected = student.eval()(**given).logits.detach()
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, atol=1e-5, rtol=1e-5)
    assert cg.models.input_of(named.load(f"hf:{tmp_path / 'out'}")).max_length == 9


def test_a_sentence_encoder_goes_back_into_its_library(tmp_path):
    library = imported("sentence_transformers")
    save_sentences(tmp_path)
    student = named.load(f"st:{tmp_path / 'st'}")
    with torch.no_grad():
        student[0].model.embeddings.word_embeddings.weight.mul_(2)
    cg.models.save_native(student, tmp_path / "out")
    loaded = library.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert loaded.max_seq_length == 8
    assert (loaded.encode(["the world"]) == student.eval().encode(["the world"])).all()


def test_an_image_model_keeps_its_processor(tmp_path):
    model = of_images("ConvNextForImageClassification", num_labels=2)
    model.save_pretrained(tmp_path / "base")
    save_processor(tmp_path / "base", image_mean=[0.5], image_std=[0.2], size={"height": 8, "width": 8})
    cg.models.save_native(named.load(f"hf:{tmp_path / 'base'}"), tmp_path / "out")
    assert cg.models.input_of(named.load(f"hf:{tmp_path / 'out'}")).size == (8, 8)


def test_a_folder_is_replaced_by_another_save_and_never_with_other_files_in_it(tmp_path):
    cg.models.save_native(bert(), tmp_path / "out")
    cg.models.save_native(bert("BertForSequenceClassification", num_labels=2), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words", encoding="utf8")
    with pytest.raises(ValueError, match=r"`save_native`: the folder '.*mine' holds other files: choose another"):
        cg.models.save_native(bert(), tmp_path / "mine")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["mine", "out"]


def test_a_model_of_no_library_is_refused_and_takes_what_nobody_knows(tmp_path):
    sentence = "`save_native`: `model` must be a model of transformers, .* got Linear"
    with pytest.raises(ValueError, match=sentence):
        cg.models.save_native(nn.Linear(2, 2), tmp_path / "out")
    assert kind_of(nn.Linear(2, 2)) is None
    assert cg.models.input_of(nn.Linear(2, 2)) is None


def test_a_student_with_another_head_comes_back_with_it(tmp_path):
    student = bert("BertForMaskedLM", num_hidden_layers=1)
    data = [{name: tensor[i] for name, tensor in texts(16).items()} for i in range(16)]
    cg.distill(bert(seed=1), student, data, "pkt", epochs=1, batch_size=8, out=tmp_path / "run", device="cpu")
    again = cg.load_student(tmp_path / "run")
    torch.testing.assert_close(again(**texts()).logits, student(**texts()).logits)


def test_a_class_of_the_users_own_asks_for_what_makes_it(tmp_path):
    class Mine(imported("transformers").BertModel):
        """A class that transformers does not know."""

    student = Mine(bert(num_hidden_layers=1).config)
    data = [{name: tensor[i] for name, tensor in texts(16).items()} for i in range(16)]
    cg.distill(bert(seed=1), student, data, "pkt", epochs=1, batch_size=8, out=tmp_path / "run", device="cpu")
    with pytest.raises(
        ValueError, match=r"has no class 'Mine' .* give what makes it, load_student\(run_dir, factory\)"
    ):
        cg.load_student(tmp_path / "run")
    again = cg.load_student(tmp_path / "run", lambda: Mine(student.config))
    torch.testing.assert_close(again(**texts()).pooler_output, student(**texts()).pooler_output)


def test_a_distilled_student_lies_beside_its_file_and_is_found_without_its_factory(tmp_path):
    save_bert(tmp_path / "base", "BertForSequenceClassification", num_labels=3, num_hidden_layers=1)
    teacher, student = (
        bert("BertForSequenceClassification", seed=1, num_labels=3),
        named.load(f"hf:{tmp_path / 'base'}"),
    )
    inputs, labels = texts(24), torch.arange(24) % 3
    data = [({name: tensor[i] for name, tensor in inputs.items()}, labels[i]) for i in range(24)]
    done = cg.distill(teacher, student, data, "kd", epochs=1, batch_size=8, out=tmp_path / "run", device="cpu")
    assert done.report.samples == 2
    folder = tmp_path / "run" / "student-hf"
    assert (folder / "tokenizer.json").is_file()
    for loaded in (
        imported("transformers").AutoModelForSequenceClassification.from_pretrained(folder),
        cg.load_student(tmp_path / "run"),
    ):
        assert not loaded.training
        torch.testing.assert_close(loaded(**inputs).logits, done.student(**inputs).logits)


def fewer_layers():
    """A student that is every second layer of a model, whose configuration still says all of them."""
    model = bert("BertForSequenceClassification", num_labels=3, num_hidden_layers=4)
    model.bert.encoder.layer = model.bert.encoder.layer[::2]
    return model


def other_head():
    model = bert("BertForSequenceClassification", num_labels=3, num_hidden_layers=1)
    model.classifier = nn.Sequential(nn.Linear(model.config.hidden_size, 4), nn.Linear(4, 3))
    return model


def wider_head():
    model = bert("BertForSequenceClassification", num_labels=3, num_hidden_layers=1)
    model.classifier = nn.Linear(model.config.hidden_size, 5)
    return model


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (fewer_layers, r"32 weights would be random \('bert.encoder.layer.2.attention[\w.]+', …\)\."),
        (other_head, r"2 weights would be random \('classifier.weight', …\), 4 weights would be dropped \('cl.*', …\)"),
        (wider_head, r"2 weights have another shape \('classifier.weight', …\)"),
    ],
)
def test_a_model_that_its_configuration_does_not_make_is_refused_with_its_weights(make, wrong, tmp_path):
    """Its library would load it without an error, and leave random what it does not find."""
    with pytest.raises(ValueError, match=rf"BertForSequenceClassification by its configuration, .*: {wrong}"):
        cg.models.save_native(make(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_whose_configuration_says_what_was_taken_out_comes_back(tmp_path):
    student = fewer_layers().eval()
    student.config.num_hidden_layers = 2
    cg.models.save_native(student, tmp_path / "out")
    again = named.load(f"hf:{tmp_path / 'out'}").eval()
    assert torch.equal(again(**texts()).logits, student(**texts()).logits)


def test_a_model_without_its_pooling_layer_is_one_of_its_configuration(tmp_path):
    """Which says so when it is made, and is told again when it is loaded: `add_pooling_layer=False`."""
    whole = bert()
    student = type(whole)(whole.config, add_pooling_layer=False).eval()
    done = cg.export(student, tmp_path / "out", to="hf", example=texts())
    assert set(done.check.largest_difference.values()) == {0.0}


def test_of_a_model_with_adapters_inside_they_alone_are_saved(tmp_path):
    student = bert("BertForSequenceClassification", num_labels=3)
    student.add_adapter(imported("peft").LoraConfig(r=2, target_modules=["query"]))
    files = sorted(path.name for path in cg.models.save_native(student, tmp_path / "out").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_parts_of_a_sentence_encoder_are_looked_at_too(tmp_path):
    save_sentences(tmp_path)
    student = named.load(f"st:{tmp_path / 'st'}")
    student[0].model.encoder.layer = student[0].model.encoder.layer[:1]
    with pytest.raises(ValueError, match=r"makes BertModel by its configuration, .* weights would be random"):
        cg.models.save_native(student, tmp_path / "out")


def test_a_run_of_such_a_student_ends_with_its_own_file_and_a_word(tmp_path, caplog):
    student = fewer_layers()
    data = [{name: tensor[i] for name, tensor in texts(16).items()} for i in range(16)]
    cg.distill(bert(seed=1), student, data, "pkt", epochs=1, batch_size=8, out=tmp_path / "run", device="cpu")
    (told,) = [record.getMessage() for record in caplog.records if "was not written" in record.getMessage()]
    assert "The student is trained, and " in told
    assert "32 weights would be random" in told
    again = cg.load_student(tmp_path / "run", fewer_layers)
    torch.testing.assert_close(again(**texts()).logits, student(**texts()).logits)

"""Students go back into their own libraries, which load them without this one."""

import json
import subprocess
import sys
from importlib.util import find_spec

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
import json, sys, torch
from transformers import AutoTokenizer, AutoModelForSequenceClassification as M
words = AutoTokenizer.from_pretrained(sys.argv[1])(["the small world"], return_tensors="pt")
found = [M.from_pretrained(sys.argv[1])(**words).logits.tolist()]
if sys.argv[2:]:
    from sentence_transformers import SentenceTransformer as S
    found.append(S(sys.argv[2], device="cpu").encode(["the world"]).tolist())
assert not any(name.split(".")[0] == "congruence" for name in sys.modules)
json.dump(found, sys.stdout)
"""


def without_us(*folders):
    """What the libraries make of folders in a process that never imports this one."""
    command = [sys.executable, "-W", "ignore", "-c", ALONE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.tensor(each) for each in json.loads(done.stdout)]


def test_students_load_in_their_libraries_alone(tmp_path):
    save_bert(tmp_path / "base", "BertForSequenceClassification", num_labels=3)
    student = named.load(f"hf:{tmp_path / 'base'}")
    with torch.no_grad():
        student.classifier.weight += 1
    assert cg.models.save_native(student, tmp_path / "out") == tmp_path / "out"
    given = {"input_ids": torch.tensor([[2, 8, 5, 9, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    expected, folders = [student.eval()(**given).logits.detach()], [tmp_path / "out"]
    if find_spec("sentence_transformers"):
        save_sentences(tmp_path)
        encoder = named.load(f"st:{tmp_path / 'st'}")
        with torch.no_grad():
            encoder[0].model.embeddings.word_embeddings.weight.mul_(2)
        folders.append(cg.models.save_native(encoder, tmp_path / "out-st"))
        expected.append(encoder.eval().encode(["the world"], convert_to_tensor=True))
    for theirs, ours in zip(without_us(*folders), expected, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    again = named.load(f"hf:{tmp_path / 'out'}")
    assert cg.models.input_of(again).max_length == 9


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


def test_a_distilled_student_lies_beside_its_file_and_is_found_without_its_factory(tmp_path):
    save_bert(tmp_path / "base", "BertForSequenceClassification", num_labels=3, num_hidden_layers=1)
    teacher, student = (
        bert("BertForSequenceClassification", seed=1, num_labels=3),
        named.load(f"hf:{tmp_path / 'base'}"),
    )
    inputs, labels = texts(24), torch.arange(24) % 3
    data = [({name: tensor[i] for name, tensor in inputs.items()}, labels[i]) for i in range(24)]
    done = cg.distill(teacher, student, data, "kd", epochs=1, batch_size=8, out=tmp_path / "run", device="cpu")
    folder = tmp_path / "run" / "student-hf"
    assert (folder / "tokenizer.json").is_file()
    for loaded in (
        imported("transformers").AutoModelForSequenceClassification.from_pretrained(folder),
        cg.load_student(tmp_path / "run"),
    ):
        assert not loaded.training
        torch.testing.assert_close(loaded(**inputs).logits, done.student(**inputs).logits)

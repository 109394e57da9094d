"""Models of transformers: what stands for their features, logits and tokens, and how they are loaded by name."""

import logging

import pytest
import torch
from _harness.encoders import (
    DISTILBERT,
    THIRD_PARTY,
    bert,
    imported,
    of_images,
    save_bert,
    save_processor,
    save_tokenizer,
    texts,
)

import congruence as cg
from congruence.models import named
from congruence.models.adapters.hugging_face import image_input_of
from congruence.models.inputs import ImageInput
from congruence.models.projectors import rows

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]


def distilbert(architecture="DistilBertModel", **more):
    transformers = imported("transformers")
    torch.manual_seed(0)
    return getattr(transformers, architecture)(transformers.DistilBertConfig(**DISTILBERT, **more)).eval()


def masked_mean(output, inputs):
    mask = inputs["attention_mask"][..., None].to(output.last_hidden_state.dtype)
    return (output.last_hidden_state * mask).sum(1) / mask.sum(1)


# Architecture: layer of the features, of the logits, of the tokens, and what the features are by its own convention.
HIDDEN, POOLED = "output[last_hidden_state]", "output[pooler_output]"
TEXTS = {
    "BertModel": (bert, HIDDEN, None, "encoder.layer.1", masked_mean),
    "BertForSequenceClassification": (bert, "input:classifier", "classifier", "bert.encoder.layer.1", None),
    "DistilBertModel": (distilbert, HIDDEN, None, "transformer.layer.1", masked_mean),
    "DistilBertForSequenceClassification": (
        *(distilbert, "input:classifier", "classifier", "distilbert.transformer.layer.1", None),
    ),
}
IMAGES = {
    "ViTModel": ("input:pooler.dense", None, "layernorm", lambda out: out.last_hidden_state[:, 0]),
    "Dinov2Model": (POOLED, None, "layernorm", lambda out: out.last_hidden_state[:, 0]),
    "SwinModel": (POOLED, None, "layernorm", lambda out: out.last_hidden_state.mean(1)),
    "ConvNextModel": (POOLED, None, "encoder.stages.1", lambda out: out.pooler_output),
    "ResNetModel": (POOLED, None, "encoder.stages.1", lambda out: out.last_hidden_state.mean((2, 3))),
    "ViTForImageClassification": ("input:classifier", "classifier", "vit.layernorm", None),
    "Dinov2ForImageClassification": ("input:classifier", "classifier", "dinov2.layernorm", None),
    "SwinForImageClassification": ("input:classifier", "classifier", "swin.layernorm", None),
    "ConvNextForImageClassification": ("input:classifier", "classifier", "convnext.encoder.stages.1", None),
    "ResNetForImageClassification": ("input:classifier.1", "classifier.1", "resnet.encoder.stages.1", None),
}


def check_defaults(model, inputs, features, logits, tokens, convention):
    taps = cg.models.Taps(model, name="teacher")
    taps.probe(inputs, training=False)
    assert (taps.defaults.features, taps.defaults.logits, taps.default("tokens")) == (features, logits, tokens)
    taps.require([features, tokens, *([] if logits is None else [logits])])
    with torch.no_grad():
        output, values = taps.read(inputs)
    mask = inputs.get("attention_mask")
    row = rows(values[features], None if mask is None else mask.bool())
    if convention is not None:
        torch.testing.assert_close(row, convention(output))
    else:  # its own classifier makes the logits of it
        head = taps.module(logits)
        torch.testing.assert_close(head(row), output.logits)
        torch.testing.assert_close(values[logits], output.logits)


@pytest.mark.parametrize("architecture", TEXTS)
def test_what_stands_for_a_text_is_the_models_own_convention(architecture):
    make, features, logits, tokens, convention = TEXTS[architecture]
    more = {} if convention else {"num_labels": 5}
    of = None if convention is None else lambda output: convention(output, inputs)
    inputs = texts()
    check_defaults(make(architecture, **more), inputs, features, logits, tokens, of)


@pytest.mark.parametrize("architecture", IMAGES)
def test_what_stands_for_an_image_is_the_models_own_convention(architecture):
    features, logits, tokens, convention = IMAGES[architecture]
    more = {} if convention else {"num_labels": 5}
    inputs = {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    check_defaults(of_images(architecture, **more), inputs, features, logits, tokens, convention)


def test_a_folder_gives_the_class_its_config_names(tmp_path):
    saved = save_bert(tmp_path, "BertForSequenceClassification", num_labels=3)
    model = named.load(f"hf:{tmp_path}")
    assert type(model) is type(saved)
    assert model.training
    torch.testing.assert_close(model.eval()(**texts()).logits, saved(**texts()).logits)


def test_a_language_model_is_loaded_without_its_head_and_another_class_can_be_asked_for(tmp_path, caplog):
    bert("BertForMaskedLM").save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="congruence"):
        assert type(named.load(f"hf:{tmp_path}")).__name__ == "BertModel"
    assert "lack 'pooler.dense.bias', 'pooler.dense.weight': these are randomly initialised" in caplog.text
    with_head = named.load(f"hf:{tmp_path}", architecture="BertForSequenceClassification", num_labels=7)
    assert with_head(**texts()).logits.shape == (4, 7)


def test_half_precision_weights_come_in_float32(tmp_path):
    bert().bfloat16().save_pretrained(tmp_path)
    assert {p.dtype for p in named.load(f"hf:{tmp_path}").parameters()} == {torch.float32}


def test_a_folder_of_a_config_alone_is_a_drawn_model_and_says_so(tmp_path, caplog):
    bert("BertForSequenceClassification").config.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="congruence"):
        model = named.load(f"hf:{tmp_path}", architecture="BertModel", num_hidden_layers=1)
    assert len(model.encoder.layer) == 1
    assert "has no weights: the model is randomly initialised" in caplog.text


def test_what_texts_and_images_are_made_of_is_read_beside_the_weights(tmp_path):
    save_bert(tmp_path / "text")
    text = cg.models.input_of(named.load(f"hf:{tmp_path / 'text'}"))
    assert text.max_length == 9  # the tokenizer's; the model could take 12
    tokens = text(["the small model", "a world"])
    assert tokens["input_ids"][:, :5].tolist() == [[2, 8, 5, 6, 3], [2, 4, 9, 3, 0]]
    of_images("ViTModel").save_pretrained(tmp_path / "image")
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 32, "width": 32}}
    save_processor(tmp_path / "image", **said, resample=3)
    image = cg.models.input_of(named.load(f"hf:{tmp_path / 'image'}"))
    assert image == ImageInput(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=(32, 32), interpolation="bicubic")
    assert cg.models.input_of(bert()) is None


@pytest.mark.parametrize(
    ("said", "mean", "std", "size"),
    [
        ({"image_mean": [0.5], "image_std": [0.5], "size": 24, "do_center_crop": True, "crop_size": 16}, 0.5, 0.5, 16),
        ({"image_mean": [0.5], "image_std": [0.5], "size": {"shortest_edge": 24}, "crop_size": 16}, 0.5, 0.5, 24),
        (
            {"image_mean": [0.0], "image_std": [1.0], "rescale_factor": 1 / 127.5, "rescale_offset": True},
            0.5,
            0.5,
            None,
        ),
        ({"image_mean": [127.5], "image_std": [51.0], "do_rescale": False}, 0.5, 0.2, None),
        ({"image_mean": [0.5], "image_std": [0.5], "do_normalize": False}, 0.0, 1.0, None),
    ],
)
def test_a_processors_table_is_read_as_numbers_of_images_in_0_to_1(said, mean, std, size):
    found = image_input_of(said)
    assert found.mean == pytest.approx((mean,))
    assert found.std == pytest.approx((std,))
    assert found.size == (None if size is None else (size, size))


def test_the_processor_of_transformers_prepares_an_image_alike(tmp_path):
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transformers = imported("transformers")
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 16, "width": 16}}
    try:
        processor = transformers.ViTImageProcessor(**said)
        theirs = processor(image[0].permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"its image processors need another library: {str(error)[:80]}")
    torch.testing.assert_close(image_input_of({**processor.to_dict()})(image), theirs, atol=0.05, rtol=0)


def test_a_sentence_encoders_folder_tells_that_its_pooling_is_left_out(tmp_path, caplog):
    save_bert(tmp_path)
    (tmp_path / "modules.json").write_text("[]", encoding="utf8")
    with caplog.at_level(logging.WARNING, logger="congruence"):
        named.load(f"hf:{tmp_path}")
    assert f"'st:{tmp_path}' has its own pooling" in caplog.text


@pytest.mark.parametrize(
    ("rest", "options", "sentence"),
    [
        ("{}/absent", {}, "There is no folder '.*absent' for the model 'hf:.*'"),
        ("{}/empty", {}, "has no config.json, by which transformers knows a model"),
        ("{}/text", {"num_labls": 3}, "has no option 'num_labls'.*[Dd]id you mean"),
        ("{}/text", {"architecture": "BertFor"}, "transformers has no class 'BertFor'"),
        ("{}/damaged", {}, "cannot be loaded by transformers"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_sentence(tmp_path, rest, options, sentence):
    save_bert(tmp_path / "text")
    save_bert(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=sentence):
        named.load(f"hf:{rest.format(tmp_path)}", **options)


def test_a_name_is_a_model_that_was_fetched_before(tmp_path, monkeypatch):
    hub, saved = imported("huggingface_hub"), save_bert(tmp_path)
    asked = []

    def stored(name, **given):
        asked.append((name, given))
        if name == "group/small":
            return str(tmp_path)
        raise FileNotFoundError("not in the store")

    monkeypatch.setattr(hub, "snapshot_download", stored)
    model = named.load("hf:group/small")
    assert torch.equal(model.pooler.dense.weight, saved.pooler.dense.weight)
    assert cg.models.input_of(model).max_length == 9
    with pytest.raises(ValueError, match=r"no folder 'group/smal' .* was fetched before: nothing is fetched here"):
        named.load("hf:group/smal")
    assert {given["local_files_only"] for _, given in asked} == {True}


def test_a_tokenizer_alone_is_found_by_its_files(tmp_path):
    from congruence.models.adapters.hugging_face import text_input

    assert text_input(tmp_path) is None
    save_tokenizer(tmp_path)
    assert text_input(tmp_path, positions=6).max_length == 6

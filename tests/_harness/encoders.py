"""Small models of transformers and sentence-transformers, made of configurations; tokenizers of eight words."""

import json

import pytest
import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "small", "model", "sees", "the", "world"]
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {**TEXT, "image_size": 32, "patch_size": 8}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 10, "max_position_embeddings": 12}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
# transformers, peft and torch warn of each other's coming changes: not ours to mend here.
THIRD_PARTY = ("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def imported(name):
    """Import an optional library, or skip; one that meets another torch's torchvision raises a RuntimeError."""
    try:
        return pytest.importorskip(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def bert(architecture="BertModel", seed=0, **more):
    transformers = imported("transformers")
    torch.manual_seed(seed)
    config = transformers.BertConfig(**{**TEXT, "vocab_size": len(WORDS), "max_position_embeddings": 12, **more})
    return getattr(transformers, architecture)(config).eval()


def of_images(architecture, seed=0, **more):
    """A model of images 32×32 by its class's name: its configuration is the one of its kind."""
    transformers = imported("transformers")
    torch.manual_seed(seed)
    kind = next(kind for kind in ("ViT", "Dinov2", "Swin", "ConvNext", "ResNet") if architecture.startswith(kind))
    tables = {
        "ViT": IMAGE,
        "Dinov2": IMAGE,
        "Swin": SWIN,
        "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    }
    config = getattr(transformers, f"{kind}Config")(**{**tables[kind], **more})
    return getattr(transformers, architecture)(config).eval()


def save_tokenizer(folder):
    """Write the tokenizer of `WORDS` as transformers does."""
    tokenizers, transformers = imported("tokenizers"), imported("transformers")
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=9, **special)
    fast.save_pretrained(folder)
    return fast


def save_bert(folder, architecture="BertModel", **more):
    model = bert(architecture, **more)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_sentences(folder, pooling="mean", **more):
    """Write a SentenceTransformer of a small BERT."""
    library = imported("sentence_transformers")
    save_bert(folder / "bert", **more)
    from sentence_transformers import models

    transformer = models.Transformer(str(folder / "bert"), max_seq_length=8)
    model = library.SentenceTransformer(modules=[transformer, models.Pooling(16, pooling)], device="cpu")
    model.save_pretrained(str(folder / "st"))
    return model


def save_processor(folder, **said):
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf8")


def texts(count=4, length=5, seed=0):
    """Tokens with padding at the end of some."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, len(WORDS), (count, length), generator=generator)
    lengths = torch.arange(count) % 3 + length - 2
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}

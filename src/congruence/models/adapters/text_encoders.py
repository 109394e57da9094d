"""Small sentence encoders by "text:transformer" and "text:static", and their files for sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from congruence.core import check
from congruence.core.files import damaged
from congruence.models.adapters.libraries import folder_of, library
from congruence.models.inputs import TextInput
from congruence.models.weights import save_weights
from congruence.models.zoo.sentence_encoders import StaticText, TextTransformer

VOCABULARY = 8000  # tokens that are learned by default
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_PADS = ("[PAD]", "<pad>")
_SIZES: Mapping[str, check.Constraint] = dict.fromkeys(("width", "max_length"), check.COUNT)
_OPTIONS: Mapping[str, Mapping[str, check.Constraint]] = {
    "static": _SIZES,
    "transformer": {
        **_SIZES,
        **dict.fromkeys(("layers", "heads"), check.COUNT),
        "feed_forward": check.Real(low=1, closed="low", integer=True, optional=True),
    },
}
TextEncoder = TextTransformer | StaticText


def load_text(
    rest: str, *, trust: bool = False, tokenizer: str | None = None, vocabulary: int | None = None, **sizes: Any
) -> nn.Module:
    """Return an untrained sentence encoder; it depends on torch's generator alone.

    Args:
        rest: "transformer" or "static": see `TextTransformer` and `StaticText`.
        trust: not used.
        tokenizer: a tokenizer.json or a folder with one, "st:NAME" or "hf:NAME" for that of a model, or the content of
            a tokenizer.json, such as `learn_tokenizer` returns.
        vocabulary: how many tokens are learned from the data; only for a stage of a configuration, which has data.
        sizes: `width` and `max_length`, for "transformer" also `layers`, `heads` and `feed_forward`.

    Raises:
        ValueError: for another model or option, a value out of its range, or a tokenizer that cannot be read.

    Example:
        >>> encoder = load_text("static", tokenizer=learn_tokenizer(["a cat", "a dog"], vocabulary=20), width=8)
        >>> encoder.embedding_dim, text_input(encoder)(["a cat"])["input_ids"].shape
        (8, torch.Size([1, 64]))
    """
    check_options(rest, {"tokenizer": tokenizer, "vocabulary": vocabulary, **sizes})
    if tokenizer is None:
        raise ValueError(
            f"The model 'text:{rest}' needs a tokenizer: give `tokenizer` (a tokenizer.json, its folder, or "
            "'st:NAME'), or in Python learn one by congruence.models.learn_tokenizer(texts)."
        )
    content = tokenizer_of(tokenizer)
    tokens = _made(content).get_vocab_size()
    if rest == "static":
        return StaticText(tokens, tokenizer=content, **sizes)
    return TextTransformer(tokens, tokenizer=content, **sizes)


def check_options(rest: str, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for a model or an option that does not exist, or a value out of its range."""
    name = f"text:{rest}"
    if rest not in _OPTIONS:
        check.fail("load", "name", " or ".join(f"'text:{each}'" for each in _OPTIONS), repr(name))
    constraints = _OPTIONS[rest]
    sizes = {key: value for key, value in options.items() if key not in ("tokenizer", "vocabulary")}
    for option in sizes:
        if option not in constraints:
            known = ("tokenizer", "vocabulary", *constraints)
            raise ValueError(
                f"The model '{name}' has no option '{option}'.{check.near(option, known)} It has {', '.join(known)}."
            )
    check.hyperparameters(name, {key: constraints[key] for key in sizes}, **sizes)
    width, heads = sizes.get("width", 128), sizes.get("heads", 4)
    if rest == "transformer" and width % heads:
        check.fail(name, "heads", f"a divisor of the width {width}", heads)
    vocabulary, tokenizer = options.get("vocabulary"), options.get("tokenizer")
    if vocabulary is not None:
        least = check.Real(low=len(_SPECIAL) + 1, closed="low", integer=True)
        check.hyperparameters(name, {"vocabulary": least}, vocabulary=vocabulary)
        if tokenizer is not None:
            check.fail(name, "vocabulary", "left out beside `tokenizer`, which has its own", vocabulary)
    if tokenizer is not None and not isinstance(tokenizer, str):
        check.fail(name, "tokenizer", "a path, 'st:NAME', 'hf:NAME' or the content of a tokenizer.json", tokenizer)


def learn_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> str:
    """Return the content of a tokenizer.json with byte-pair tokens learned from texts, in lower case.

    It has [PAD], [UNK], [CLS] and [SEP], and marks the begin and end of a text by the last two. The same texts give the
    same tokenizer in every process. (Tokens that continue a word are not marked by "##": with such a mark the trainer
    of the library tokenizers gives other tokens in every process.)

    Args:
        texts: the texts.
        vocabulary: the number of tokens; fewer if the texts do not have as many.

    Raises:
        ValueError: for a vocabulary that is too small, or without the library tokenizers.

    Example:
        >>> len(json.loads(learn_tokenizer(["a cat", "a dog"], vocabulary=12))["model"]["vocab"])
        12
    """
    least = check.Real(low=len(_SPECIAL) + 1, closed="low", integer=True)
    check.hyperparameters("learn_tokenizer", {"vocabulary": least}, vocabulary=vocabulary)
    tokenizers: Any = library("tokenizers", "tokenizers", "text:")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(_SPECIAL), show_progress=False)
    made.train_from_iterator(texts, trainer)
    ends = [(token, made.token_to_id(token)) for token in _SPECIAL[2:]]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    content: str = made.to_str()
    return content


def tokenizer_of(given: str) -> str:
    """Return the content of a tokenizer.json by what names it, see `load_text`.

    Raises:
        ValueError: if there is none, or it is none.
    """
    if given.lstrip().startswith("{"):
        content, where = given, Path("tokenizer")
    else:
        kind = given.partition(":")[0]
        path = folder_of(given, "transformers") if kind in ("st", "hf") else Path(given).expanduser()
        where = path / "tokenizer.json" if path.is_dir() else path
        try:
            content = where.read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"There is no tokenizer.json to read at '{where}'.") from None
    try:
        known = isinstance(json.loads(content)["model"], dict)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise damaged(where, "it is not the JSON text of a tokenizer")
    return content


def text_input(model: TextEncoder) -> TextInput:
    """Return how an encoder takes texts: its tokenizer, cut and padded to its length."""
    content = _settings(model)
    made = _made(json.dumps(content))
    pad = _pad(made)
    made.enable_padding(pad_id=made.token_to_id(pad), pad_token=pad)
    return TextInput(made, max_length=model.max_length, trim=True)


def _settings(model: TextEncoder) -> dict[str, Any]:
    """Return the content of the tokenizer.json, cut to the model's length; a static one takes no special tokens."""
    content: dict[str, Any] = json.loads(model.tokenizer)
    cut = {"direction": "Right", "max_length": model.max_length, "strategy": "LongestFirst", "stride": 0}
    content |= {"truncation": cut, "padding": None}
    return content | ({"post_processor": None} if isinstance(model, StaticText) else {})


def _made(content: str) -> Any:
    tokenizers: Any = library("tokenizers", "tokenizers", "text:")
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # another library may raise anything
        raise damaged(Path("tokenizer.json"), f"tokenizers cannot read it ({check.sentence(error)})") from error


def _pad(made: Any) -> str:
    found = next((token for token in _PADS if made.token_to_id(token) is not None), None)
    if found is None:
        raise ValueError(f"The tokenizer of a text model needs a token {' or '.join(map(repr, _PADS))} for padding.")
    return found


def save_as_sentence_transformer(model: TextEncoder, folder: Path) -> None:
    """Write the files by which sentence-transformers loads an encoder; that library is not needed for it."""
    static = isinstance(model, StaticText)
    parts = ["StaticEmbedding", "Normalize"] if static else ["Transformer", "Pooling", "Normalize"]
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{part}" if at else "",
            "type": f"sentence_transformers.models.{part}",
        }
        for at, part in enumerate(parts)
    ]
    for module in modules[1:]:
        (folder / str(module["path"])).mkdir()
    _write(folder / "modules.json", modules)
    _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    _write(folder / "tokenizer.json", _settings(model))
    state: dict[str, Tensor] = {name: each.detach().cpu().float() for name, each in model.state_dict().items()}
    if isinstance(model, TextTransformer):
        table = state["embeddings.word_embeddings.weight"]
        state["embeddings.token_type_embeddings.weight"] = table.new_zeros(1, model.width)
        # Of the pooler, which the embedding does not read.
        state["pooler.dense.weight"] = table.new_zeros(model.width, model.width)
        state["pooler.dense.bias"] = table.new_zeros(model.width)
        _write(folder / "config.json", _bert(model, len(table)))
        _write(folder / "sentence_bert_config.json", {"max_seq_length": model.max_length, "do_lower_case": False})
        _write(folder / "tokenizer_config.json", _tokenizer_config(model))
        pooling = {"word_embedding_dimension": model.width, "pooling_mode_mean_tokens": True}
        _write(folder / "1_Pooling" / "config.json", pooling)
    save_weights(state, folder / "model.safetensors")


def _bert(model: TextTransformer, tokens: int) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": model.width,
        "intermediate_size": model.feed_forward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "max_position_embeddings": model.max_length,
        "type_vocab_size": 1,
        "vocab_size": tokens,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": _made(model.tokenizer).token_to_id(_pad(_made(model.tokenizer))),
        "dtype": "float32",
    }


def _tokenizer_config(model: TextTransformer) -> dict[str, Any]:
    made = _made(model.tokenizer)
    named = {"pad_token": _pad(made), "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    named = {key: token for key, token in named.items() if made.token_to_id(token) is not None}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        **named,
    }


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")

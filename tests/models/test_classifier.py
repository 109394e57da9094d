"""Which layers a model's features and logits are: by what its output shows, or one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from congruence.models.taps import Taps


class Tokens(nn.Module):
    """A small text encoder: embeds ids [B, T], one block, and whatever `end` makes of the states [B, T, 8]."""

    def __init__(self, end) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.norm, self.pooler, self.fc = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.end = end

    def forward(self, ids: Tensor):
        return self.end(self, self.block(self.embed(ids)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


IDS = torch.arange(8).reshape(2, 4)
POINTS = torch.linspace(-1, 1, 10).reshape(2, 5)


def found(model: nn.Module, example: Tensor, *, training: bool = False) -> Taps:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    taps = Taps(model, name="student")
    taps.probe(example, training=training)
    return taps


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "end",
    [
        lambda model, states: states.mean(1),
        lambda model, states: model.norm(states)[:, 0],
        lambda model, states: nn.functional.normalize(states.mean(1), dim=1),
        lambda model, states: model.pooler(states[:, 0]).tanh(),
    ],
    ids=["mean", "norm of the first", "normalised", "bent by tanh"],
)
def test_the_output_of_an_encoder_without_a_head_is_its_embedding(end, training) -> None:
    taps = found(Tokens(end), IDS, training=training)
    assert taps.default("features") == "output"
    with pytest.raises(ValueError, match=r"default layer for 'logits', since its output \[2, 8\] .* student_layer=\.$"):
        taps.default("logits")


def test_the_tokens_of_an_encoder_are_its_embedding() -> None:
    taps = found(Tokens(lambda model, states: states), IDS)
    assert taps.default("features") == "output"
    with pytest.raises(ValueError, match=r"its output \[2, 4, 8\] is not that of a Linear"):
        taps.default("logits")


def test_of_several_embeddings_none_is_chosen() -> None:
    def end(model, states):
        return {"states": states, "pooled": model.pooler(states[:, 0]).tanh()}

    taps = found(Tokens(end), IDS)
    for role in ("features", "logits"):
        with pytest.raises(ValueError, match=r"'output\[states\]' \[2, 4, 8\], 'output\[pooled\]'"):
            taps.default(role)
    taps.require(["output[states]", "output[pooled]"])
    assert taps.shapes["output[pooled]"] == (2, 8)
    alone = found(Tokens(lambda model, states: {"last_hidden_state": states}), IDS)
    assert alone.default("features") == "output[last_hidden_state]"
    sentence = found(Tokens(lambda model, states: {"tokens": states, "sentence_embedding": states.mean(1)}), IDS)
    assert sentence.default("features") == "output[sentence_embedding]"


@pytest.mark.parametrize(
    ("pooled", "words", "images"),
    [
        # A Linear and a bend on the first token are a classifier's, maybe untrained: what it takes, or all tokens.
        (lambda model, states: model.pooler(states[:, 0]).tanh(), "output[last_hidden_state]", "input:pooler"),
        (lambda model, states: model.pooler(states[:, 0]), "output[last_hidden_state]", "input:pooler"),
        (lambda model, states: model.pooler(states.mean(1)).tanh(), *("output[last_hidden_state]",) * 2),
        (lambda model, states: states[:, 0], *("output[pooler_output]",) * 2),
        (lambda model, states: model.norm(states.mean(1)), *("output[pooler_output]",) * 2),
    ],
)
def test_an_encoders_row_is_its_embedding_unless_a_linear_makes_it(pooled, words, images) -> None:
    def end(model, states):
        return {"last_hidden_state": states, "pooler_output": pooled(model, states)}

    class Floats(Tokens):
        def forward(self, x: Tensor):
            return self.end(self, self.block(x))

    assert found(Tokens(end), IDS).default("features") == words
    assert found(Floats(end), torch.randn(2, 4, 8)).default("features") == images
    with pytest.raises(ValueError, match="no default layer for 'logits'"):
        found(Tokens(end), IDS).default("logits")


def test_of_an_encoder_and_a_decoder_none_is_chosen() -> None:
    def end(model, states):
        return {"last_hidden_state": states, "encoder_last_hidden_state": model.norm(states)}

    with pytest.raises(ValueError, match="its output has several parts"):
        found(Tokens(end), IDS).default("features")


def test_scores_beside_an_encoders_tokens_are_the_head() -> None:
    def end(model, states):
        return {"last_hidden_state": states, "scores": model.fc(states.mean(1))}

    taps = found(Tokens(end), IDS)
    assert (taps.default("features"), taps.default("logits")) == ("input:fc", "fc")


@pytest.mark.parametrize(
    "end",
    [
        lambda model, states: model.fc(states.mean(1)),
        lambda model, states: {"hidden": states, "logits": model.fc(states[:, 0])},
        lambda model, states: (model.fc(states[:, 0]), states),
    ],
    ids=["rows", "named", "first of two"],
)
def test_a_head_is_found_by_its_values_in_the_output(end) -> None:
    taps = found(Tokens(end), IDS)
    assert (taps.default("features"), taps.default("logits")) == ("input:fc", "fc")


@pytest.mark.parametrize(
    "end",
    [
        lambda model, states: model.fc(states).mean(1),
        lambda model, states: model.fc(states)[:, 0].log_softmax(1),
        lambda model, states: {"logits": model.fc(states)[:, -1], "tokens": model.fc(states)},
    ],
    ids=["averaged over tokens", "of the first token", "of the last, named"],
)
def test_of_a_head_on_tokens_the_output_has_the_logits(end) -> None:
    taps = found(Tokens(end), IDS)
    assert taps.default("logits") in ("output", "output[logits]")
    taps.require([taps.default("logits")])
    assert taps.shapes[taps.default("logits")] == (2, 3)
    assert taps.default("features").startswith("input:fc")


@pytest.mark.parametrize(
    "end",
    [
        lambda model, states: model.fc(states).softmax(2).mean(1),
        lambda model, states: model.fc(states).mean(1).softmax(1),
        lambda model, states: (model.fc(states[:, 0]).softmax(1) + model.fc(states[:, 1]).softmax(1)) / 2,
    ],
    ids=["averaged", "of the average", "two added up"],
)
def test_probabilities_without_logits_are_no_logits(end) -> None:
    taps = found(Tokens(end), IDS)
    with pytest.raises(ValueError, match=r"since its output .*holds probabilities.* student_layer=\.$"):
        taps.default("logits")
    assert taps.defaults.probabilities == "output"


@pytest.mark.parametrize(
    "end",
    [
        lambda model, states: model.fc(states[:, 0]) + torch.tensor([1.0, -2.0, 3.0]),
        lambda model, states: model.fc(states[:, 0]).masked_fill(torch.tensor([False, True, False]), -1e9),
    ],
    ids=["adjusted", "masked"],
)
def test_logits_with_constants_are_those_of_their_head(end) -> None:
    taps = found(Tokens(end), IDS)
    assert (taps.default("features"), taps.default("logits")) == ("input:fc", "output")
    other = found(Tokens(lambda model, states: model.fc(states[:, 0]) * model.fc(states[:, 1]).sigmoid()), IDS)
    assert other.default("features") != "input:fc"


class Adapted(nn.Module):
    """A head that is frozen, and an adapter of it that begins at zero."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head.requires_grad_(False)
        self.down, self.up = (nn.Parameter(torch.zeros(*shape)) for shape in ((2, 8), (3, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + x @ self.down.T @ self.up.T


def test_an_adapter_that_begins_at_zero_is_part_of_the_logits() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Adapted(nn.Linear(8, 3)))
    taps = Taps(model, name="student")
    taps.probe(POINTS, training=True)
    assert (taps.default("features"), taps.default("logits"), taps.head) == ("input:2.head", "output", "2.head")
    plain = Taps(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)), name="student")
    plain.probe(POINTS, training=True)
    assert plain.default("logits") == "1"


def test_a_head_that_evaluation_shows_gives_the_features() -> None:
    dropped = lambda model, states: nn.functional.dropout(model.fc(states[:, 0]), 0.9, model.training)  # noqa: E731
    taps = found(Tokens(dropped), IDS, training=True)
    assert taps.default("features") == "output"
    taps.in_evaluation = found(Tokens(dropped), IDS).defaults
    assert (taps.default("features"), taps.default("logits")) == ("input:fc", "output")


def test_the_mean_of_tokens_beside_a_pooler_is_an_embedding() -> None:
    def end(model, states):
        model.pooler(states[:, 0])  # the last Linear to run, as wide as the output
        return states.mean(1)

    def normalised(model, states):
        model.pooler(states[:, 0])
        return nn.functional.normalize(states.mean(1))

    for each in (end, normalised):
        taps = found(Tokens(each), IDS)
        assert taps.default("features") == "output"
        with pytest.raises(ValueError, match="'output' if these are scores of classes"):
            taps.default("logits")


def test_a_part_that_is_called_an_embedding_is_no_head() -> None:
    def clip(model, states):
        return {"image_embeds": model.pooler(states[:, 0]), "last_hidden_state": states}

    taps = found(Tokens(clip), IDS)
    assert taps.default("features") == "output[image_embeds]"
    with pytest.raises(ValueError, match="none of the parts of its output"):
        taps.default("logits")
    both = found(Tokens(lambda model, states: {**clip(model, states), "scores": model.fc(states[:, 0])}), IDS)
    assert (both.default("features"), both.default("logits")) == ("input:fc", "fc")


def test_of_several_logits_none_is_chosen_but_by_name() -> None:
    def both(model, states):
        return model.fc(states[:, 0]), model.pooler(states[:, 0])

    taps = found(Tokens(both), IDS)
    for role in ("features", "logits"):
        with pytest.raises(ValueError, match=r"since its output holds several \('output\[0\]' \[2, 3\], 'output\[1\]'"):
            taps.default(role)
    named = found(Tokens(lambda model, states: dict(zip(("logits", "aux"), both(model, states), strict=True))), IDS)
    assert named.default("logits") == "fc"
    mixed = found(Tokens(lambda model, states: {"logits": model.fc(states).exp().mean(1)}), IDS)
    assert mixed.default("logits") == "output[logits]"


def test_a_residual_block_and_a_network_without_a_head() -> None:
    assert found(Residual(), POINTS).default("features") == "output"  # not the hidden layer [2, 20]
    headless = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    taps = found(headless, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert taps.default("features") == "output"
    with pytest.raises(ValueError, match=r"is what a norm gives, not a Linear: 'output' if these are scores"):
        taps.default("logits")


def test_a_scaled_head_is_a_head() -> None:

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return 16 * self.fc(x)

    taps = found(Model(), POINTS)
    assert (taps.head, taps.default("features"), taps.default("logits")) == ("fc", "input:fc", "output")


class Table(nn.Module):
    """A static text encoder: a table and a mean over real tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)

    def forward(self, ids: Tensor) -> Tensor:
        real = (ids > 0).unsqueeze(2)
        return (self.table(ids) * real).sum(1) / real.sum(1).clamp(min=1)


def test_what_comes_from_a_table_of_embeddings_is_no_score_of_classes() -> None:
    taps = found(Table(), IDS)
    assert taps.default("features") == "output"
    with pytest.raises(ValueError, match=r"comes from a table of embeddings: 'output' if these are class scores"):
        taps.default("logits")

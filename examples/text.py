"""Two encoders of text, each with its own tokenizer: `python examples/text.py [--texts FILE]`.

FILE has one text a line; without one, 400 sentences are made. The teacher cuts texts into words and the student into
pairs of letters, and no labels are needed. Printed is which share of a sentence's ten nearest sentences are the same
for both models, before and after. Nothing is downloaded. The teacher is drawn at random: put a trained encoder in its
place, such as `cg.models.load("st:FOLDER")`, and its own tokenizer.
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

import congruence as cg

SUBJECTS = ("the cat", "a dog", "the old man", "my sister", "a bird", "the teacher", "our student", "the moon")
VERBS = ("sees", "likes", "paints", "follows", "forgets", "carries", "measures")
OBJECTS = ("the garden", "a red house", "two small stones", "the river", "a letter", "the sea", "old songs", "a map")


class Encoder(nn.Module):
    """The mean of the tokens' embeddings, a small network, and a norm."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, width, padding_idx=0)
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.LayerNorm(width))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one embedding a text: [B, D]."""
        real = attention_mask.unsqueeze(2)
        return self.body((self.table(input_ids) * real).sum(1) / real.sum(1).clamp(min=1))


class Tokenizer:
    """Hashes pieces of a text to integers from 1 to `tokens` - 1, and pads with 0."""

    def __init__(self, tokens: int, length: int, *, letters: int = 0) -> None:
        self.tokens, self.length, self.letters = tokens, length, letters

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """Return the tokens of texts and where they are real, both [B, length]."""
        ids = torch.zeros(len(texts), self.length, dtype=torch.long)
        for row, text in enumerate(texts):
            n = self.letters
            pieces = [text[i : i + n] for i in range(0, len(text), n)] if n else text.split()
            found = [1 + zlib.crc32(piece.encode()) % (self.tokens - 1) for piece in pieces[: self.length]]
            ids[row, : len(found)] = torch.tensor(found, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def main() -> None:
    """Distil an encoder of words into one of pairs of letters, and print how alike they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path)
    given = parser.parse_args()
    lines = given.texts.read_text(encoding="utf8").splitlines() if given.texts else []
    texts = lines or [" ".join(parts) for parts in itertools.product(SUBJECTS, VERBS, OBJECTS)][:400]
    torch.manual_seed(0)
    teacher, student = Encoder(5000, 64), Encoder(500, 16)
    words = cg.data.TextInput(Tokenizer(5000, 12), max_length=12)
    pairs = cg.data.TextInput(Tokenizer(500, 24, letters=2), max_length=24)
    data = cg.data.TextDataset(texts, classes=None, inputs={"teacher": words, "student": pairs})
    ordered = cg.data.loader(data, batch_size=64, shuffle=False)
    before = cg.compare(teacher, student, ordered).to_dict()["neighbour_overlap_10"]
    terms = ["score_distill", cg.Term("pkt", weight="balanced")]
    distiller = cg.Distiller(teacher, student, terms, example=data.batch([0, 1]))
    options = cg.FitOptions(epochs=40, optimizer=cg.OptimizerOptions("adamw", lr=1e-2))
    cg.fit(distiller, cg.data.loader(data, batch_size=64), options=options)
    after = cg.compare(teacher, student, ordered).to_dict()["neighbour_overlap_10"]
    print(f"shared among the ten nearest of {len(texts)} texts: {before:.2f} before, {after:.2f} after")


if __name__ == "__main__":
    main()

"""Small vision transformers as libraries build them: a convolution for the patches, tokens before them, a head."""

import torch
from torch import nn


class Vit(nn.Module):
    """Patches of side 4, so many tokens before them, blocks of one head, a norm, and a head on the first token."""

    def __init__(self, width=8, depth=2, before=1, size=16, classes=3, patch=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.before = nn.Parameter(torch.randn(1, before, width))
        self.positions = nn.Parameter(torch.randn(1, before + (size // patch) ** 2, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 1, 2 * width, 0.0, batch_first=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.before.expand(len(images), -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.before.shape[1] else tokens.mean(1))


def vit(seed=0, **arguments):
    torch.manual_seed(seed)
    return Vit(**arguments)

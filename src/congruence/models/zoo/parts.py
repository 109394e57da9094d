"""What the networks of the zoo share: how they end, how they start out, and how channels are shuffled."""

from __future__ import annotations

from torch import Tensor, nn


def average() -> nn.Sequential:
    """Return the mean over positions, [B, C, H, W] to [B, C]: torch computes size 1 as a mean, repeatable on GPUs."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))


def embedding(width: int, embedding_dim: int | None) -> nn.Module:
    """Return the linear layer `embed`, or what passes its input on where none is asked for."""
    return nn.Identity() if embedding_dim is None else nn.Linear(width, embedding_dim)


def he_normal(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (outputs · kernel area)), after He et al. 2015, and clear its bias."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def small_linear(linear: nn.Linear) -> None:
    """Draw a classifier from N(0, 0.01²) and clear its bias, as the benchmark's VGG and MobileNetV2 start out."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)


class Shuffle(nn.Module):
    """Deal channels out again: channel i of group g comes to place i · groups + g, so that the next groups mix them."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape; C is a multiple of `groups`."""
        return maps.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

"""Samples as a page shows them: small images side by side in one JPEG, or texts."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.images import ImageDataset
from congruence.data.datasets.texts import TextDataset

SIDE = 32  # pixels of a thumbnail
_BYTES = 1_200_000  # of the JPEG: the whole page is to stay below 8 MB
_QUALITIES = (80, 60, 45, 30, 15)
_AT_ONCE = 256
_LETTERS = 300


def shown(part: BatchDataset, positions: Sequence[int], files: Sequence[str] | None = None) -> dict[str, Any]:
    """Return {"names"} of samples, with {"sprite", "columns"} of images, and {"texts"} of texts.

    A name is that of the sample's file, else its number in the data before they were split.

    Args:
        part: the samples.
        positions: of those shown, in their order.
        files: the file of each sample of the part, if they have any (`sample_names`); those of texts are not read.
    """
    rows = list(positions) if part.rows is None else part.rows[list(positions)].tolist()
    files = None if isinstance(part, TextDataset) else files  # the names of texts are the texts
    names = [f"sample {row}" for row in rows] if files is None else [files[position] for position in positions]
    if isinstance(part, ImageDataset):
        return {"names": names, **_sprite(part, positions)}
    if isinstance(part, TextDataset):
        return {"names": names, "texts": [_short(part.texts[row]) for row in rows]}
    return {"names": names}


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _sprite(part: ImageDataset, positions: Sequence[int]) -> dict[str, Any]:
    from PIL import Image

    if not positions:
        return {}
    columns = math.ceil(math.sqrt(len(positions)))
    sheet = Image.new("RGB", (columns * SIDE, math.ceil(len(positions) / columns) * SIDE))
    for start in range(0, len(positions), _AT_ONCE):
        for place, image in enumerate(part.raw(positions[start : start + _AT_ONCE]), start):
            sheet.paste(_thumbnail(image), (place % columns * SIDE, place // columns * SIDE))
    grey = part.shape[0] == 1
    for quality in _QUALITIES:
        written = io.BytesIO()
        (sheet.convert("L") if grey else sheet).save(written, format="JPEG", quality=quality)
        if written.tell() <= _BYTES:
            break
    return {"sprite": base64.b64encode(written.getvalue()).decode(), "columns": columns}


def _thumbnail(image: Tensor) -> Any:
    """Return an image [C, H, W] of bytes as one of 32 × 32 pixels, whole, on black."""
    from PIL import Image

    pixels = image.cpu().numpy()
    if len(pixels) not in (1, 3):  # of other channels the first alone
        pixels = pixels[:1]
    drawn = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).convert("RGB")
    scale = SIDE / max(drawn.size)
    size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    small = drawn.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (SIDE, SIDE))
    tile.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return tile

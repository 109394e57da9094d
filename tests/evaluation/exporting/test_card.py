"""What a model card says of the input, from which another person prepares images."""

from __future__ import annotations

from typing import Any

import pytest

from congruence.evaluation.exporting.card import CardFacts, write_card

MADE = {"parameters": 5, "export": {"to": "onnx", "precision": "float32", "files": ["student.onnx"]}}
IMAGES = {"shape": [3, 20, 30], "mean": [0.5], "std": [0.25], "interpolation": "bicubic"}


def card_of(tmp_path, exported: dict[str, Any], **facts: Any) -> str:
    write_card(tmp_path / "README.md", CardFacts(**facts), MADE | exported)
    return (tmp_path / "README.md").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("resize", "said"),
    [
        ({}, "if of another size, resized to cover 20×30 as closely as the ratio allows (bicubic)"),
        ({"resize": 36}, "resized to 36 on the shorter side (bicubic)"),
        ({"resize": [24, 34]}, "resized to 24×34 (bicubic)"),
    ],
    ids=["cover", "shorter side", "height and width"],
)
def test_how_images_of_any_size_become_an_input(tmp_path, resize, said):
    card = card_of(tmp_path, IMAGES | resize)
    assert f"Images with 3 channels, {said}, then cropped at the centre to 20×30." in card
    assert "(image − mean) / std, with mean [0.5] and std [0.25]." in card


def test_inputs_that_are_not_images_are_not_described_as_such(tmp_path):
    assert "## Input" not in card_of(tmp_path, {"shape": [12]})

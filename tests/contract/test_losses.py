"""The front door of the losses names what their files offer, and nobody writes it by hand."""

from __future__ import annotations

from _harness.pages import script


def test_the_front_door_is_as_the_files_are():
    update = script("update_losses")
    assert update.PAGE.read_text(encoding="utf8") == update.page(), "run `make generated`"


def test_a_helper_is_not_offered_and_what_is_listed_is(tmp_path):
    update = script("update_losses")
    file = tmp_path / "mine.py"
    file.write_text("def mine_loss(): ...\n\n\ndef _loss(): ...\n\n\ndef rows(): ...\n\n\nclass MineLoss: ...\n")
    assert update.offered(file) == ["MineLoss", "mine_loss"]
    file.write_text('__all__ = ["rows", "Mine"]\n' + file.read_text())
    assert update.offered(file) == ["Mine", "rows"]

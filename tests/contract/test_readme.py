"""The README's table of methods is the catalogue's; its figures are checked by `make figures`."""

from __future__ import annotations

from _harness.pages import ROOT, script


def test_the_methods_are_those_of_the_catalogue():
    update = script("update_readme")
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    now = update.generated.filled(readme, {"methods": update.methods()})
    assert now == readme, "run `python docs/update_readme.py`"

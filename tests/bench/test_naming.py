"""A plan writes below its folder alone, and each of its rows into a folder of its own."""

from __future__ import annotations

import pytest
from _harness.plans import TINY

from congruence.bench.plan import Plan
from congruence.bench.planfile import load_plan
from congruence.bench.teachers import load_kept
from congruence.cli.train import folder
from congruence.config import load_config

BAD = ["../x", "/tmp/x", "a/b", "a\\\\b", "..", "", "a\\u001b[2J", "x:y", "con*"]


def written(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf8")
    return str(path)


@pytest.mark.parametrize("bad", BAD)
def test_no_name_leaves_the_folder(bad, tmp_path):
    variants = f'[variants]\n"{bad or " "}" = []\n'
    for text, key in (
        (TINY.replace('"tiny"', f'"{bad}"'), "name: expected a folder's name "),
        (TINY + f'"{bad}" = "digits/ce"\n', "methods: expected names "),
        (TINY.replace("[methods]", f"{variants}[methods]"), "variants: expected names "),
    ):
        with pytest.raises(ValueError, match=f"plan.toml: {key}") as caught:
            load_plan(written(tmp_path, text))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("methods", "variants", "said"),
    [
        (["a", "a-b"], ["b", "b-b"], "got 'a-b-b' of 'a-b' in 'b' and of 'a' in 'b-b'"),
        (["kd", "KD"], [""], "got 'kd' and 'KD' of 'kd' in '' and of 'KD' in ''"),
    ],
)
def test_no_two_rows_share_a_folder(methods, variants, said):
    recipes = dict.fromkeys(methods, "digits/ce")
    with pytest.raises(
        ValueError, match=r"^The plan 'small': methods: expected rows in folders of their own, "
    ) as caught:
        Plan("small", recipes, (0,), variants=dict.fromkeys(variants, ()))
    assert said in str(caught.value)
    made = Plan("small", recipes | {"a": "digits/ce"}, (0, 1), variants={"c": ()}) if "KD" not in methods else None
    assert made is None or len({cell.name for cell in made.cells()}) == made.count() == 4


def test_a_kept_teacher_is_looked_for_in_its_folder_alone(tmp_path):
    (tmp_path / "teachers").mkdir()
    for end in ("json", "safetensors"):
        (tmp_path / f"outside.{end}").write_text("{}")
    with pytest.raises(ValueError, match=r"learns from '\.\./outside', but the teachers in '.*teachers' are: none"):
        load_kept(tmp_path, "../outside", "tiny")


@pytest.mark.parametrize("bad", ["../x", "/x", "a//b", "a/../../b", "", "a\x1b[2J"])
def test_a_run_s_folder_lies_below_runs(bad, tmp_path):
    named = load_config("digits/pkt").model_copy(update={"name": bad})
    with pytest.raises(ValueError, match="The name of the configuration must be of parts ") as caught:
        folder(None, named)
    assert str(caught.value).isprintable()
    assert folder(tmp_path, named) == tmp_path
    assert str(folder(None, load_config("digits/pkt"))) == "runs/digits/pkt"

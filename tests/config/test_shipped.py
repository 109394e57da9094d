"""Shipped files are found in a checkout and in a wheel."""

import pytest

from congruence.config.shipped import folder, names
from congruence.config.shipped import shipped as found


def test_names_leave_out_what_others_extend():
    assert "digits/kd" in names("recipes")
    assert not [name for name in names("recipes") if name.endswith("base")]
    assert found("recipes", "digits/kd") == folder("recipes") / "digits" / "kd.toml"


def test_the_folder_beside_the_code_comes_first(tmp_path, monkeypatch):
    (tmp_path / "plans" / "a").mkdir(parents=True)
    (tmp_path / "plans" / "a" / "b.toml").write_text("")
    monkeypatch.setattr("congruence.config.shipped._PACKAGE", tmp_path)
    assert names("plans") == ("a/b",)
    assert found("plans", "plans/a/b.toml") == tmp_path / "plans" / "a" / "b.toml"
    with pytest.raises(ValueError, match=r"no such name among the shipped plans\. Did you mean 'a/b'\?"):
        found("plans", "a/c")


def test_a_folder_of_results_names_its_file():
    assert found("recipes", "digits-kd") == found("recipes", "digits/kd")

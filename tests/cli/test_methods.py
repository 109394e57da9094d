"""`congruence methods`."""

import dataclasses
import inspect

import pytest
from _harness.cases import OWN_KEYS
from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.cli.methods import card
from congruence.methods import row


def test_the_table_has_a_line_for_each():
    result = CliRunner().invoke(app, ["methods"])
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines][: len(OWN_KEYS)] == list(OWN_KEYS)
    assert all(line.endswith(row(key).summary) for key, line in zip(OWN_KEYS, lines, strict=False))


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_card_tells_everything(key):
    text = CliRunner().invoke(app, ["methods", key]).stdout
    entry = row(key)
    formula = inspect.getdoc(entry.function).partition("\nShape:")[0].strip()
    assert formula in text
    assert f"default weight: {entry.weight}" in text
    assert f"paper: {entry.reference}" in text
    assert (f"\nyear: {entry.year}\n" in text) == (entry.year is not None)
    assert (f"\nlink: {entry.link}\n" in text) == bool(entry.link)
    assert "\nRaises:" not in text
    assert all(f"{name}={value!r}" in text for name, value in entry.defaults().items())


def test_a_card_tells_what_a_method_does_around_its_loss():
    assert "L = Σ_kernels [ ℓ(deepest layer) + w Σ ℓ(earlier layer) ]" in card(row("hkd"))
    assert "after the loss, a sample's row of a bank becomes".lower() in card(row("crd")).lower()
    assert "with its hyper-parameters stored" not in card(row("pkt"))


def test_a_card_names_where_the_function_lives():
    assert "\ncongruence.losses.pkt_loss\n" in card(row("pkt"))

    def mine_loss(student, teacher):
        """L = 0."""

    other = dataclasses.replace(row("mimic"), key="mine", function=mine_loss)
    assert f"\n{__name__}.mine_loss\n" in card(other)


def test_a_card_says_where_labels_are_wanted():
    sentence = "it is useful only if most samples have labels"
    assert {key for key in OWN_KEYS if sentence in card(row(key))} == {key for key in OWN_KEYS if row(key).blind}
    assert [row(key).labels for key in ("wasserstein", "class_wasserstein", "joint_wasserstein", "kd")] == [
        *("beside", "read", "", ""),
    ]


def test_an_unknown_key():
    result = CliRunner().invoke(app, ["methods", "ptkk"])
    assert result.exit_code == 2
    assert result.stderr == "Unknown method 'ptkk'. Did you mean 'pkt'? `congruence methods` lists them all.\n"

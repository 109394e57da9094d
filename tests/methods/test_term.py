"""A term: what it accepts, what it weighs when, and what it refuses in one sentence."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from _harness.cases import OWN_KEYS
from _harness.toys import Bank, Queue
from torch import nn

from congruence.losses import PktLoss
from congruence.methods import Clock, LossMethod, Needs, Term, row
from congruence.methods.descriptions import current_descriptions


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "ptk"}, r"Unknown method 'ptk'\. Did you mean 'pkt'"),
        ({"method": 3}, r"`method` must be a key of the catalogue or a Method, got int"),
        ({"method": Bank}, r"`method` must be a key of the catalogue or a Method, got the class Bank"),
        ({"method": "kd", "temprature": 2}, r"'kd' has no hyper-parameter `temprature`.*Did you mean 'temperature'"),
        ({"method": "kd", "temperature": -1}, r"`temperature` must be a number > 0, got -1"),
        ({"method": Bank(), "size": 3}, r"`size` must be set on the Bank itself"),
        ({"method": "kd", "weight": float("nan")}, r"`weight` must be a finite number"),
        ({"method": "kd", "weight": True}, r"`weight` must be a finite number"),
        ({"method": Bank(), "weight": {}}, r"`weight` must be a finite number, one for each part"),
        (
            {"method": "kd", "weight": {"lss": 1.0}},
            r"`weight` must be a number, or one for each part of 'kd' \('loss'\)",
        ),
        ({"method": "kd", "name": ""}, r"`name` must be a word"),
        ({"method": "kd", "name": "a.b"}, r"`name` must be a word without"),
        ({"method": "kd", "name": "a/b"}, r"`name` must be a word without"),
        ({"method": "kd", "name": 3}, r"`name` must be a word without"),
        ({"method": "kd", "name": "loss"}, r"`name` must be a word that is not reserved, got 'loss'"),
        ({"method": "kd", "name": "keys"}, r"`name` must be a word that is not reserved, got 'keys'"),
        ({"method": "kd", "name": "training"}, r"`name` must be a word that is not reserved"),
        ({"method": "kd", "student_layer": 3}, r"`student_layer` must be a layer's path"),
        ({"method": "kd", "teacher_layer": []}, r"`teacher_layer` must be a layer's path"),
        ({"method": "kd", "teacher_layer": {"logits": 4}}, r"`teacher_layer` must be a layer's path"),
        ({"method": "kd", "start_epoch": -1}, r"`start_epoch` must be an integer >= 0"),
        ({"method": "kd", "start_epoch": 1.5}, r"`start_epoch` must be an integer >= 0"),
        ({"method": "kd", "stop_epoch": 0}, r"`stop_epoch` must be an integer >= 1 or None"),
        ({"method": "kd", "warmup_epochs": -0.5}, r"`warmup_epochs` must be a number >= 0"),
        ({"method": "kd", "decay": 0}, r"`decay` must be a number > 0"),
    ],
)
def test_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        Term(arguments.pop("method"), **arguments)
    assert "\n" not in str(error.value)


def test_defaults_are_the_row_s():
    assert Term("kd").weight == row("kd").weight == 0.9
    assert Term("kd").name == "kd"
    assert Term("kd").needs == row("kd").needs
    assert Term(Bank()).name == "Bank"
    assert Term(Bank()).weight == 1.0


def test_the_weight_s_course():
    term = Term("kd", weight=2.0, start_epoch=2, stop_epoch=7, warmup_epochs=3, decay=0.5)
    weights = [term.weight_of("loss", Clock(epoch)) for epoch in range(8)]
    assert weights == [0, 0, 2 * 0.25, 2 * 0.5 * 0.5, 2 * 0.75 * 0.25, 2 * 0.125, 2 * 0.0625, 0]
    assert [term.active(Clock(epoch)) for epoch in range(8)] == [False] * 2 + [True] * 5 + [False]


def test_a_weight_that_falls_as_a_cosine():
    """As WKD's: w ½ (1 + cos π (e − c)/(E − c))."""
    whole = Term("kd", weight=2.0, cosine_from=2)
    weights = [whole.weight_of("loss", Clock(epoch, epochs=6)) for epoch in range(6)]
    assert weights == pytest.approx([2, 2, 2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5])
    stopped = Term("kd", weight=2.0, warmup_epochs=1, stop_epoch=2, cosine_from=0)
    assert [stopped.weight_of("loss", Clock(epoch)) for epoch in range(3)] == pytest.approx([1, 1, 0])
    assert whole.describe() == {**Term("kd", weight=2.0).describe(), "cosine_from": 2}
    assert whole.weight_of("loss", Clock(2)) == 2.0
    with pytest.raises(ValueError, match=r"falls as a cosine to the end of the run, which is not known: give stop_ep"):
        whole.weight_of("loss", Clock(3))
    with pytest.raises(ValueError, match=r"`Term`: `cosine_from` must be an integer >= 0 or None, got 1\.5"):
        Term("kd", cosine_from=1.5)


def test_a_weight_for_each_part():
    term = Term(Bank(), weight={"near": 1.0, "far": 0.0})
    assert term.weight_of("near", Clock()) == 1.0
    assert term.weight_of("far", Clock()) == 0.0
    assert term.active(Clock())
    assert term.counts(Clock())
    nothing = Term(Bank(), weight={"near": 0.0, "far": 0.0})
    assert nothing.active(Clock())
    assert not nothing.counts(Clock())
    with pytest.raises(ValueError, match="`weight` of 'Bank' has no entry for its part 'middle', got 'near', 'far'"):
        term.weight_of("middle", Clock())


def test_layers_by_role():
    roles = ("features", "logits")
    assert Term("kd").layers("student", "features", roles) is None
    term = Term("kd", student_layer="a", teacher_layer={"logits": ["b", "c"]})
    assert term.layers("student", "features", roles) == ("a",)
    assert term.layers("student", "logits", roles) is None
    assert term.layers("teacher", "logits", roles) == ("b", "c")
    assert term.layers("teacher", "features", roles) is None
    with pytest.raises(ValueError, match="`teacher_layer` must be keyed by 'features', got 'logits'"):
        term.layers("teacher", "features", ("features",))


def test_a_key_makes_new_methods_and_an_instance_is_itself():
    term, bank = Term("kd"), Bank()
    assert term.make() is not term.make()
    assert not term.holds_method
    assert Term(bank).make() is bank
    assert Term(bank).holds_method
    mine = Term(bank).for_student("anna")
    assert mine.make() is not bank
    assert mine.make() is mine.make()
    assert (mine.name, mine.student) == ("Bank:anna", "anna")


def test_copies_and_pickles():
    for term in (Term("kd", weight=0.5, temperature=2.0), Term(Queue(size=4), weight=0.3, name="queue")):
        for again in (copy.deepcopy(term), pickle.loads(pickle.dumps(term))):
            assert repr(again) == repr(term)
            assert again.describe() == term.describe()
            assert again.make() is not term.make()


def test_it_is_written_as_it_was_made():
    assert repr(Term("kd", name="soft", temperature=2.0)) == "Term('kd', weight=0.9, name='soft', temperature=2.0)"
    described = Term("kd", student_layer=["a", "b"], temperature=2.0).describe()
    assert described["hyperparameters"] == {"temperature": "2.0"}
    assert described["student_layer"] == ["a", "b"]


def test_reserved_names_are_no_hyperparameters():
    for key in OWN_KEYS:
        assert not set(row(key).defaults()) & set(Term.RESERVED), key
    assert Term("perception_coherence", method="exact").hyperparameters == {"method": "exact"}


def test_a_loss_method_wants_one_role_and_a_loss():
    with pytest.raises(ValueError, match="`loss` must be a loss module, got function"):
        LossMethod(torch.nn.functional.mse_loss, Needs())
    with pytest.raises(ValueError, match="`needs` must be of one role"):
        LossMethod(PktLoss(), Needs(roles=("features", "logits")))
    assert isinstance(LossMethod(PktLoss(), Needs()).criterion, nn.Module)


def test_needs_and_catalogue_are_checked():
    from congruence.methods.catalogue import ROWS, table

    with pytest.raises(ValueError, match="`roles` must be some of features, logits, maps"):
        Needs(roles=("feature",))
    with pytest.raises(ValueError, match="`views` not empty"):
        Needs(views=())
    with pytest.raises(ValueError, match=f"two rows with the key '{ROWS[0].key}'"):
        table((ROWS[0], ROWS[0]))


def test_entry_points_add_rows(monkeypatch):
    from congruence.core import plugins
    from congruence.methods import Row, catalogue

    class Point:
        name = "mine"

        def __init__(self, value):
            self.value = value

        def load(self):
            return self.value

    mine = Row("mine", "Mine.", "none", PktLoss, row("pkt").function)
    catalogue._all.cache_clear()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point(mine)])
    try:
        assert catalogue.keys()[-1] == "mine"
        assert Term("mine").needs == Needs()
        catalogue._all.cache_clear()
        monkeypatch.setattr(plugins, "entry_points", lambda group: [Point(PktLoss)])
        with pytest.raises(ValueError, match=r"entry point 'mine' .* must name a catalogue Row, got type"):
            catalogue.keys()
    finally:
        catalogue._all.cache_clear()


def test_a_layout_and_a_mask_are_part_of_what_a_run_is():
    layout = {"student": "BCT", "teacher": {"features": "TBC"}}
    term = Term("pkt", layout=layout, mask={"student": "~pad"})
    described = term.describe()
    assert (described["layout"], described["mask"]) == (layout, {"student": "~pad"})
    assert [
        term.layout_of(*key) for key in (("student", "features"), ("teacher", "features"), ("teacher", "maps"))
    ] == [
        "BCT",
        "TBC",
        None,
    ]
    assert [term.mask_of(name) for name in ("student", "small", "teacher")] == ["~pad", "~pad", None]
    assert Term("dkd", layout="BCT").layout_of("student", "logits") is None
    assert Term("kd", layout="BCT").layout_of("student", "logits") == "BCT"  # which reads dense logits, too
    older = {key: value for key, value in Term("pkt").describe().items() if key not in ("layout", "mask")}
    assert current_descriptions([older]) == [Term("pkt").describe()]

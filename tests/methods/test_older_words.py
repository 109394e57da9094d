"""Words that meant something else in an older version: a run of then keeps its meaning, or is refused."""

import json
import logging

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.methods import row
from congruence.methods.descriptions import current_descriptions
from congruence.methods.rows import current_words

# What a run was given then, and what it must be given today to be that run.
SAME = [
    ("joint_wasserstein", {"label_cost": "euclidean"}, {"label_cost": "squared_euclidean"}),
    ("joint_wasserstein", {"beta": 2.0}, {"beta": 2.0}),
    ("joint_wasserstein", {"label_cost": "cross_entropy"}, {"label_cost": "cross_entropy"}),
    ("intra_class", {}, {"reduction": "gated_mean"}),
    ("intra_class", {"reduction": "mean"}, {"reduction": "mean"}),
    ("hkd", {}, {"positions": "averaged"}),
    ("hkd", {"eps": 1e-5}, {"eps": 1e-5, "positions": "averaged"}),
]


def of_then(key, hyperparameters):
    """A term as a version without these words described it."""
    words = {name: str(value) for name, value in hyperparameters.items()}
    described = {**cg.Term(key).describe(), "hyperparameters": words}
    del described["words"]
    return described


@pytest.mark.parametrize(("key", "then", "today"), SAME)
def test_a_description_of_then_is_read_in_the_words_of_today(key, then, today):
    assert current_words(row(key), then) == today
    now = cg.Term(key, **today).describe()
    assert current_descriptions([of_then(key, then)]) == [now]
    assert current_descriptions([now]) == [now]


def test_kernel_transfer_of_then_is_of_raw_features():
    raw = cg.Term("kda", warmup=1, normalize=False).describe()
    assert current_descriptions([of_then("kda", {"warmup": 1})]) == [raw]
    assert current_descriptions([of_then("kda", {"warmup": 1, "normalize": True})]) == [
        cg.Term("kda", warmup=1, normalize=True).describe()
    ]


def test_other_rows_are_described_as_before():
    assert "words" not in cg.Term("pkt").describe()


def distiller(**hyperparameters):
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(4, w), nn.Tanh(), nn.Linear(w, 3)) for w in (6, 5))
    return cg.Distiller(teacher, student, [cg.Term("joint_wasserstein", **hyperparameters)], example=torch.zeros(2, 4))


def test_a_run_of_then_goes_on_as_what_it_was_or_not_at_all(tmp_path):
    data = torch.utils.data.TensorDataset(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))

    def fit(epochs, resume=False, **hyperparameters):
        options = cg.FitOptions(epochs=epochs, out=tmp_path, device="cpu", resume=resume, schedule=constant)
        return cg.fit(distiller(**hyperparameters), cg.data.loader(data, batch_size=8), None, options)

    constant = cg.ScheduleOptions(name="constant")
    fit(1, label_cost="squared_euclidean")
    file = tmp_path / "run.json"
    run = json.loads(file.read_text(encoding="utf8"))
    assert run["terms"][0]["words"] == "of today"
    run["terms"] = [of_then("joint_wasserstein", {"label_cost": "euclidean"})]
    file.write_text(json.dumps(run), encoding="utf8")
    with pytest.raises(ValueError, match="label_cost is squared_euclidean, this one's euclidean"):
        fit(2, resume=True, label_cost="euclidean")
    assert fit(2, resume=True, label_cost="squared_euclidean").steps == 4


def test_the_word_that_changed_is_told_once(caplog):
    caplog.set_level(logging.WARNING, logger="congruence")
    distiller()
    assert caplog.messages == []
    distiller(label_cost="euclidean")
    assert len(caplog.messages) == 1
    assert (
        "the squared cost, which had this name in the first version, is now 'squared_euclidean'." in caplog.messages[0]
    )

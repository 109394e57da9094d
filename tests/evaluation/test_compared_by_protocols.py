"""`compare` by the numbers of a protocol: each model's own, as `measure` gives them."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import congruence as cg
from congruence import models
from congruence.cli.main import app
from congruence.data import ArrayDataset, Splits
from congruence.evaluation import compare, measure
from congruence.evaluation.protocols import KINDS, ProtocolData

LABELLED = ("classification", "retrieval", "identification", "open-set")


def pictures(count, seed, classes=6, first=0):
    generator = torch.Generator().manual_seed(seed)
    labels = first + torch.arange(count) % (classes - first)
    images = torch.randint(0, 200, (count, 1, 12, 12), dtype=torch.uint8, generator=generator)
    images += (9 * labels).to(torch.uint8)[:, None, None, None]
    return ArrayDataset(images, labels, classes=classes, mean=[0.5], std=[0.3], name="pictures")


@pytest.fixture(scope="module")
def splits():
    return Splits(pictures(60, 0), pictures(6, 1), pictures(36, 2))


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return [models.build(name, in_channels=1, classes=6).eval() for name in ("resnet8", "cnn3")]


@pytest.mark.parametrize("kind", LABELLED)
def test_each_model_has_what_measure_gives(splits, pair, kind):
    if kind == "open-set":  # whose test classes are new
        known = torch.nonzero(splits.train.labels < 3).flatten()
        splits = splits._replace(train=splits.train.subset(known), test=pictures(36, 2, first=3))
    protocol = KINDS[kind]().fit(ProtocolData(splits, "pictures"))
    batches = [cg.data.loader(part, batch_size=16, shuffle=False) for part in (splits.test, splits.train)]
    found = compare(*pair, batches[0], train_loader=batches[1], protocol=protocol).to_dict()
    for side, model in zip(("teacher", "student"), pair, strict=True):
        wanted = measure(model, splits, protocol=protocol)
        for number in protocol.numbers:
            assert found[f"{side}_{number.key}"] == pytest.approx(wanted.numbers[number.key]), number.key
            assert found[f"{side}_{number.key}"] is not None


def test_a_database_is_asked_for(splits, pair):
    protocol = KINDS["retrieval"]().fit(ProtocolData(splits, "pictures"))
    with pytest.raises(ValueError, match=r"`compare`: `train_loader` must be given with the protocol 'retrieval'"):
        compare(*pair, cg.data.loader(splits.test, batch_size=16, shuffle=False), protocol=protocol)


def test_the_command_measures_by_a_protocol(pair, tmp_path):
    for name, model in zip(
        ("large", "small"), (models.build(n, in_channels=1, classes=10) for n in ("resnet8", "cnn3")), strict=True
    ):
        models.save_weights(model.state_dict(), tmp_path / f"{name}.safetensors")
    words = ["compare", "--teacher", "resnet8", "--teacher-weights", str(tmp_path / "large.safetensors")]
    words += ["--student", "small=cnn3", "--student-weights", f"small={tmp_path / 'small.safetensors'}"]
    words += ["--data", "digits", "--set", "data.test=40", "--no-latency", "--no-report"]
    done = CliRunner().invoke(app, [*words, "--set", "protocol.kind=retrieval", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["teacher"]["retrieval_map_published"] < 1
    assert 0 < found["students"]["small"]["student_retrieval_map_published"] < 1
    done = CliRunner().invoke(app, [*words, "--set", "protocol.kind=retrieval"])
    assert "| retrieval mAP, pub. (%) |" in done.stdout
    done = CliRunner().invoke(app, [*words, "--set", "protocol.kind=retrieval", "--split", "validation"])
    assert done.exit_code == 2
    assert "--split must be test with a protocol" in done.stderr

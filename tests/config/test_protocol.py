"""The table of a protocol."""

from __future__ import annotations

import pytest

from congruence.bench.identity import settings
from congruence.bench.plan import digest
from congruence.config import ConfigError, load_config, resolved_toml
from congruence.evaluation.protocols import ContentBased, OpenSet, ReIdentification
from congruence.training.saving.identity import config_identity


def test_a_table_makes_a_protocol():
    config = load_config("digits/pkt", ["protocol={kind='retrieval', ks=[1, 10], query_batch=64}"])
    assert config.protocol.protocol() == ContentBased(ks=(1, 10), query_batch=64)
    config = load_config("digits/pkt", ["protocol.kind=open-set", "protocol.metric=cosine"])
    assert config.protocol.protocol() == OpenSet(metric="cosine")
    config = load_config("digits/pkt", ["protocol.kind=re-identification"])
    assert config.protocol.protocol() == ReIdentification()


def test_it_is_written_and_read_again(tmp_path):
    config = load_config("digits/pkt", ["protocol={kind='identification', sizes=[10], distractors='faces', seed=1}"])
    assert config.protocol.distractors.endswith("/faces")
    path = tmp_path / "config.toml"
    path.write_text(resolved_toml(config))
    assert load_config(path).protocol == config.protocol


def test_configurations_without_one_are_what_they_were():
    config = load_config("digits/pkt")
    assert "protocol" not in resolved_toml(config)
    # As they were before there were protocols, and data of one's own.
    assert digest(config) == "71089ab4cee6"
    assert "factory" not in repr(config.data)  # by which caches are named
    assert "protocol" not in settings(config, {config.last: config.stages[config.last]})


def test_how_a_run_is_measured_is_no_part_of_what_it_is():
    plain, measured = (load_config("digits/pkt", sets) for sets in ([], ["protocol.kind=retrieval"]))
    ends = [config_identity(each.model_dump(exclude_none=True)) for each in (plain, measured)]
    assert ends[0] == ends[1]
    assert digest(plain) != digest(measured)
    told = settings(measured, {measured.last: measured.stages[measured.last]})
    assert told["protocol"] == {"kind": "retrieval"}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("protocol.kind=retrival", "protocol.kind: expected one of classification, retrieval, .* Did you mean 'retr"),
        ("protocol.ks=[1]", "protocol.kind: expected a value, got nothing"),
        ("protocol={kind='open-set', ranks=[1]}", "protocol.ranks: expected one of ks, metric for the kind 'open-set'"),
        ("protocol={kind='classification', ks=[1]}", "protocol.ks: expected no setting for the kind 'classification'"),
        ("protocol={kind='open-set', ks=[2, 2]}", r"protocol.ks: expected integers that differ, got \[2, 2\]"),
        ("protocol={kind='open-set', ks=[0]}", "protocol.ks.0: expected an integer >= 1, got 0"),
        ("protocol={kind='open-set', metrik='cosine'}", "protocol.metrik: expected one of .* Did you mean 'metric'"),
        ("protocol={kind='open-set', metric='taxi'}", "protocol.metric: expected one of cosine, euclidean, got 'taxi'"),
        ("protocol=retrieval", "protocol: expected a table, got 'retrieval'"),
    ],
)
def test_what_is_wrong_is_said(written, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config("digits/pkt", [written])

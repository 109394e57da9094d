"""A rank that fails, is killed or hangs: the others end, and name it."""

from __future__ import annotations

import pytest
from _harness.losing import TIMEOUT, WAYS, lost

from congruence.training.lost_ranks import LostRankError, LostRanks


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return lost(tmp_path_factory.mktemp("lost"))


def test_a_rank_that_fails_is_named_with_its_error(found):
    assert found["fails"][1]["said"] == "OSError: the disk is gone"
    assert found["fails"][0]["said"] == (
        "LostRankError: Rank 1 failed at step 2: OSError: the disk is gone. Rank 0 waited for it."
    )


def test_the_timeout_is_that_of_the_group(found):
    assert {each["timeout"] for each in found["fails"].values()} == {TIMEOUT}
    assert found["killed"][0]["timeout"] == 60.0


def test_a_rank_that_is_killed_is_named(found):
    assert list(found["killed"]) == [0]
    assert found["killed"][0]["said"] == (
        "LostRankError: Rank 1 ended without a word or did not answer in step 2: killed, or hanging. Rank 0 waited "
        "for it."
    )


@pytest.mark.skipif("hangs" not in WAYS, reason="part of `make attack`: it waits for a timeout")
def test_a_rank_that_hangs_is_named(found):
    assert list(found["hangs"]) == [0]
    assert found["hangs"][0]["said"] == (
        "LostRankError: Rank 1 ended without a word or did not answer within 20 s (`rank_timeout`) in step 2: killed, "
        "or hanging. Rank 0 waited for it."
    )


def test_one_process_has_no_one_to_lose():
    with pytest.raises(RuntimeError, match="gloo/"), LostRanks(1.0):
        raise RuntimeError("gloo/transport: closed")
    assert issubclass(LostRankError, RuntimeError)

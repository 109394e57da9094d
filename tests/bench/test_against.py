"""Differences to a baseline's row, paired by seed, against their definition."""

import math
import statistics

import pytest
from scipy.stats import ttest_rel

from congruence.bench.against import against, difference, holm, own_loss, probability
from congruence.bench.planfile import load_plan
from congruence.bench.table import cells, text


def row(method, seed, accuracy, **more):
    numbers = {
        "accuracy_best": accuracy,
        "accuracy_last": accuracy,
        "retrieval_map": None,
        "gpcl": 0.5 + (accuracy or 0) / 10,
    }
    about = {"method": method, "variant": "", "seed": seed, "factor": 1.0}
    return {**about, **numbers, "parameters": 10, "seconds": 3.0, **more}


def test_the_interval_is_student_s():
    values = [0.5, 1.5, -0.25, 2.0]
    found = difference(values, higher_is_better=True)
    reach = 3.182446 * statistics.stdev(values) / 2  # the quantile of three degrees of freedom, from a table
    assert found.mean == statistics.fmean(values)
    assert found.low == pytest.approx(found.mean - reach, rel=1e-6)
    assert found.high == pytest.approx(found.mean + reach, rel=1e-6)
    assert (found.pairs, found.better) == (4, 3)
    assert difference(values, higher_is_better=False).better == 1
    alone = difference([1.0])
    assert (alone.low, alone.high, alone.better) == (-math.inf, math.inf, None)


def test_rows_are_paired_by_seed():
    rows = [row("ce", 0, 0.5), row("ce", 1, 0.6), row("kd", 1, 0.63), row("kd", 0, 0.55), row("pkt", 0, 0.4)]
    heading, kd, pkt = against(rows, "ce")
    assert heading == ["", "accuracy, best (%)", "accuracy, last (%)", "GPCL"]
    mean, reach = 4.0, 12.706205 * statistics.stdev([5.0, 3.0]) / math.sqrt(2)
    assert kd[:2] == ["kd", f"{mean:+.1f} [{mean - reach:+.1f}, {mean + reach:+.1f}] 2/2"]
    assert pkt == ["pkt", "-10.0 0/1", "-10.0 0/1", "-0.010 0/1"]


def test_a_smaller_error_is_better():
    rows = [row("ce", 0, 0.5, cosine_kernel_transfer_error=0.4), row("pkt", 0, 0.5, cosine_kernel_transfer_error=0.3)]
    heading, pkt = against(rows, "ce")
    assert (heading[-1], pkt[-1]) == ("kernel error (cosine)", "-0.100 1/1")


def test_what_cannot_be_paired_is_left_out():
    assert against([row("kd", 0, 0.5)], "ce") == []
    assert against([row("ce", 0, 0.5)], "ce") == []
    rows = [row("ce", 0, None), row("kd", 0, 0.5), row("kd", 1, 0.9)]
    assert against(rows, "ce")[1][:3] == ["kd", "–", "–"]


def test_losses_on_held_out_images():
    def diagnosed(first, last):
        return {"diagnosed": {"first": first, "last": last}}

    ce = row("ce", 0, 0.5, **diagnosed({}, {"loss/pkt": 0.2, "loss/rkd.distance": 0.1, "loss/rkd.angle": 0.1}))
    pkt = row("pkt", 0, 0.5, **diagnosed({"gpcl": 0.1, "loss/pkt": 0.4}, {"gpcl": 0.2, "loss/pkt": 0.1}))
    rkd = row(
        *("rkd", 0, 0.5),
        **diagnosed(
            {"loss/rkd.distance": 0.2, "loss/rkd.angle": 0.2}, {"loss/rkd.distance": 0.2, "loss/rkd.angle": 0.3}
        ),
    )
    kd = row("kd", 0, 0.5, **diagnosed({"loss/kd": 2.0}, {"loss/kd": 1.0}))
    vid = row("vid", 0, 0.5, **diagnosed({"loss/vid": 0.5}, {"loss/vid": -1.0}))
    table = against([ce, pkt, rkd, kd, vid], "ce")
    assert table[0][-2:] == ["loss on held-out images, by the first epoch's", "by ce's"]
    assert [line[-2:] for line in table[1:]] == [
        ["× 0.25 1/1", "× 0.50 1/1"],
        [f"× {20 / 15:.2f} 0/1", f"× {20 / 7.5:.2f} 0/1"],
        ["× 0.50 1/1", "–"],
        ["1/1", "–"],
    ]
    assert "diagnosed" not in text(cells([ce, pkt]))


def test_parts_count_by_their_published_weights():
    losses = {"loss": 9.0, "rkd.distance": 0.2, "rkd.angle": 0.1}
    assert own_loss(losses, "rkd") == pytest.approx(25 * 0.2 + 50 * 0.1)
    assert own_loss(losses, "kd") is own_loss({"mine.a": 1.0}, "mine") is None


def test_a_plan_names_its_baseline(tmp_path):
    def plan(baseline):
        path = tmp_path / "mine.toml"
        path.write_text(
            f'name = "mine"\nseeds = [0]\nbaseline = {baseline}\nmethods = {{ ce = "digits/ce", kd = "digits/kd" }}\n'
            '[variants]\nlarge = ["data.test=40"]\n'
        )
        return load_plan(str(path))

    assert [plan(f'"{name}"').baseline for name in ("ce", "large")] == ["ce", "large"]
    with pytest.raises(ValueError, match=r"baseline: unknown method or variant\. Did you mean 'ce'"):
        plan('"cee"')
    with pytest.raises(ValueError, match=r"baseline: expected the name of a method, or of a variant, got 3"):
        plan("3")


def test_p_is_of_the_paired_t_test():
    one, other = [0.5, 0.7, 0.65, 0.9], [0.45, 0.71, 0.6, 0.7]
    differences = [a - b for a, b in zip(one, other, strict=True)]
    assert probability(differences) == pytest.approx(ttest_rel(one, other).pvalue, rel=1e-12)
    assert [probability(values) for values in ([1.0], [2.0, 2.0], [0.0, 0.0])] == [None, 0.0, 1.0]


def test_holm_multiplies_by_how_many_are_left():
    assert holm([0.02, 0.01, 0.9, None]) == pytest.approx([0.04, 0.03, 0.9, None])
    assert holm([0.03, 0.031]) == pytest.approx([0.06, 0.06])  # never smaller than the one before
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_corrected_tables_state_p():
    rows = [row(m, s, a) for m, s, a in [("ce", 0, 0.5), ("ce", 1, 0.6), ("kd", 0, 0.53), ("kd", 1, 0.65)]]
    rows += [row("pkt", 0, 0.5), row("pkt", 1, 0.61), {"method": "ce", "variant": "", "seed": 2, "failed": "It was."}]
    plain, told = against(rows, "ce"), against(rows, "ce", corrected=True)
    p = holm([probability([3.0, 5.0]), probability([0.0, 1.0])])
    assert [line[1] for line in told[1:]] == [
        f"{line[1]} p {each:.3f}" for line, each in zip(plain[1:], p, strict=True)
    ]


def test_numbers_of_a_protocol_have_a_column():
    rows = [
        row(method, seed, 0.5, neighbour_overlap_10=0.2 + 0.01 * seed + gain)
        for seed in range(3)
        for method, gain in (("ce", 0.0), ("kd", 0.02))
    ]
    heading, line = against(rows, "ce")
    assert line[heading.index("overlap@10 (%)")].startswith("+2.0 [+2.0, +2.0]")
    assert "seconds" not in heading

"""Figures of kept results: their data against the files, and the files that come of them."""

import json
import re
import statistics
from pathlib import Path

import pytest
from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.report.figures import PAPERS, write_figures
from congruence.report.figures.given import Given
from congruence.report.figures.of_cckd import sampled
from congruence.report.figures.of_intra_class import soft_labels
from congruence.report.figures.of_kd2m import weights
from congruence.report.figures.of_kda import errors
from congruence.report.figures.of_perception_coherence import by_setting

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parents[3]
KEPT = {
    "cckd": {"cckd-kernel": ["tables-5-6"], "cckd-sampler": ["table-7"]},
    "intra-class": {"intra-class-margin": ["soft-labels"]},
    "kda": {"kda-landmarks": ["2", "6", "7"], "kda-layers": ["tables-1-2"], "evidence-2": ["3"]},
    "kd2m": {"kd2m-weight": ["2-end"]},
    "perception-coherence": {
        "perception-batch": ["6-trained"],
        "perception-depth": ["table-5"],
        "perception-temperature": ["table-6"],
    },
}


def lines(plan, file="results.jsonl"):
    return [json.loads(line) for line in (ROOT / "results" / plan / file).read_text(encoding="utf8").splitlines()]


def values(plan, key, **asked):
    return [row[key] for row in lines(plan) if all(row[name] == value for name, value in asked.items())]


@pytest.mark.parametrize("paper", KEPT)
def test_kept_results_give_their_figures_and_the_others_are_told(paper, tmp_path):
    folders = [ROOT / "results" / plan for plan in KEPT[paper]]
    expected = {key for keys in KEPT[paper].values() for key in keys}
    outcomes = list(write_figures(paper, folders, tmp_path))
    assert {each.key for each in outcomes if each.files} == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{paper}-{key}.{kind}" for key in expected for kind in ("png", "svg")
    )
    by_key = {figure.key: figure for figure in PAPERS[paper]}
    for each in outcomes:
        if not each.files:
            assert by_key[each.key].needs in each.why
            assert re.search(r"congruence (distill|bench) |--only ", each.why)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
        assert b"congruence figures" in content


def test_the_same_call_gives_the_same_bits(tmp_path):
    folder = ROOT / "results" / "kda-layers"
    for name in ("one", "two"):
        list(write_figures("kda", [folder], tmp_path / name, only=["tables-1-2"]))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_sweep_has_the_means_of_its_files():
    (found,) = by_setting(Given([ROOT / "results" / "perception-batch"]), "batch")[0][0].values()
    assert [spot.at for spot in found] == [4, 8, 16, 32, 64, 128]
    for spot in found:
        kept = values("perception-batch", "gpcl", variant=f"batch{spot.at:g}")
        assert spot.mean == pytest.approx(sum(kept) / len(kept))
        assert spot.sd == pytest.approx(statistics.stdev(kept))


def test_samplers_are_apart_and_random_batches_beside_them():
    groups, random = sampled(Given([ROOT / "results" / "cckd-sampler"]))
    assert {group: [spot.at for spot in found] for group, found in groups.items()} == {
        "cckd, CUR": [4, 8, 20],
        "cckd, SUR": [1, 2, 4, 8, 20],
    }
    assert random["cckd"].values == tuple(
        100 * each for each in values("cckd-sampler", "accuracy_best", variant="random")
    )


def test_errors_are_those_of_the_papers_methods():
    before, behind = errors(Given([ROOT / "results" / "evidence-2"]))
    for groups, key in ((before, "kernel_transfer_error"), (behind, "logit_kernel_transfer_error")):
        assert [spot.label for spot in groups["B-cnn3"]] == ["baseline", "AT", "RKD", "KD", "KDA"]
        assert list(groups["B-cnn3"][-1].values) == values("evidence-2", key, variant="B-cnn3", method="kda")


def test_soft_labels_are_the_teachers_and_accuracies_their_students():
    entropy, accuracy = soft_labels(Given([ROOT / "results" / "intra-class-margin"]))
    teachers = {row["name"]: row["soft_label_entropy"] for row in lines("intra-class-margin", "teachers.jsonl")}
    (found,) = entropy.values()
    assert [spot.at for spot in found] == [0, 0.01, 0.03, 0.3]
    assert [spot.mean for spot in found][:2] == [teachers["teacher, no_contrast"], teachers["teacher, lambda_0_01"]]
    (found,) = accuracy.values()
    assert found[3].values == tuple(
        100 * v for v in values("intra-class-margin", "accuracy_best", variant="lambda_0_3")
    )


def test_weights_have_a_line_a_distance():
    accuracy, left = weights(Given([ROOT / "results" / "kd2m-weight"]))
    assert list(accuracy) == ["wasserstein", "class_wasserstein", "joint_wasserstein", "gaussian_wasserstein"]
    kept = values("kd2m-weight", "wasserstein", method="joint_wasserstein", variant="lambda_0_1")
    assert left["joint_wasserstein"][2].mean == pytest.approx(statistics.fmean(kept))


def test_failed_cells_are_no_values(tmp_path):
    rows = [row | ({"failed": "It was killed."} if row["seed"] else {}) for row in lines("perception-batch")]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = by_setting(Given([tmp_path]), "batch")[0][0].values()
    assert {len(spot.values) for spot in found} == {1}


def invoke(*words):
    return CliRunner().invoke(app, ["figures", *map(str, words)])


def test_the_command_lists_draws_and_tells(tmp_path):
    listed = invoke("kda")
    assert listed.exit_code == 0
    assert [line.partition(":")[0] for line in listed.stdout.splitlines()] == [each.key for each in PAPERS["kda"]]
    drawn = invoke("kda", ROOT / "results" / "kda-landmarks", "--out", tmp_path, "--only", "6", "--only", "4")
    assert (drawn.exit_code, drawn.stdout.split()) == (0, [str(tmp_path / f"kda-6.{kind}") for kind in ("png", "svg")])
    assert drawn.stderr.startswith("4: No run among the folders has logged both numbers. It needs runs that log both: ")
    nothing = invoke("kda", ROOT / "results" / "kda-landmarks", "--out", tmp_path / "none", "--only", "4")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cck"], "`figures`: `paper` must be one of 'cckd', 'intra-class', "),
        (["kda", "--only", "12"], "`figures`: `only` must be one of '2', '3', "),
        (["kda", "nowhere"], "There is no folder 'nowhere': give the folders of runs or plans.\n"),
        (["kd2m", "--only", "3", "--seed", "-1"], "`figures`: `seed` must be an integer >= 0, got -1.\n"),
    ],
)
def test_bad_input_is_one_line(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*words)
    assert (result.exit_code, result.stderr[: len(sentence)], result.stderr.count("\n")) == (2, sentence, 1)


def test_without_matplotlib_it_is_said_first(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    result = invoke("kda", ROOT / "results" / "kda-layers")
    assert result.exit_code == 2
    assert "pip install 'congruence[plots]'" in result.stderr

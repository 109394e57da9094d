"""Figures of runs and of points: their data against slow definitions, and the files that come of them."""

import json
import math
import shutil

import pytest
import torch
from _harness.configs import quick
from _harness.shown import HOSTILE, NAMES, models
from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.core.rng import keyed_generator
from congruence.data.datasets.toys import toy
from congruence.evaluation.embed import Embedded
from congruence.evaluation.toys import Transfer
from congruence.metrics import intra_inter_bounds
from congruence.report.figures import (
    of_cckd,
    of_intra_class,
    of_kd2m,
    of_kda,
    of_perception_coherence,
    of_toys,
    write_figures,
)
from congruence.report.figures.given import Given, LackingError, Pair
from congruence.report.figures.panels import look, save
from congruence.report.rebuilt import read

pytest.importorskip("matplotlib")
TERMS = "[{key='ce'}, {key='kd'}, {key='cckd', weight=0.0}, {key='class_wasserstein', weight=0.25}]"
MEASURES = '["kernel_transfer_error", "landmark_transfer_error", "smallest_landmark_eigenvalue"]'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps that has what every figure of runs needs."""
    out = tmp_path_factory.mktemp("drawn") / "run"
    sets = ["data.train_size=200", "data.validation=40", "data.test=60", *quick(["teacher", "student"])]
    sets += ['stages.teacher.student={model="resnet8"}', "stages.teacher.terms.1.weight=0.03"]
    sets += [f"stages.student.terms={TERMS}", f"diagnostics.measures={MEASURES}"]
    words = [word for value in sets for word in ("--set", value)]
    result = CliRunner().invoke(app, ["distill", "digits/intra_class", "--out", str(out), "--no-report", *words])
    assert result.exit_code == 0, result.stderr
    return out


@pytest.mark.parametrize(
    ("paper", "keys"),
    [
        ("cckd", ["3", "4"]),
        ("intra-class", ["lambda"]),
        ("kda", ["3", "4", "5"]),
        ("kd2m", ["2", "3"]),
        ("perception-coherence", ["6"]),
    ],
)
def test_a_run_gives_the_figures_that_need_models_and_curves(run, tmp_path, paper, keys):
    outcomes = list(write_figures(paper, [run], tmp_path))
    assert [each.key for each in outcomes if each.files] == keys
    assert all(path.stat().st_size > 5000 for each in outcomes for path in each.files)


def test_the_same_run_gives_the_same_bits(run, tmp_path):
    for name in ("one", "two"):
        list(write_figures("perception-coherence", [run], tmp_path / name, only=["6"]))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_curves_are_those_of_the_log(run):
    given = Given([run])
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses, accuracy = of_cckd.courses(given)
    logged = [line["cckd"] for line in log if "cckd" in line]
    assert losses["cckd"] == {"run": [(1, pytest.approx(sum(logged) / len(logged)))]}
    seen = [line["validation"]["accuracy"] for line in log if "validation" in line]
    assert accuracy == {"run": [(1, pytest.approx(100 * seen[-1]))]}
    classes, distances, percent = of_kd2m.courses(given)
    assert list(classes) == list(distances) == list(percent) == ["run, λ = 0.25"]
    (diagnosed,) = [line["diagnostics"] for line in log if "diagnostics" in line]
    assert of_kda.estimates(given)["run"]["estimate"] == [(1, diagnosed["landmark_transfer_error"])]
    assert of_kda.eigenvalues(given)["run"]["W_T"] == [(1, diagnosed["teacher_smallest_landmark_eigenvalue"])]


def test_lambda_is_the_configurations_and_the_network_is_the_teacher(run):
    given = Given([run])
    (found,) = of_intra_class.contrasts(given)
    (pair,) = given.pairs
    assert (found.name, found.weight) == ("run", 0.03)
    unit = torch.nn.functional.normalize(pair.teacher.features.double(), dim=1)
    labels, ratios = pair.student.labels.tolist(), []
    for i, mine in enumerate(labels):
        same = [math.exp(float(unit[i] @ unit[j])) for j, other in enumerate(labels) if other == mine and j != i]
        rest = [math.exp(float(unit[i] @ unit[j])) for j, other in enumerate(labels) if other != mine]
        if same:
            ratios.append(sum(same) / len(same) / (sum(rest) / len(rest)))
    assert found.ratio.similarities == pytest.approx(sum(ratios) / len(ratios))
    sizes = [labels.count(each) for each in labels]
    assert found.intra_negatives == round(sum(sizes) / len(sizes) - 1)
    assert found.inter_negatives == round(60 - sum(sizes) / len(sizes))


def test_a_plans_cells_are_runs_and_its_rows_say_lambda(run, tmp_path):
    row = {"method": "intra_class", "variant": "lambda_0_3", "seed": 1, "accuracy_best": 0.5, "parameters": 1}
    numbers = {"accuracy_last": 0.5, "retrieval_map": 0.5, "gpcl": 0.7, "seconds": 1.0, "factor": 1.0}
    (tmp_path / "results.jsonl").write_text(json.dumps(row | numbers) + "\n")
    shutil.copytree(run, tmp_path / "cells" / "intra_class-lambda_0_3-seed1")
    given = Given([tmp_path])
    assert list(given.runs) == ["intra_class, lambda_0_3"]
    assert [each.weight for each in of_intra_class.contrasts(given)] == [0.3]


def test_every_run_is_a_point_of_lambda_and_four_are_drawn(run):
    given = Given([run])
    given.runs = {f"lambda_0_{number}": run for number in range(1, 6)}
    assert [each.weight for each in of_intra_class.contrasts(given)] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [pair.name for pair in given.pairs] == [f"lambda_0_{number}" for number in range(1, 5)]


def test_what_cannot_be_rebuilt_is_told_and_the_rest_is_drawn(run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / "student.safetensors").unlink()
    outcomes = {each.key: each for each in write_figures("cckd", [bare], tmp_path / "out")}
    assert outcomes["3"].files
    assert outcomes["4"].why.startswith("The run 'bare' cannot be drawn: ")
    assert [pair.name for pair in Given([bare, run]).pairs] == ["run"]
    (bare / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    outcomes = {each.key: each for each in write_figures("cckd", [bare, run], tmp_path / "out")}
    assert "metrics.jsonl" in outcomes["3"].why
    assert outcomes["4"].files


def pair(count=24, width=6, seed=0, name="net"):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(count, width, generator=generator) for _ in range(2)]
    labels = torch.arange(count) % 4
    return Pair(name, *(Embedded(each, None, labels) for each in rows), classes=NAMES)


def test_cosines_are_those_of_the_rows():
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    found = of_cckd.cosines(features, [0, 4], [1, 2, 5])
    for row, i in enumerate((0, 4)):
        for column, j in enumerate((1, 2, 5)):
            a, b = features[i].double(), features[j].double()
            assert float(found[row, column]) == pytest.approx(float(a @ b / (a.norm() * b.norm())))


def test_classes_are_the_largest_and_samples_theirs():
    labels = torch.tensor([5, 5, 0, 1, 1, 2, 2, 3, 3, 3, -1, -1])
    rows = Embedded(torch.zeros(12, 2), None, labels)
    assert of_cckd.shown_classes(Pair("net", rows, rows, ())) == {1: [3, 4], 2: [5, 6], 3: [7, 8, 9], 5: [0, 1]}
    none = rows._replace(labels=torch.full((12,), -1))
    with pytest.raises(LackingError, match="have no labels"):
        of_cckd.shown_classes(Pair("net", none, none, ()))


def test_both_sides_lie_in_one_plane():
    given = pair()
    student, teacher = of_kd2m.together(given, "pca")
    both = torch.cat([given.student.features, given.teacher.features]).double()
    centred = both - both.mean(0)
    axes = torch.linalg.svd(centred).Vh[:2]
    assert torch.allclose(torch.cat([student, teacher]).abs(), (centred @ axes.T).abs(), atol=1e-6)
    few = Embedded(torch.zeros(2, 3), None, None)
    with pytest.raises(LackingError, match="too few samples"):
        of_kd2m.together(Pair("net", few, few, ()), "tsne")


def test_estimates_are_means_over_batches_of_each_size():
    given = pair(count=20)
    found = of_perception_coherence.estimates(given, seed=3)
    assert found.sizes == (4, 8, 16)
    student, teacher = given.student.features.double(), given.teacher.features.double()

    def coherence(rows):
        gaps, size = 0, len(rows)
        ranks = []
        for side in (student, teacher):
            unit = torch.nn.functional.normalize(side[rows], dim=1)
            distance = ((1 - unit @ unit.T) / 2).tolist()
            ranks.append([[sum(k <= j + 1e-9 for k in line) for j in line] for line in distance])
        gaps = sum(abs(a - b) for one, other in zip(*ranks, strict=True) for a, b in zip(one, other, strict=True))
        return 1 - gaps / size**3

    assert found.whole == pytest.approx(coherence(list(range(20))))
    generator = keyed_generator(3, 4)
    drawn = [coherence(torch.randperm(20, generator=generator)[:4].tolist()) for _ in range(100)]
    assert found.means[0] == pytest.approx(sum(drawn) / 100, abs=0.02)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_the_free_optimum_is_one_and_within_the_bounds(weight):
    ratio, objective = of_intra_class.free_optimum(weight)
    assert objective == pytest.approx(of_intra_class.free_optimum(weight, seed=1)[1], rel=1e-3)
    assert objective == pytest.approx(ratio.inter_loss + weight * ratio.intra_loss, rel=1e-9)
    bounds = intra_inter_bounds(weight=weight, inter_negatives=15, intra_negatives=4)
    assert bounds.lower <= ratio.loss_ratio <= bounds.upper


def test_states_are_the_start_the_end_and_three_between():
    frames = tuple((epoch, torch.zeros(1, 2)) for epoch in range(10))
    found = of_toys.states(Transfer(toy("clusters"), 64, frames, 0.0, 1.0))
    assert [epoch for epoch, _ in found] == [0, 2, 4, 7, 9]


def test_points_that_fly_far_are_left_out():
    points = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    points[0] = torch.tensor([1e6, 0.0])
    moved = of_toys.boxed(points)
    assert moved[0].isnan().all()
    assert moved.isnan().any(1).sum() < 40
    assert float(moved.nan_to_num().abs().max()) <= 1.2
    scales = (moved[1:] - moved[1:].nanmean(0)).nan_to_num() / (points[1:] - points[1:].mean(0))
    assert torch.equal(of_toys.boxed(torch.zeros(3, 2)), torch.zeros(3, 2))
    assert scales.median() > 0


@pytest.mark.parametrize("key", ["4", "5", "7", "8", "more-clusters"])
def test_toys_are_drawn_from_nothing(key, tmp_path, monkeypatch):
    def few(name, *, seed):
        whole = toy(name, seed=seed)
        return whole._replace(points=whole.points[:30], labels=whole.labels[:30])

    monkeypatch.setattr(of_toys, "toy", few)
    (outcome,) = write_figures("perception-coherence", out=tmp_path, only=[key], epochs=1)
    assert [path.name for path in outcome.files] == [f"perception-coherence-{key}.{kind}" for kind in ("png", "svg")]


def test_hostile_names_do_nothing(tmp_path):
    made = models(students=(HOSTILE, "$\\frac{$", "\x1b[2J\n名"))
    seen = read(made)
    given = Given()
    given.runs = {each: tmp_path for each in seen.students}
    given._pairs = {each: [Pair(each, rows, seen.teacher, seen.classes)] for each, rows in seen.students.items()}
    for draw in (of_cckd.heat, of_perception_coherence.batches):
        with look():
            paths = save(draw(given), tmp_path, draw.__name__, f"told of {HOSTILE}")
        text = paths[1].read_text(encoding="utf8")
        assert "<script" not in text
        assert "<img" not in text
        assert "\x1b" not in text

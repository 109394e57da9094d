import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded, tight_clusters
from _harness.memory import largest_tensor

from congruence.losses import (
    gaussian_kl_loss,
    gaussian_wasserstein_loss,
    mmd_loss,
    wasserstein_loss,
)
from congruence.metrics import (
    discrepancy,
    estimate_wasserstein_discrepancy,
    gaussian_kl_discrepancy,
    gaussian_wasserstein_discrepancy,
    mmd_discrepancy,
    sliced_wasserstein_discrepancy,
    wasserstein_discrepancy,
)

KERNELS = ["rbf", "polynomial", "linear"]


def features(rows=30, other=None, width=5, dtype=torch.float64):
    generator = seeded()
    student = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    teacher = 0.5 + 2 * torch.randn(other or rows, width, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


def test_equal_the_goldens():
    stored = golden.arrays("ot_24x8")
    data = stored["in_x"], stored["in_y"]  # float32: the golden is of their float64 copies
    assert data[0].dtype == torch.float32
    assert wasserstein_discrepancy(*data) == pytest.approx(stored["W2sq_empirical"].item(), rel=1e-12)
    in_blocks = gaussian_wasserstein_discrepancy(*data)
    assert in_blocks == pytest.approx(stored["bures_W2sq_biased_1_over_n"].item(), rel=1e-12)
    in_blocks = gaussian_wasserstein_discrepancy(*data, covariance="diagonal")
    assert in_blocks == pytest.approx(stored["gauss_diag_W2sq_biased"].item(), rel=1e-12)
    for gamma in (0.05, 0.5):
        for biased in (True, False):
            key = f"mmd2_rbf_gamma{gamma}_{'biased' if biased else 'unbiased'}"
            in_blocks = mmd_discrepancy(*data, gamma=gamma, biased=biased)
            assert in_blocks == pytest.approx(stored[key].item(), rel=1e-10)
    assert mmd_discrepancy(*data, kernel="linear") == pytest.approx(stored["mmd2_linear"].item(), rel=1e-12)
    assert mmd_discrepancy(*data, kernel="polynomial") == pytest.approx(stored["mmd2_poly2_biased"].item(), rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 100])
def test_mmd_is_its_loss_in_blocks(kernel, biased, chunk_size):
    data = features(30, 17)
    settings = {"kernel": kernel, "gamma": 0.3, "biased": biased}
    in_blocks = mmd_discrepancy(*data, **settings, chunk_size=chunk_size)
    assert isinstance(in_blocks, float)
    assert in_blocks == pytest.approx(mmd_loss(*data, **settings).item(), rel=1e-12)


def test_mmd_by_default_is_its_loss_by_default():
    data = features()
    assert mmd_discrepancy(*data) == pytest.approx(mmd_loss(*data).item(), rel=1e-12)


def test_mmd_keeps_its_digits_on_tight_clusters():
    data = tight_clusters(32, 8, 8)
    in_blocks = mmd_discrepancy(*data, gamma=1e3)
    assert in_blocks == pytest.approx(mmd_loss(*data, gamma=1e3).item(), rel=1e-8)
    assert mmd_discrepancy(data[0], data[0], gamma=1e3) == 0.0


def test_mmd_of_a_single_sample_without_itself_is_zero():
    assert mmd_discrepancy(torch.zeros(1, 2), torch.ones(4, 2), biased=False) == 0.0


def test_the_others_are_their_losses_in_float64():
    data = features(40, 25, dtype=torch.float32)
    wide = [x.double() for x in data]
    assert wasserstein_discrepancy(*data) == wasserstein_loss(*wide).item()
    for covariance in ("full", "diagonal"):
        in_blocks = gaussian_wasserstein_discrepancy(*data, covariance=covariance)
        assert in_blocks == gaussian_wasserstein_loss(*wide, covariance=covariance).item()
        for direction in ("student_teacher", "teacher_student"):
            settings = {"covariance": covariance, "direction": direction, "shrinkage": 0.02}
            assert gaussian_kl_discrepancy(*data, **settings) == gaussian_kl_loss(*wide, **settings).item()
    assert gaussian_wasserstein_discrepancy(*data) == gaussian_wasserstein_loss(*wide).item()
    assert gaussian_kl_discrepancy(*data) == gaussian_kl_loss(*wide).item()


def test_a_copy_is_at_zero():
    _, teacher = features(60, dtype=torch.float32)
    assert wasserstein_discrepancy(teacher, teacher.flip(0)) == 0.0
    assert gaussian_wasserstein_discrepancy(teacher, teacher) == 0.0
    assert gaussian_kl_discrepancy(teacher, teacher) == 0.0
    for kernel in KERNELS:
        assert mmd_discrepancy(teacher, teacher, kernel=kernel) == 0.0


def test_wasserstein_estimate_is_the_mean_and_spread_of_the_drawn_subsets():
    student, teacher = features()
    draws = seeded(5)
    values = []
    for _ in range(6):
        rows = torch.randperm(30, generator=draws)[:8]
        values.append(wasserstein_loss(student[rows], teacher[rows]).item())
    mean = sum(values) / 6
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 5)
    in_blocks = estimate_wasserstein_discrepancy(student, teacher, sample_size=8, repeats=6, generator=seeded(5))
    assert in_blocks == (pytest.approx(mean, rel=1e-13), pytest.approx(spread, rel=1e-12))


def test_wasserstein_estimate_is_biased_upwards_and_exact_on_all():
    student, teacher = features(120)
    exact = wasserstein_discrepancy(student, teacher)
    estimates = [
        estimate_wasserstein_discrepancy(student, teacher, sample_size=size, repeats=40, generator=seeded())[0]
        for size in (5, 20, 60)
    ]
    assert estimates[0] > estimates[1] > estimates[2] > exact
    whole = estimate_wasserstein_discrepancy(student, teacher, sample_size=120, repeats=2, generator=seeded())
    assert whole == (pytest.approx(exact, rel=1e-13), pytest.approx(0, abs=1e-12))
    copy = estimate_wasserstein_discrepancy(teacher, teacher, sample_size=9, repeats=3, generator=seeded())
    assert copy == (0.0, 0.0)


def test_memory_is_linear(monkeypatch):
    monkeypatch.setattr(discrepancy, "_CHUNK_ENTRIES", 2000)
    data = features(1000)
    for kernel in KERNELS:
        assert largest_tensor(lambda kernel=kernel: mmd_discrepancy(*data, kernel=kernel)) <= 5 * 1000
    for covariance in ("full", "diagonal"):
        assert largest_tensor(lambda c=covariance: gaussian_wasserstein_discrepancy(*data, covariance=c)) <= 5 * 1000
        assert largest_tensor(lambda c=covariance: gaussian_kl_discrepancy(*data, covariance=c)) <= 5 * 1000
    draws = {"sample_size": 20, "repeats": 2, "generator": seeded()}
    assert largest_tensor(lambda: estimate_wasserstein_discrepancy(*data, **draws)) <= 5 * 1000


@pytest.mark.parametrize(
    "function",
    [wasserstein_discrepancy, gaussian_wasserstein_discrepancy, gaussian_kl_discrepancy, mmd_discrepancy],
)
def test_errors_of_shapes_name_the_metric(function):
    with pytest.raises(ValueError) as error:
        function(torch.zeros(3, 2), torch.zeros(3, 4))
    assert str(error.value).startswith(f"`{function.__name__}`: `student` and `teacher` must have the same width, got")


@pytest.mark.parametrize(
    ("function", "change", "sentence"),
    [
        (mmd_discrepancy, {"chunk_size": 0}, "`chunk_size` must be an integer >= 1 or None, got 0."),
        (mmd_discrepancy, {"kernel": "cosine"}, "`kernel` must be one of 'rbf', 'polynomial', 'linear', got 'cosine'."),
        (mmd_discrepancy, {"gamma": 0}, "`gamma` must be a number > 0, got 0."),
        (
            estimate_wasserstein_discrepancy,
            {"sample_size": 31, "repeats": 1, "generator": seeded()},
            "`sample_size` must be an integer >= 1 and <= 30, got 31.",
        ),
        (
            estimate_wasserstein_discrepancy,
            {"sample_size": 3, "repeats": 0, "generator": seeded()},
            "`repeats` must be an integer >= 1, got 0.",
        ),
        (
            estimate_wasserstein_discrepancy,
            {"sample_size": 3, "repeats": 1, "generator": 0},
            "`generator` must be a torch.Generator, got int.",
        ),
    ],
)
def test_errors(function, change, sentence):
    with pytest.raises(ValueError) as error:
        function(*features(), **change)
    assert str(error.value) == f"`{function.__name__}`: {sentence}"


def test_sliced_wasserstein_is_its_definition():
    student, teacher = features(40, width=3)
    lines = torch.linalg.qr(torch.randn(3, 2, generator=seeded(5), dtype=torch.float64)).Q.T
    by_hand = 0.0
    for line in lines:
        ours, theirs = (sorted((side @ line).tolist()) for side in (student, teacher))
        by_hand += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(ours)
    found = sliced_wasserstein_discrepancy(student, teacher, directions=2, repeats=1, generator=seeded(5))
    assert found == (pytest.approx(by_hand * 3 / 2, rel=1e-12), 0.0)


@pytest.mark.parametrize("directions", [2, 64])
def test_sliced_wasserstein_is_below_the_exact_one_and_meets_it_where_one_side_is_moved_or_scaled(directions):
    student, teacher = features(60)
    options = {"directions": directions, "repeats": 200 if directions == 2 else 4}
    exact = wasserstein_discrepancy(student, teacher)
    mean, spread = sliced_wasserstein_discrepancy(student, teacher, **options, generator=seeded())
    assert 0 < mean + 2 * spread / math.sqrt(options["repeats"]) < exact
    for moved in (student + torch.arange(5.0), 3 * student):
        mean, spread = sliced_wasserstein_discrepancy(student, moved, **options, generator=seeded())
        error = 4 * spread / math.sqrt(options["repeats"])
        assert mean == pytest.approx(wasserstein_discrepancy(student, moved), abs=error + 1e-9)
        assert (directions == 2) == (spread > 1e-9)


def test_sliced_wasserstein_of_few_and_of_many_lines_agree():
    student, teacher = features(200, width=40)
    few, many = (
        sliced_wasserstein_discrepancy(student, teacher, directions=g, repeats=r, generator=seeded(g))
        for g, r in ((8, 30), (40, 100))
    )
    assert abs(few[0] - many[0]) < 4 * few[1] / math.sqrt(30)
    assert sliced_wasserstein_discrepancy(student, student.roll(3, 0), generator=seeded())[0] == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"directions": 0}, "`sliced_wasserstein_discrepancy`: `directions` must be"),
        ({"repeats": 0}, "`sliced_wasserstein_discrepancy`: `repeats` must be"),
    ],
)
def test_sliced_wasserstein_refuses(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        sliced_wasserstein_discrepancy(*features(), **change, generator=seeded())
    with pytest.raises(ValueError, match="rows"):
        sliced_wasserstein_discrepancy(*features(30, 17), generator=seeded())

import pytest
import torch
from _harness import golden

from congruence.core.numerics import unit
from congruence.methods import LandmarkBank
from congruence.methods.landmarks import ROWS_PER_CLUSTER


def rows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, width, generator=generator) for width in (3, 5))


def epoch(bank, student, teacher, groups, batch=7):
    for part in zip(student.split(batch), teacher.split(batch), groups.split(batch), strict=True):
        bank.update(*part)
    bank.end_epoch()


def means(values, groups, count):
    return torch.stack([values[groups == group].mean(0) for group in range(count)])


@pytest.mark.parametrize("name", ["raw", "l2norm"])
def test_centres_are_those_of_the_goldens(name):
    stored = golden.arrays(f"kda_{name}_A")
    bank = LandmarkBank(16, 32, 10, normalize=name == "l2norm").double()
    epoch(bank, stored["in_train_s"].double(), stored["in_train_t"].double(), stored["in_train_y"])
    torch.testing.assert_close(bank.student, stored["out_landmarks_s"], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(bank.teacher, stored["out_landmarks_t"], rtol=1e-12, atol=1e-14)


def test_nothing_changes_before_the_end_of_an_epoch():
    student, teacher = rows(20)
    groups = torch.arange(20) % 4
    bank = LandmarkBank(3, 5, 4)
    epoch(bank, student, teacher, groups)
    before = bank.student.clone()
    bank.update(2 * student, teacher, groups)
    assert torch.equal(bank.student, before)
    bank.end_epoch()
    torch.testing.assert_close(bank.student, 2 * before)


def test_each_epoch_starts_from_nothing():
    bank = LandmarkBank(3, 5, 4)
    for seed in (0, 1):
        student, teacher = rows(20, seed)
        groups = torch.arange(20) % 4
        epoch(bank, student, teacher, groups)
        torch.testing.assert_close(bank.student, means(student, groups, 4))
        torch.testing.assert_close(bank.teacher, means(teacher, groups, 4))


def test_a_group_that_was_not_seen_keeps_its_old_place():
    student, teacher = rows(20)
    groups = torch.arange(20) % 4
    bank = LandmarkBank(3, 5, 5)
    epoch(bank, student, teacher, groups)
    old = bank.student[3].clone()
    epoch(bank, student[:3], teacher[:3], groups[:3])
    assert torch.equal(bank.student[3], old)
    assert torch.equal(bank.student[:3], student[:3])
    assert bank.filled.tolist() == [True, True, True, True, False]
    assert not bank.student[4].any()
    assert bank.share().item() == pytest.approx(0.8)


def test_rows_without_a_group_are_left_out():
    student, teacher = rows(20)
    groups = torch.arange(20) % 4
    some = groups.clone()
    some[::3] = -1
    bank, plain = LandmarkBank(3, 5, 4), LandmarkBank(3, 5, 4)
    epoch(bank, student, teacher, some)
    epoch(plain, student[some >= 0], teacher[some >= 0], some[some >= 0])
    torch.testing.assert_close(bank.student, plain.student)
    torch.testing.assert_close(bank.teacher, plain.teacher)


def test_normalised_rows_are_averaged_and_the_mean_is_not_normalised():
    student, teacher = rows(20)
    groups = torch.arange(20) % 4
    bank = LandmarkBank(3, 5, 4, normalize=True)
    epoch(bank, student, teacher, groups)
    torch.testing.assert_close(bank.student, means(unit(student), groups, 4))
    assert bank.student.norm(dim=1).max() < 0.99


@pytest.mark.parametrize("weighting", ["teacher", "own"])
def test_weighted_landmarks_are_the_nystroem_ones(weighting):
    student, teacher = rows(20)
    bank = LandmarkBank(3, 5, 3, weighting=weighting).double()
    epoch(bank, student.double(), teacher.double(), torch.arange(20) % 3)
    ours, theirs = bank.landmarks()
    points = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    kernel = bank.teacher @ bank.teacher.T
    partial = points @ bank.teacher.T
    # (C W^{+1/2}) (C W^{+1/2})ᵀ is Nyström's approximation C W⁺ Cᵀ.
    torch.testing.assert_close(
        (points @ theirs.T) @ (theirs @ points.T), partial @ torch.linalg.pinv(kernel) @ partial.T
    )
    root = theirs @ torch.linalg.pinv(bank.teacher)
    torch.testing.assert_close(root, root.T)
    if weighting == "teacher":
        torch.testing.assert_close(ours, root @ bank.student)
    else:
        own = bank.student @ bank.student.T
        torch.testing.assert_close(ours.T @ ours, bank.student.T @ torch.linalg.pinv(own) @ bank.student)


def test_weights_of_dependent_and_absent_landmarks_are_finite():
    student, teacher = rows(6)
    bank = LandmarkBank(3, 5, 9, weighting="own")
    bank.end_epoch()
    assert not bank.landmarks()[0].any()
    epoch(bank, student.repeat(2, 1), teacher.repeat(2, 1), torch.arange(12) % 8)
    ours, theirs = bank.landmarks()
    assert torch.isfinite(ours).all()
    assert torch.isfinite(theirs).all()
    assert theirs.norm(dim=1).max() < 1.01  # rows of W^{+1/2} D: an isometry's


def blobs(seed=0, count=60):
    """Two groups of two tight blobs each in the teacher's space; returns rows, groups and the blob of each row."""
    student, teacher = rows(count, seed)
    blob = torch.arange(count) % 4
    corners = torch.tensor([[0.0, 0, 0, 0, 0], [50, 0, 0, 0, 0], [0, 50, 0, 0, 0], [50, 50, 0, 0, 0]])
    return student + blob[:, None], teacher + corners[blob], blob // 2, blob


def test_several_landmarks_a_group_are_its_clusters():
    bank = LandmarkBank(3, 5, 2, per_group=2)
    for seed in (0, 1):  # K-means, then Lloyd's step
        student, teacher, groups, blob = blobs(seed)
        epoch(bank, student, teacher, groups)
        wanted = means(torch.cat([teacher, student], 1), blob, 4)
        order = torch.cdist(wanted[:, :5], bank.teacher).argmin(1)
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        assert (order // 2).tolist() == [0, 0, 1, 1]
        torch.testing.assert_close(bank.teacher[order], wanted[:, :5])
        torch.testing.assert_close(bank.student[order], wanted[:, 5:])


def test_a_group_may_come_later_or_be_too_small():
    student, teacher, groups, _ = blobs()
    bank = LandmarkBank(3, 5, 2, per_group=2)
    first = groups == 0
    epoch(bank, student[first], teacher[first], groups[first])
    assert bank.filled.tolist() == [True, True, False, False]
    second = torch.cat([first.nonzero()[:, 0], (~first).nonzero()[:1, 0]])
    epoch(bank, student[second], teacher[second], groups[second])
    assert bank.filled.tolist() == [True, True, True, False]
    assert torch.equal(bank.teacher[2], teacher[~first][0])
    assert not bank.pool.any()


def test_the_pool_takes_the_first_rows_of_each_group():
    capacity = 2 * ROWS_PER_CLUSTER
    student, teacher = rows(3 * capacity)
    groups = (torch.arange(3 * capacity) % 3) - 1
    bank = LandmarkBank(3, 5, 2, per_group=2)
    for part in zip(student.split(50), teacher.split(50), groups.split(50), strict=True):
        bank.update(*part)
    for group in (0, 1):
        mine = torch.cat([student, teacher], 1)[groups == group][:capacity]
        assert torch.equal(bank.pool.view(2, capacity, 8)[group], mine)
    bank.update(student[:9], teacher[:9], groups[:9])  # full: nothing more goes in
    assert bank.pooled.tolist() == [capacity, capacity]


def test_sums_stay_in_float32_at_least():
    student, teacher = (torch.ones(1000, width, dtype=torch.bfloat16) for width in (3, 5))
    bank = LandmarkBank(3, 5, 1).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        epoch(bank, student + 0.01, teacher, torch.zeros(1000, dtype=torch.int64), batch=1)
    assert bank.student.dtype == torch.float32
    assert torch.equal(bank.student, (student[:1] + 0.01).float())


def test_the_order_of_a_batch_does_not_matter():
    student, teacher = (part.double() for part in rows(20))
    groups = torch.arange(20) % 4
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    first, second = LandmarkBank(3, 5, 4).double(), LandmarkBank(3, 5, 4).double()
    epoch(first, student, teacher, groups, batch=20)
    epoch(second, student[order], teacher[order], groups[order], batch=20)
    torch.testing.assert_close(first.student, second.student, rtol=1e-14, atol=1e-14)

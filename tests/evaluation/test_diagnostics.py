"""The table of diagnostics: each number is that of the metric it stands for, and what cannot be had is said."""

import math

import pytest
import torch

from congruence import metrics
from congruence.evaluation import DIAGNOSTICS, Embeddings, diagnose
from congruence.evaluation.numbers import ROWS

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.tensor([0, 2, 2, 5, 0, 5, 2, -1, 0, 5, -1, 2])


def rows(width):
    return torch.randn(len(LABELS), width, generator=GENERATOR)


HEAD = torch.randn(7, 6, generator=GENERATOR), torch.randn(7, generator=GENERATOR)
WHOLE = Embeddings(rows(4), rows(6), rows(7), rows(7), LABELS, HEAD)
ALONE = Embeddings(WHOLE.student_features, student_logits=WHOLE.student_logits, labels=LABELS)
NOTHING = {"kernel_transfer_error", "landmark_transfer_error", "kernel_transfer_bound_b", "gram_alignment"}
NOTHING |= {"effective_kernel_alignment", "risk_gap", "risk_gap_bound", "feature_distance"}
NOTHING |= {"wasserstein_discrepancy", "rkd_distance_discrepancy"}
NOTHING |= {"perception_stability_probability", "perception_stability_bound"}
NOTHING |= {f"{kind}_preservation_{what}" for kind in ("rank", "order") for what in ("probability", "bound")}
NUMBERS = {name: diagnose(WHOLE, name) for name, row in DIAGNOSTICS.items() if not WHOLE.missing(row.needs)}


def centres(side):
    return torch.stack([side[label == LABELS].double().mean(0) for label in (0, 2, 5)])


def test_numbers_have_names_of_their_own():
    names = [key for numbers in NUMBERS.values() for key in numbers]
    assert len(set(names)) == len(names) >= len(NUMBERS)
    assert all(isinstance(value, float) and math.isfinite(value) for n in NUMBERS.values() for value in n.values())


def test_all_is_every_one_that_can_be_had():
    assert diagnose(WHOLE) == {key: value for numbers in NUMBERS.values() for key, value in numbers.items()}
    free = [name for name in DIAGNOSTICS if "teacher" not in DIAGNOSTICS[name].needs]
    expected = {key for name in free for key in diagnose(ALONE, name)}
    assert set(diagnose(ALONE)) == expected > {"accuracy", "intra_class_similarity", "soft_label_entropy"}
    assert not any(key.startswith("teacher") for key in expected)


def test_the_landmarks_are_the_centres_of_the_labelled_rows():
    student, teacher = WHOLE.student_features, WHOLE.teacher_features
    ours, theirs = student.double() @ centres(student).T, teacher.double() @ centres(teacher).T
    expected = (ours - theirs).norm() / (teacher.double() @ teacher.double().T).norm()
    assert NUMBERS["landmark_transfer_error"]["landmark_transfer_error"] == pytest.approx(float(expected), rel=1e-12)
    eigenvalues = [float(torch.linalg.eigvalsh(centres(side) @ centres(side).T)[0]) for side in (student, teacher)]
    assert list(NUMBERS["smallest_landmark_eigenvalue"].values()) == pytest.approx(eigenvalues, rel=1e-9)
    missed = [metrics.nystrom_error(side[LABELS >= 0], centres(side)) for side in (student, teacher)]
    assert list(NUMBERS["nystrom_error"].values()) == pytest.approx(missed, rel=1e-9)
    known, place = LABELS >= 0, torch.searchsorted(torch.tensor([0, 2, 5]), LABELS)[LABELS >= 0]
    bound = metrics.kernel_transfer_bound(student[known], teacher[known], centres(student), centres(teacher), place)
    assert list(NUMBERS["kernel_transfer_bound"].values()) == pytest.approx(bound, rel=1e-9)


def test_numbers_of_the_metrics_themselves():
    student, teacher, known = WHOLE.student_features, WHOLE.teacher_features, LABELS >= 0
    assert NUMBERS["gpcl"] == {"gpcl": metrics.global_perception_coherence(student, teacher)}
    assert NUMBERS["kernel_transfer_error"]["kernel_transfer_error"] == metrics.kernel_transfer_error(student, teacher)
    hits = WHOLE.student_logits[known].argmax(1) == LABELS[known]
    assert NUMBERS["accuracy"]["accuracy"] == pytest.approx(hits.double().mean().item())
    same = WHOLE.student_logits.argmax(1) == WHOLE.teacher_logits.argmax(1)
    assert NUMBERS["agreement"]["agreement"] == pytest.approx(same.double().mean().item())
    similarity = NUMBERS["class_similarity"]
    assert similarity["inter_class_similarity"] == metrics.inter_class_similarity(student, LABELS)
    assert similarity["teacher_intra_class_similarity"] == metrics.intra_class_similarity(teacher, LABELS)
    entropy = NUMBERS["soft_label_entropy"]
    assert entropy["teacher_soft_label_entropy"] == metrics.soft_label_entropy(WHOLE.teacher_logits)
    # Twelve rows are fewer than a batch: each draw is all of them, and the estimate the number itself.
    assert NUMBERS["gpcl_estimate"] == {
        "gpcl_estimate": pytest.approx(NUMBERS["gpcl"]["gpcl"], rel=1e-12),
        "gpcl_estimate_sd": pytest.approx(0, abs=1e-12),
    }


def test_risks_are_those_of_the_teacher_s_own_head_on_features_of_its_width():
    rows, (weight, bias) = LABELS >= 0, HEAD
    student, teacher = WHOLE.student_features[rows].double(), WHOLE.teacher_features[rows].double()
    mapped = of_the_teachers_width(student, teacher)
    found = metrics.risk_gap(mapped, teacher, LABELS[rows], weight, bias)
    expected = [found.student_risk, found.teacher_risk, found.gap, found.bound, found.distance]
    assert list(NUMBERS["risk_gap"].values()) == pytest.approx(expected, rel=1e-9)
    # Of one width, the student's features are taken as they are.
    same = metrics.risk_gap(2 * teacher, teacher, LABELS[rows], weight, bias)
    double = Embeddings(2 * WHOLE.teacher_features, WHOLE.teacher_features, labels=LABELS, teacher_head=HEAD)
    assert diagnose(double, "risk_gap")["risk_gap"] == pytest.approx(same.gap, rel=1e-9)
    assert same.gap > 0.01


def of_the_teachers_width(student, teacher):
    """Row by row: the least-norm least-squares map of the rows of the other parity."""
    rows = []
    for place, row in enumerate(student):
        others = torch.arange(len(student)) % 2 != place % 2
        rows.append(row @ torch.linalg.lstsq(student[others], teacher[others], driver="gelsd").solution)
    return torch.stack(rows)


def mapped_distance():
    student, teacher = WHOLE.student_features.double(), WHOLE.teacher_features.double()
    return metrics.feature_distance(of_the_teachers_width(student, teacher), teacher)


def test_a_student_wider_than_there_are_samples_is_no_perfect_one():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(20, 64, generator=generator), torch.randn(20, 5, generator=generator)
    labels, head = torch.arange(20) % 3, (torch.randn(3, 5, generator=generator), None)
    found = diagnose(Embeddings(student, teacher, labels=labels, teacher_head=head), "risk_gap")
    assert found["feature_distance"] > 0.5


def test_bounds_bound():
    numbers = {key: value for found in NUMBERS.values() for key, value in found.items()}
    assert numbers["risk_gap"] <= numbers["risk_gap_bound"]
    for kind in ("rank", "order"):
        assert numbers[f"{kind}_preservation_probability"] <= numbers[f"{kind}_preservation_bound"]
    assert 0 < numbers["wasserstein_discrepancy"] <= mapped_distance() ** 2
    assert numbers["gaussian_wasserstein_discrepancy"] <= numbers["wasserstein_discrepancy"]
    assert numbers["perception_stability_probability"] <= numbers["perception_stability_bound"]
    levels = metrics.perception_coherence(WHOLE.student_features, WHOLE.teacher_features)
    assert numbers["perception_stability_level"] == pytest.approx(float(levels.max()), rel=1e-12)
    for side in ("", "teacher_"):
        first, second = (numbers[f"{side}intra_inter_{how}"] for how in ("similarities", "losses"))
        assert first == pytest.approx(second, rel=1e-12)
    assert numbers["teacher_intra_inter_losses"] != numbers["intra_inter_losses"]


@pytest.mark.parametrize("name", sorted(row.key for row in ROWS if "diagnostics" in row.shown))
def test_a_student_equal_to_its_teacher_differs_in_nothing(name):
    side, logits = WHOLE.student_features, WHOLE.student_logits
    numbers = diagnose(Embeddings(side, side, logits, logits, LABELS, (HEAD[0][:, :4], None)), name)
    for key, value in numbers.items():
        if f"teacher_{key}" in numbers:
            assert value == numbers[f"teacher_{key}"]
    for key in NOTHING & set(numbers):
        assert numbers[key] == 0, key
    for key in {"gpcl", "gpcl_estimate", "agreement", "perception_stability_level", "neighbour_overlap"} & set(numbers):
        assert numbers[key] == 1
    assert numbers


@pytest.mark.parametrize(
    ("of", "name", "sentence"),
    [
        (ALONE, "gpcl", "'gpcl', which needs a teacher"),
        (
            Embeddings(WHOLE.student_features),
            "landmark_transfer_error",
            "'landmark_transfer_error', which needs a teacher and labelled images",
        ),
        (
            Embeddings(WHOLE.student_features, labels=torch.full((12,), -1)),
            "smallest_landmark_eigenvalue",
            "'smallest_landmark_eigenvalue', which needs labelled images",
        ),
        (
            Embeddings(rows(4), rows(4), rows(3), rows(5)),
            "agreement",
            "'agreement', which needs equal classes on both sides",
        ),
        (
            Embeddings(rows(4), student_logits=rows(5), labels=LABELS),
            "accuracy",
            "'accuracy', which needs logits of the student for every label",
        ),
        (
            Embeddings(rows(4), rows(4), labels=LABELS, teacher_head=(HEAD[0][:5, :4], None)),
            "risk_gap",
            "'risk_gap', which needs the teacher's last Linear right behind its features, for every label",
        ),
        (
            Embeddings(rows(4)[:1], rows(4)[:1]),
            "neighbour_overlap",
            "'neighbour_overlap', which needs two images",
        ),
        (
            Embeddings(WHOLE.student_features, labels=torch.arange(12)),
            "class_similarity",
            "'class_similarity', which needs two images of one class and two classes",
        ),
    ],
)
def test_what_cannot_be_had_is_said_and_left_out_of_all(of, name, sentence):
    with pytest.raises(ValueError) as caught:
        diagnose(of, [name])
    assert str(caught.value) == f"`Diagnostics`: `measures` must be diagnostics that can be had here, got {sentence}."
    assert not set(NUMBERS[name]) & set(diagnose(of))


@pytest.mark.parametrize(
    ("measures", "end"),
    [
        ("gpc", "got 'gpc'. Did you mean 'gpcl'"),
        (["gpcl", "kernel_transfer_eror"], "got 'kernel_transfer_eror'. Did you mean 'kernel_transfer_error'"),
        (["all", "gpcl"], "got 'all'."),
        ([], "got none."),
    ],
)
def test_an_unknown_name(measures, end):
    with pytest.raises(ValueError) as caught:
        diagnose(WHOLE, measures)
    assert str(caught.value).startswith('`Diagnostics`: `measures` must be "all" or names among accuracy, agreement, ')
    assert end in str(caught.value)

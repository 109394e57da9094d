"""Multi-level logits: every term against slow loops, and rows that are truly selected."""

import math

import pytest
import torch
from _harness import golden

import congruence as cg
from congruence.losses import batch_correlation_loss, class_correlation_loss, cross_entropy_loss, distillation_loss
from congruence.methods import Signals
from congruence.methods.mlld import MultiLevelLogits

VIEWS = ("weak", "strong")
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def inputs(samples=6, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, samples, classes, generator=generator, dtype=torch.float64)
    return [*logits, torch.arange(samples) % classes]


def terms(student_weak, student_strong, teacher_weak, teacher_strong, labels, **settings):
    tensors = {
        ("student", "weak", "logits"): (student_weak,),
        ("student", "strong", "logits"): (student_strong,),
        ("teacher", "weak", "logits"): (teacher_weak,),
        ("teacher", "strong", "logits"): (teacher_strong,),
    }
    return MultiLevelLogits(**settings).loss(Signals(tensors, ("student",), labels=labels))


def softened(logits, temperature=1.0):
    powers = [[math.exp(v / temperature) for v in row] for row in logits.tolist()]
    return [[v / sum(row) for v in row] for row in powers]


def dot(first, second):
    return sum(a * b for a, b in zip(first, second, strict=True))


def low_half(values):
    """The positions of the lower half; of an odd number the middle one is in it."""
    return sorted(sorted(range(len(values)), key=lambda i: values[i])[: (len(values) + 1) // 2])


def slow(student_weak, student_strong, teacher_weak, teacher_strong, labels):
    sure = softened(teacher_weak)
    samples = low_half([max(row) for row in sure])
    classes = low_half([sum(column) for column in zip(*sure, strict=True)])
    every = range(len(labels))
    sums = {"ce": 0.0, "instance": 0.0, "class": 0.0, "batch": 0.0}
    for view, student, teacher in (("w", student_weak, teacher_weak), ("s", student_strong, teacher_strong)):
        sums["ce"] -= sum(math.log(row[y]) for row, y in zip(softened(student), labels.tolist(), strict=True)) / len(
            labels
        )
        for t in TEMPERATURES:
            s_rows, t_rows = softened(student, t), softened(teacher, t)
            chosen = samples if view == "w" else every
            for b in chosen:
                divergence = sum(q * math.log(q / p) for p, q in zip(s_rows[b], t_rows[b], strict=True))
                sums["instance"] += t**2 * divergence / len(chosen)
            for b in samples:
                row = [dot(t_rows[b], t_rows[j]) - dot(s_rows[b], s_rows[j]) for j in every]
                sums["batch"] += dot(row, row) / len(samples)
            s_columns, t_columns = (list(zip(*rows, strict=True)) for rows in (s_rows, t_rows))
            chosen = classes if view == "w" else range(len(s_columns))
            for c in chosen:
                pairs = zip(s_columns, t_columns, strict=True)
                row = [dot(t_columns[c], theirs) - dot(s_columns[c], ours) for ours, theirs in pairs]
                sums["class"] += dot(row, row) / len(chosen)
    return sums


@pytest.mark.parametrize(("samples", "classes"), [(6, 5), (5, 6), (1, 3), (4, 2)])
def test_every_term_is_the_slow_one(samples, classes):
    tensors = inputs(samples, classes)
    values, expected = terms(*tensors), slow(*tensors)
    assert list(values) == list(expected)
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value, rel=1e-10, abs=1e-12), name


def test_a_sure_sample_teaches_nothing_by_its_weak_view():
    tensors = inputs()
    tensors[2][3] = torch.tensor([40.0, 0, 0, 0, 0])
    weak = tensors[0].requires_grad_()
    (gradient,) = torch.autograd.grad(terms(*tensors)["instance"], weak)
    unsure = low_half([max(row) for row in softened(tensors[2])])
    assert 3 not in unsure
    assert [b for b in range(6) if gradient[b].any()] == unsure
    strong = tensors[1].requires_grad_()
    (gradient,) = torch.autograd.grad(terms(*tensors)["instance"], strong)
    assert gradient.any(1).all()


def test_a_class_that_is_often_predicted_is_left_out_of_the_weak_view():
    tensors = inputs()
    tensors[2][:, 2] += 30  # every sample is of class 2
    student = [tensors[0], tensors[2].clone(), tensors[2], tensors[2].clone(), tensors[4]]  # the strong view is equal
    expected = terms(*student)["class"].item()
    rows = torch.zeros(5, dtype=torch.float64)
    for t in TEMPERATURES:
        ours, theirs = (side.div(t).softmax(1) for side in (student[0], student[2]))
        rows += (theirs.T @ theirs - ours.T @ ours).square().sum(1)
    rare = low_half(student[2].softmax(1).sum(0).tolist())
    assert 2 not in rare
    assert expected == pytest.approx(rows[rare].mean().item(), rel=1e-10)


def test_unlabelled_samples_count_in_all_but_the_cross_entropy():
    tensors = inputs()
    labelled = terms(*tensors)
    tensors[4][[0, 5]] = -1
    unlabelled = terms(*tensors)
    expected = sum(cross_entropy_loss(tensors[view][1:5], tensors[4][1:5]) for view in (0, 1))
    torch.testing.assert_close(unlabelled["ce"], expected)
    assert all(unlabelled[name].item() == labelled[name].item() for name in ("instance", "class", "batch"))


def test_where_the_released_code_differs():
    stored = {name: value.double() if value.is_floating_point() else value for name, value in raw().items()}
    tensors = [stored[f"in_{name}"] for name in ("s_weak", "s_strong", "t_weak", "t_strong", "y")]
    student, strong, teacher, strong_teacher, _ = tensors
    sure = teacher.softmax(1)
    share, class_share = (
        len(low_half(values.tolist())) / len(values) for values in (sure.amax(1), sure.sum(0))
    )  # a number times a loss, where rows are to be selected

    def over(loss, first, second, temperatures):
        return sum(loss(first, second, temperature=t) for t in temperatures)

    released = {
        "kd": share * over(distillation_loss, student, teacher, TEMPERATURES)
        + over(distillation_loss, strong, strong_teacher, (3.0, 4.0, 5.0))
        + over(distillation_loss, student, teacher, (2.0, 6.0)),
        "cc": class_share * over(class_correlation_loss, student, teacher, TEMPERATURES),
        "bc": share * over(batch_correlation_loss, student, teacher, TEMPERATURES),
    }
    ours = terms(*tensors)
    for name, part in (("kd", "instance"), ("cc", "class"), ("bc", "batch")):
        torch.testing.assert_close(0.9 * released[name], stored[f"out_loss_{name}"], rtol=1e-10, atol=0)
        assert abs(ours[part].item() / released[name].item() - 1) > 0.05
    torch.testing.assert_close(0.1 * ours["ce"], stored["out_loss_ce"], rtol=1e-10, atol=0)


def raw():
    return golden.arrays("mlld_full_A")


def test_the_default_weights_and_two_forwards_a_model():
    torch.manual_seed(0)
    teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    distiller = cg.Distiller(teacher, student, ["mlld"], example=torch.zeros(2, 4))
    points, labels = torch.randn(6, 4), torch.arange(6) % 3
    calls = []
    student.register_forward_hook(lambda *_: calls.append(1))
    out = distiller(points, labels, views={"weak": points, "strong": points + 0.1})
    assert len(calls) == 2  # the view "main" is not run
    assert out.weights == {"mlld.ce": 0.1, "mlld.instance": 0.9, "mlld.class": 0.9, "mlld.batch": 0.9}
    with pytest.raises(ValueError, match="'mlld' needs the views weak, strong, the batch has main"):
        distiller(points, labels)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperatures": ()}, r"`temperatures` must be a list of numbers > 0, got \(\)."),
        ({"temperatures": (2.0, 0.0)}, r"`temperatures` must be a list of numbers > 0, got \(2.0, 0.0\)."),
        ({"temperatures": 4.0}, "`temperatures` must be a list of numbers > 0, got 4.0."),
        ({"views": ("weak", "weak")}, "`views` must be the names of two views, the weak one first"),
        ({"views": "weak"}, "`views` must be the names of two views, the weak one first, got 'weak'."),
    ],
)
def test_bad_hyperparameters(settings, sentence):
    with pytest.raises(ValueError, match=f"`MultiLevelLogits`: {sentence}"):
        cg.Term("mlld", **settings)


def test_other_classes_are_refused_before_any_step():
    teacher, student = torch.nn.Linear(4, 7), torch.nn.Linear(4, 5)
    with pytest.raises(ValueError, match="compares logits of the same classes, got 5 of the student and 7 of the teac"):
        cg.Distiller(teacher, student, ["mlld"], example=torch.ones(2, 4))

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded, tight_clusters

from congruence.core.numerics import unit
from congruence.geometry import angles
from congruence.losses import RkdAngleLoss, RkdDistanceLoss, rkd_angle_loss, rkd_distance_loss
from congruence.losses.rkd import CHECKS

BAD = (
    ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
    ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
    ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
)


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def smooth_l1(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def length(row):
    return sum(v * v for v in row) ** 0.5


def distance_reference(student, teacher):
    def distances(rows):
        def distance(p, q):
            return max(length([a - b for a, b in zip(p, q, strict=True)]), 1e-6)

        values = [[0.0 if i == j else distance(p, q) for j, q in enumerate(rows)] for i, p in enumerate(rows)]
        positive = [value for row in values for value in row if value > 0]
        mean = sum(positive) / len(positive)
        return [value / mean for row in values for value in row]

    pairs = list(zip(distances(student.tolist()), distances(teacher.tolist()), strict=True))
    return torch.tensor(sum(smooth_l1(a - b) for a, b in pairs) / len(pairs), dtype=torch.float64)


def angle_reference(student, teacher):
    def cosines(rows):
        values = []
        for anchor in rows:
            differences = [[a - b for a, b in zip(row, anchor, strict=True)] for row in rows]
            units = [[v / length(row) if length(row) else 0.0 for v in row] for row in differences]
            values += [sum(a * b for a, b in zip(p, q, strict=True)) for p in units for q in units]
        return values

    pairs = list(zip(cosines(student.tolist()), cosines(teacher.tolist()), strict=True))
    return torch.tensor(sum(smooth_l1(a - b) for a, b in pairs) / len(pairs), dtype=torch.float64)


class TestDistance(LossTester):
    case = LossCase(
        function=rkd_distance_loss,
        module=RkdDistanceLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=distance_reference,
        goldens=(Golden("rkd_dist_A"),),
        relational=True,
        bad_arguments=BAD,
    )

    def test_equal_rows_count_at_the_floor_without_gradient(self):
        student, teacher = embeddings(seeded(0), 5)
        student = torch.cat([student[:1], student[:1], student[2:]])
        torch.testing.assert_close(rkd_distance_loss(student, teacher), distance_reference(student, teacher))
        alone = student[:2].clone().requires_grad_()
        (gradient,) = gradients(rkd_distance_loss(alone, teacher[:2]), (alone,))
        assert not gradient.any()

    def test_the_mean_of_the_student_carries_gradient(self):
        student, teacher = embeddings(seeded(0), 5)
        student.requires_grad_()
        (gradient,) = gradients(rkd_distance_loss(student, teacher), (student,))
        # A loss that does not see the scale has no gradient along it.
        assert gradient.any()
        assert (gradient * student).sum().abs().item() < 1e-15


class TestAngle(LossTester):
    case = LossCase(
        function=rkd_angle_loss,
        module=RkdAngleLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=angle_reference,
        goldens=(Golden("rkd_angle_A"),),
        relational=True,
        bad_arguments=BAD,
    )

    @pytest.mark.parametrize(("rows", "entries"), [(6, 1), (6, 7), (6, 20), (6, 30), (70, 2**13), (70, 2**20)])
    @pytest.mark.parametrize("distance", [1.0, 1e-9])
    def test_tiles_do_not_matter(self, rows, entries, distance, monkeypatch):
        student, teacher = embeddings(seeded(0), rows)
        arguments = leaves((torch.cat([distance * student[:3], student[3:]]), teacher))
        value = rkd_angle_loss(*arguments)
        expected = gradients(value, arguments)
        monkeypatch.setattr(angles, "_TILE", {"cpu": entries})
        again = rkd_angle_loss(*arguments)
        torch.testing.assert_close(again, value, rtol=1e-13, atol=0)
        torch.testing.assert_close(gradients(again, arguments), expected, rtol=1e-10, atol=1e-15)

    def test_equal_rows_are_at_no_angle_and_have_no_gradient_from_each_other(self):
        student, teacher = embeddings(seeded(0), 5)
        student = torch.cat([student[:1], student[:1], student[2:]])
        teacher = torch.cat([teacher[:3], teacher[2:3], teacher[4:]])
        sides, exact = leaves((student, teacher)), leaves((student, teacher))
        value = rkd_angle_loss(*sides)
        torch.testing.assert_close(value, angle_reference(student, teacher))
        safe = usual_angle(*exact, normalized=unit)
        torch.testing.assert_close(gradients(value, sides), gradients(safe, exact))

    def test_a_gradient_with_a_graph_is_the_one_without(self):
        sides = leaves(embeddings(seeded(0), 5))
        with_graph = torch.autograd.grad(rkd_angle_loss(*sides), sides, create_graph=True)
        torch.testing.assert_close(list(with_graph), gradients(rkd_angle_loss(*sides), sides), rtol=1e-10, atol=1e-15)
        assert torch.autograd.gradgradcheck(rkd_angle_loss, sides)
        student, teacher = sides[0].detach().requires_grad_(), sides[1].detach()  # a teacher without gradient
        assert torch.autograd.gradgradcheck(lambda rows: rkd_angle_loss(rows, teacher), student)


def usual_angle(student, teacher, normalized=F.normalize):
    """The usual form, with a [B, B, D] tensor of unit differences for each side."""

    def cosines(x):
        units = normalized(x[None] - x[:, None], dim=2)
        return torch.bmm(units, units.transpose(1, 2))

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


def spread(scale, centres):
    """Float32 rows around `centres` points at ±10 or so."""
    generator = seeded(3)
    sides = []
    for width in (24, 40):
        middle = 10 * torch.randn(centres, width, generator=generator).sign()
        sides.append(middle[torch.arange(48) % centres] + scale * torch.randn(48, width, generator=generator))
    return tuple(sides)


def nearly_equal(distance):
    """Three rows at a distance, and two far away."""
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -3.0]])
    student[:3] *= distance
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, -3.0]])
    return student, teacher


def nearly_dead(scale):
    """Embeddings after a ReLU, some of them next to nothing, beside others."""
    rows = torch.randn(16, 8, generator=seeded(5)).relu()
    rows[:6] *= scale
    return rows, torch.randn(16, 5, generator=seeded(6))


def sharp(scale):
    """Probabilities of logits so large that many rows are the same but for digits far behind."""
    return torch.softmax(scale * torch.randn(24, 10, generator=seeded(7)), 1), torch.randn(24, 16, generator=seeded(8))


@pytest.mark.parametrize(
    "arguments",
    [
        spread(1.0, 1),
        spread(0.01, 2),
        spread(0.01, 1),
        spread(1e-4, 4),
        tuple(t.float() for t in tight_clusters(16, 3, 5)),
        *(nearly_equal(distance) for distance in (1e-4, 1e-7, 1e-12, 1e-20)),
        *(nearly_dead(scale) for scale in (1e-6, 1e-9, 1e-12)),
        *(sharp(scale) for scale in (10, 30)),
        sharp(30)[::-1],
    ],
    ids=[
        *("normal", "two clusters", "one cluster", "four tighter ones", "two of few dimensions"),
        *("1e-4", "1e-7", "1e-12", "1e-20", "dying", "nearly dead", "dead", "sharp", "sharper", "sharp teacher"),
    ],
)
def test_the_angles_equal_the_usual_form_on_clusters(arguments):
    exact = leaves(tuple(side.double() for side in arguments))
    sides = leaves(arguments)
    value, expected = rkd_angle_loss(*sides), usual_angle(*exact, normalized=unit)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    for ours, wanted in zip(gradients(value, sides), gradients(expected, exact), strict=True):
        assert (ours.double() - wanted).norm() <= 1e-5 * wanted.norm()


def test_the_angles_keep_no_tensor_of_all_differences():
    student, teacher = (torch.randn(32, 64, generator=seeded(k), requires_grad=True) for k in (0, 1))
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        rkd_angle_loss(student, teacher)
    assert sizes
    assert max(sizes) <= 32 * 64


def test_both_together_equal_the_golden():
    stored = golden.arrays("rkd_A")
    student, teacher = leaves((stored["in_s"].double(), stored["in_t"].double()))
    distance, angle = rkd_distance_loss(student, teacher), rkd_angle_loss(student, teacher)
    torch.testing.assert_close(distance, stored["out_dist"], rtol=1e-10, atol=0)
    torch.testing.assert_close(angle, stored["out_angle"], rtol=1e-10, atol=0)
    value = 25 * distance + 50 * angle
    torch.testing.assert_close(value, stored["loss"], rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients(value, (student,))[0], stored["grad_s"], rtol=1e-9, atol=1e-10)

import pytest
import torch
import torch.nn.functional as F
from _harness.losses import Golden, LossCase, LossTester, leaves, seeded
from _harness.memory import largest_tensor

from congruence.losses import NeuronSelectivityLoss, neuron_selectivity_loss
from congruence.losses.nst import CHECKS


def maps(generator, rows):
    student = torch.randn(rows, 2, 2, 2, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, 2, 2, generator=generator, dtype=torch.float64)


def reference(student, teacher):
    def units(sample):
        lengths = [sum(v * v for v in channel) ** 0.5 for channel in sample]
        return [[v / length for v in channel] for channel, length in zip(sample, lengths, strict=True)]

    def kernel(first, second):
        values = [sum(a * b for a, b in zip(p, q, strict=True)) ** 2 for p in first for q in second]
        return sum(values) / len(values)

    values = []
    for ours, theirs in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        s, t = units(ours), units(theirs)
        values.append(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t))
    return torch.tensor(values, dtype=torch.float64)


class TestNeuronSelectivity(LossTester):
    case = LossCase(
        function=neuron_selectivity_loss,
        module=NeuronSelectivityLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        goldens=(Golden("nst_A"),),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 3, 2, 2)), "`student_map` must be a non-empty 4-D tensor, got shape"),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 2, 2)), "`student_map` [4, 3, 2, 2], `teacher_map` [5, 3"),
        ),
    )

    @pytest.mark.parametrize(
        ("student", "teacher"), [((7, 2, 2), (3, 2, 2)), ((2, 2, 2), (5, 2, 2)), ((2, 3, 3), (3, 3, 3))]
    )
    def test_many_channels_and_many_positions_are_one_definition(self, student, teacher):
        sides = [
            torch.randn(3, *shape, generator=seeded(k), dtype=torch.float64)
            for k, shape in enumerate((student, teacher))
        ]
        expected = reference(*sides)
        torch.testing.assert_close(neuron_selectivity_loss(*sides, reduction="none"), expected, rtol=1e-10, atol=1e-13)
        assert neuron_selectivity_loss(sides[0], sides[0]).item() == 0.0
        assert torch.autograd.gradcheck(neuron_selectivity_loss, [side.requires_grad_() for side in sides])

    def test_the_larger_map_is_pooled_first(self):
        student = torch.randn(3, 2, 4, 6, generator=seeded(0), dtype=torch.float64)
        teacher = torch.randn(3, 5, 2, 3, generator=seeded(1), dtype=torch.float64)
        expected = reference(F.adaptive_avg_pool2d(student, (2, 3)), teacher).mean()
        torch.testing.assert_close(neuron_selectivity_loss(student, teacher), expected)

    def test_sides_of_two_types(self):
        student, teacher = (torch.randn(2, 3, 4, 4, generator=seeded(k)) for k in (0, 1))
        value = neuron_selectivity_loss(student, teacher.double())
        torch.testing.assert_close(value, neuron_selectivity_loss(student.double(), teacher.double()))

    def test_order_sign_and_repetition_of_channels_do_not_matter(self):
        student, _ = maps(seeded(0), 4)
        assert neuron_selectivity_loss(torch.cat([-3 * student.flip(1), student], 1), student).abs().item() < 1e-15

    @pytest.mark.parametrize(
        ("student", "teacher"), [((4, 12, 12), (6, 12, 12)), ((48, 3, 3), (80, 3, 3)), ((4, 5, 5), (40, 5, 5))]
    )
    def test_nothing_is_larger_than_the_maps_and_the_smaller_products(self, student, teacher):
        sides = leaves(tuple(torch.randn(3, *shape, generator=seeded(k)) for k, shape in enumerate((student, teacher))))
        largest = largest_tensor(lambda: neuron_selectivity_loss(*sides).backward())
        channels, positions = max(student[0], teacher[0]), student[1] * student[2]
        assert largest <= 3 * max(channels * positions, min(channels**2, positions**2))

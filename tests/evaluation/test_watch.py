"""Diagnostics of runs: the same numbers wherever they come from, and a training that does not feel them."""

import json
import signal

import pytest
import torch
from _harness import fits
from _harness.configs import pictures
from _harness.fits import constant, data, distiller, same_state
from _harness.runs import in_process, on_ranks
from _harness.watched import IMAGES, images, killed, on_a_rank, trained
from torch import nn

import congruence as cg
from congruence.core.files import read_lines
from congruence.evaluation import Diagnostics, Embeddings, diagnose, diagnostic_loader, embed, numbers, term_losses


def lines(out):
    return [row for row in read_lines(out / "metrics.jsonl") if "diagnostics" in row]


def test_training_is_the_same_to_the_bit(tmp_path):
    without, plain = trained(None, tmp_path / "without")
    result, made = trained(Diagnostics(images()), tmp_path / "with")
    same_state(plain, made)
    assert result.history == without.history
    rows = read_lines(tmp_path / "with" / "metrics.jsonl")
    assert [row for row in rows if "diagnostics" not in row] == read_lines(tmp_path / "without" / "metrics.jsonl")
    assert [(row["epoch"], row["step"]) for row in lines(tmp_path / "with")] == [(0, 3), (1, 6), (2, 9)]


def test_the_last_epoch_s_numbers_are_those_of_the_student_that_is_left(tmp_path):
    _, made = trained(Diagnostics(images()), tmp_path / "run")
    student, teacher = (embed(model, images(), name="model") for model in (made.student, made.teacher.module))
    expected = diagnose(
        Embeddings(student.features, teacher.features, student.logits, teacher.logits, student.labels, teacher.head)
    )
    assert lines(tmp_path / "run")[-1]["diagnostics"] == expected
    assert "risk_gap" in expected
    assert lines(tmp_path / "run")[0]["diagnostics"]["gpcl"] != expected["gpcl"]


def test_the_first_and_every_third_epoch_and_callbacks_hear_of_them():
    told = []
    trained(Diagnostics(images(), ["gpcl"], every=3), callbacks=(told.append,))
    heard = [(e.epoch, list(e.metrics)) for e in told if e.kind == "diagnostics"]
    assert heard == [(0, ["gpcl"]), (2, ["gpcl"])]


def test_losses_of_terms_are_those_of_the_definition(tmp_path):
    terms = ["ce", cg.Term("rkd", weight="balanced"), cg.Term("pkt", weight=0.0)]
    asked = Diagnostics(images(), [], losses=True)
    _, made = trained(asked, tmp_path / "run", terms=terms)
    names = ["ce", "rkd.distance", "rkd.angle", "pkt"]
    student, teacher = (embed(model, images(), name="model") for model in (made.student, made.teacher.module))
    expected = dict.fromkeys(names, 0.0)
    for start in (0, 8, 16):  # the last batch has two samples, and counts by them
        some = slice(start, start + 8)
        rows = student.features[some], teacher.features[some]
        values = [nn.functional.cross_entropy(student.logits[some], student.labels[some])]
        values += [loss(*rows) for loss in (cg.losses.rkd_distance_loss, cg.losses.rkd_angle_loss, cg.losses.pkt_loss)]
        for name, value in zip(names, values, strict=True):
            expected[name] += len(student.labels[some]) / len(student.labels) * float(value)
    expected = {f"loss/{name}": value for name, value in expected.items()}
    in_fit = lines(tmp_path / "run")[-1]["diagnostics"]
    assert in_fit == pytest.approx(expected, rel=5e-3)  # with the teacher's prepared copy, which may be in bfloat16
    assert asked(made.eval(), 0) == pytest.approx(expected, rel=1e-5)
    assert list(term_losses(made.eval(), images())) == names


def test_training_with_losses_is_the_same_to_the_bit(tmp_path):
    terms = ["ce", cg.Term("kd", weight="balanced")]
    _, plain = trained(None, tmp_path / "without", terms=terms)
    _, made = trained(Diagnostics(images(), losses=True), tmp_path / "with", terms=terms)
    same_state(plain, made)


def test_a_loss_that_is_not_finite_is_told(caplog):
    _, made = trained(None)
    with torch.no_grad():
        next(made.student.parameters()).fill_(float("nan"))
    assert Diagnostics(images(), [], losses=True)(made, 0) == {}
    assert "the loss of 'ce', 'kd' is not finite" in caplog.text


def test_several_students_and_layers(tmp_path):
    asked = Diagnostics(images(), ["gpcl"], student_layer="0.0", teacher_layer="input:0")
    _, made = trained(asked, tmp_path / "run", students=(1, 4))
    points = IMAGES.tensors[0]
    first = made.students["n4"][0][0](points).detach()
    numbers = lines(tmp_path / "run")[-1]["diagnostics"]
    assert numbers["gpcl/n4"] == pytest.approx(cg.metrics.global_perception_coherence(first, points), rel=1e-6)
    assert list(numbers) == ["gpcl/n1", "gpcl/n4"]


@pytest.mark.parametrize("step", [3, 4, 7])
def test_killed_and_resumed(step, tmp_path):
    trained(Diagnostics(images()), tmp_path / "whole")
    assert in_process(killed, tmp_path / "run", step) == -signal.SIGKILL
    trained(Diagnostics(images()), tmp_path / "run", resume=True, checkpoint_seconds=0.0)
    first, second = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "run"))
    assert first == second


class Counted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, inputs):
        self.rows += len(inputs)
        return self.inner(inputs)


def test_the_teacher_runs_once_over_a_loader_of_ours():
    asked, teacher = Diagnostics(images(), ["gpcl"]), Counted(fits.net(0, 7))
    made = cg.Distiller(teacher, fits.net(1), ["ce", "kd"], example=data().tensors[0][:4])
    first, once = asked(made, 0), teacher.rows
    assert asked(made, 1) == first
    assert teacher.rows == once > 0


def test_a_teacher_whose_weights_change_is_run_again():
    """As one that follows its student does."""
    asked, made = Diagnostics(images(), ["gpcl"]), distiller()
    first = asked(made, 0)
    with torch.no_grad():
        for parameter in made.teacher.module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    assert asked(made, 1) == Diagnostics(images(), ["gpcl"])(made, 1) != first


def test_a_teacher_whose_weights_cannot_be_watched_is_run_each_time():
    """Of 8-bit floating point torch takes no norm."""
    teacher = Counted(fits.net(0, 7))
    teacher.register_buffer("scale", torch.ones(2).to(torch.float8_e4m3fn))
    asked = Diagnostics(images(), ["gpcl"])
    made = cg.Distiller(teacher, fits.net(1), ["ce", "kd"], example=data().tensors[0][:4])
    first, once = asked(made, 0), teacher.rows
    assert asked(made, 1) == first
    assert teacher.rows > once


def test_a_teacher_is_run_again_over_samples_that_are_drawn_anew():
    class Noisy(torch.utils.data.TensorDataset):
        def __getitem__(self, row):
            sample, label = super().__getitem__(row)
            return sample + torch.rand_like(sample), label

    teacher = Counted(fits.net(0, 7))
    asked = Diagnostics(cg.data.loader(Noisy(*data().tensors), batch_size=8, shuffle=False), ["gpcl"])
    made = cg.Distiller(teacher, fits.net(1), ["ce", "kd"], example=data().tensors[0][:4])
    asked(made, 0)
    once = teacher.rows
    asked(made, 1)
    assert teacher.rows > once


def test_a_loader_that_shuffles_gives_both_sides_the_same_samples():
    stock = torch.utils.data.DataLoader(IMAGES, batch_size=5, shuffle=True)
    made, names = distiller(), ["gpcl", "kernel_transfer_error", "landmark_transfer_error"]
    expected = Diagnostics(images(), names)(made, 0)
    asked = Diagnostics(stock, names)
    for epoch in (0, 1):
        assert asked(made, epoch) == pytest.approx(expected, rel=1e-6)
    state = torch.get_rng_state()
    asked(made, 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "teacher", "sentence"),
    [
        ({"measures": ["gpcl"]}, False, "got 'gpcl', which needs a teacher."),
        ({"student_layer": "fc"}, True, "The student has no layer 'fc'"),
        ({"teacher_layer": "fc"}, True, "The teacher has no layer 'fc'"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_step(arguments, teacher, sentence):
    steps = []
    made = distiller("ce", *(["kd"] if teacher else []), teacher=teacher)
    options = constant(diagnose=Diagnostics(images(), **arguments), callbacks=(steps.append,))
    with pytest.raises(ValueError) as caught:
        cg.fit(made, cg.data.loader(data(), batch_size=8), options=options)
    assert sentence in str(caught.value)
    assert not steps


def broken(of):
    raise RuntimeError("linalg.eigh: failed to converge\nbecause of much")


def test_a_diagnostic_that_raises_is_left_out_and_told_once(tmp_path, monkeypatch, caplog):
    rows = {**numbers.numbers_in("diagnostics"), "gpcl": numbers.Number("gpcl", broken)}
    monkeypatch.setattr("congruence.evaluation.diagnostics.numbers_in", lambda place: rows)
    plain = trained(None)[1]
    same_state(plain, trained(Diagnostics(images(), ["gpcl", "accuracy"]), tmp_path / "with")[1])
    assert [list(line["diagnostics"]) for line in lines(tmp_path / "with")] == [["accuracy"]] * 3
    sentence = "The diagnostic 'gpcl' of the student is left out: RuntimeError: linalg.eigh: failed to converge."
    assert [text for text in caplog.messages if "is left out" in text] == [sentence]
    trained(Diagnostics(images(), ["gpcl"]))  # nothing is left, and nothing stops


@pytest.fixture
def own_numbers(monkeypatch):
    """The library's numbers alone: one that needs nothing can always be had."""
    monkeypatch.setattr(numbers, "contributed", lambda *_: [])
    numbers._all.cache_clear()
    yield
    monkeypatch.undo()
    numbers._all.cache_clear()


@pytest.mark.usefixtures("own_numbers")
def test_images_without_labels_and_nothing_left():
    unlabelled = [IMAGES.tensors[0]]
    assert "class_similarity" not in Diagnostics(unlabelled)(distiller(), 0)
    asked = Diagnostics([IMAGES.tensors[0][:, None].expand(-1, 4, -1)], every=3)
    made = cg.Distiller(None, nn.Linear(6, 3), ["ce"], example=IMAGES.tensors[0])
    with pytest.raises(ValueError, match="`measures` must be diagnostics that can be had here, got none that can"):
        asked.rehearse(made)
    assert asked(made, 0) == asked(made, 1) == {}
    with pytest.raises(ValueError, match="`every` must be an integer >= 1, got 0"):
        Diagnostics(unlabelled, every=0)
    with pytest.raises(ValueError, match="`distiller` must be a Distiller, got Linear"):
        Diagnostics(unlabelled)(nn.Linear(6, 3), 0)


def test_the_choice_of_images_is_fixed_and_keeps_the_classes_shares():
    dataset = pictures(60, 0)
    first, second = (diagnostic_loader(dataset, 20, seed=0).dataset for _ in range(2))
    assert torch.equal(first.rows, second.rows)
    assert torch.bincount(first.labels).tolist() == [2] * 10
    assert not torch.equal(first.rows, diagnostic_loader(dataset, 20, seed=1).dataset.rows)
    assert len(diagnostic_loader(dataset).dataset) == len(diagnostic_loader(dataset, None).dataset) == 60
    with pytest.raises(ValueError, match="`samples` must be an integer >= 1 or None, got 0"):
        diagnostic_loader(dataset, 0)


def test_two_ranks(tmp_path):
    on_ranks(on_a_rank, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    rows = lines(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[-1]["diagnostics"] == first[1] == second[1]
    assert (first[0], second[0]) == (["diagnostics"] * 2, [])


def test_a_model_that_gives_no_numbers_is_told_and_the_run_goes_on(tmp_path, caplog):
    points, labels = IMAGES.tensors
    made, asked = distiller(), Diagnostics([(points, labels)], ["gpcl", "accuracy"])
    asked.rehearse(made)
    with torch.no_grad():
        next(made.students["student"].parameters()).fill_(torch.nan)
    assert asked(made, 3) == {}
    assert caplog.messages[-1].startswith("No diagnostics for epoch 3. `Diagnostics`: the student's embeddings must be")
    with pytest.raises(
        ValueError, match=r"the student's embeddings must be finite, got NaN or infinity for (\d+) of \1 "
    ):
        asked.rehearse(made)


def test_a_dataset_of_ones_own_is_read_item_by_item():
    generator = torch.Generator().manual_seed(0)
    own = torch.utils.data.TensorDataset(torch.randn(12, 3, generator=generator), torch.arange(12) % 2)
    batches = list(diagnostic_loader(own, 4))
    assert [sorted(labels.tolist()) for _, labels, _ in batches] == [[0, 0, 1, 1]]
    ((inputs, _, _),) = batches
    assert all(any(torch.equal(row, own[i][0]) for i in range(12)) for row in inputs)

"""`congruence.distill`: one call for models and data that are at hand."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import congruence as cg
from congruence.data import ArrayDataset
from congruence.data.datasets.model_facts import ModelFacts, remember
from congruence.models import load_weights
from congruence.training.saving.best import standard_error

INPUTS = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(96) % 3
BOTH = TensorDataset(INPUTS, LABELS)


def net(width=8, classes=3):
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))


@pytest.fixture
def models():
    torch.manual_seed(0)
    return net(16), net()


def run(models, data=BOTH, *arguments, **options):
    return cg.distill(*models, data, *arguments, **{"epochs": 1, "batch_size": 16, "device": "cpu"} | options)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_trains_measures_and_leaves_the_teacher_as_it_was(models):
    teacher, student = models
    teacher[0].weight.requires_grad_(False)
    before, asked = copy.deepcopy(teacher.state_dict()), [p.requires_grad for p in teacher.parameters()]
    first = copy.deepcopy(student.state_dict())
    done = run(models, BOTH, "kd", epochs=3)
    assert (done.student is student, student.training, teacher.training) == (True, False, True)
    assert same(before, teacher.state_dict())
    assert [p.requires_grad for p in teacher.parameters()] == asked
    assert not same(first, student.state_dict())
    assert same(done.result.best_states["student"], student.state_dict())
    assert (done.result.epochs, done.measured_on, done.report.samples) == (3, "validation", 10)
    assert done.report.student_accuracy == pytest.approx(done.result.best["student"]["accuracy"])


def test_the_best_epoch_is_the_last_within_a_standard_error_of_the_highest(models):
    done = run(models, TensorDataset(INPUTS, (INPUTS[:, 0] > 0).long()), "kd", epochs=12, validation=20, lr=0.03)
    best, history = done.result.best_epoch["student"], [each["accuracy"] for each in done.result.history]
    as_good = [at for at, each in enumerate(history) if each >= max(history) - standard_error(max(history), 20)]
    assert best == max(as_good)
    assert best > history.index(max(history))  # the first highest: else this shows nothing
    assert done.report.student_accuracy == pytest.approx(history[best])


def test_without_a_word_little_data_is_seen_so_many_steps_long(models, monkeypatch):
    monkeypatch.setattr("congruence.pipeline.quick.STEPS", 500)
    done = run(models, BOTH, "kd", epochs=None, validation=0.5, batch_size=4)
    assert (done.result.epochs, done.result.steps) == (42, 504)


ASKED: Counter[str] = Counter()


class Counting(nn.Module):
    """A teacher that counts the samples that it, or a copy of it, is asked about."""

    def __init__(self, name, inner):
        super().__init__()
        self.name, self.inner = name, inner

    def forward(self, inputs):
        ASKED[self.name] += len(inputs)
        return self.inner(inputs)


def images(count, seed=0):
    pixels = torch.randint(256, (count, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ArrayDataset(pixels, torch.arange(count) % 3, classes=3, mean=[0.5], std=[0.25])


def flat(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


@pytest.mark.parametrize(("kind", "once"), [("images", 2), ("rows", 1)])
def test_a_teacher_is_asked_about_so_many_views(kind, once, tmp_path):
    """Of images, which are augmented, about two of each; of rows of tensors about each once."""
    rows = TensorDataset(torch.randn(960, 6), torch.arange(960) % 3)
    data, test, build = (images(960), images(8, 1), flat) if kind == "images" else (rows, Subset(rows, range(8)), net)
    torch.manual_seed(0)
    ASKED.clear()
    teacher, options = build(16), {"epochs": 6, "validation": 0, "test": test, "batch_size": 32}
    run((Counting("live", teacher), build(8)), data, "kd", **options)
    options |= {"teacher_views": 2, "out": tmp_path}
    done = run((Counting("kept", teacher), build(8)), data, "kd", **options)
    assert ASKED["live"] >= 6 * 960
    assert once * 960 <= ASKED["kept"] < (once + 1) * 960  # a few for the shapes, and the test, are left
    assert (tmp_path / "teacher-cache" / "manifest.json").exists()
    ASKED.clear()
    again = run((Counting("kept", teacher), build(8)), data, "kd", resume=True, **options)
    assert same(done.student.state_dict(), again.student.state_dict())
    assert ASKED["kept"] < 960


def test_a_teachers_answers_are_kept_nowhere_without_a_folder(models, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(models, BOTH, "kd", teacher_views=2, epochs=2).result.epochs == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"`teacher_views` must be .*, got 0"):
        run(models, BOTH, "kd", teacher_views=0)


def test_the_weight_is_the_methods_alone(models, monkeypatch):
    seen = []
    made = cg.Distiller.__init__

    def spy(self, teacher, student, terms, **more):
        seen.append({term.key: (term.weight, term.share) for term in terms})
        made(self, teacher, student, terms, **more)

    monkeypatch.setattr(cg.Distiller, "__init__", spy)
    run(models, BOTH, "kd")
    run(models, BOTH, "kd", weight="published")
    run(models, BOTH, ["pkt", cg.Term("kd", weight=0.5, temperature=2.0)], share=0.3)
    run(models, BOTH, ["rkd", "ce"], weight=2.0)
    run(models, TensorDataset(INPUTS), "rkd")
    assert seen == [
        {"ce": (1.0, None), "kd": ("balanced", cg.methods.row("kd").share)},
        {"ce": (0.1, None), "kd": (0.9, None)},
        {"ce": (1.0, None), "pkt": ("balanced", 0.3), "kd": (0.5, None)},
        {"rkd": (2.0, None), "ce": (1.0, None)},
        {"rkd": ("balanced", cg.methods.row("rkd").share)},
    ]


@pytest.mark.parametrize("method", ["kd", "rkd", "pkt", "cckd", "kda", "crd", "mkt", "class_wasserstein", "dist"])
def test_methods_that_need_an_index_facts_or_labels_work(models, method):
    done = run(models, BOTH, method, epochs=2)
    assert done.report.student_accuracy is not None


class Plain(Dataset):
    """Inputs and labels of somebody who knows nothing of us."""

    def __init__(self, labels=LABELS):
        self.values = labels

    def __len__(self):
        return len(self.values)

    def __getitem__(self, number):
        return INPUTS[number], int(self.values[number])


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(INPUTS),
        Plain(),
        Subset(BOTH, list(range(0, 96, 2))),
        [{"inputs": INPUTS[number], "label": int(LABELS[number])} for number in range(40)],
    ],
    ids=["unlabelled", "plain", "subset", "mappings"],
)
def test_any_map_style_dataset_does(models, data):
    done = run(models, data)
    assert (done.report.student_accuracy is not None) == (not isinstance(data, TensorDataset))
    assert done.report.agreement is not None


def test_few_labels_that_the_dataset_does_not_tell_are_found(models):
    labels = torch.full((96,), -1)
    labels[90:] = LABELS[90:]
    done = run(models, Plain(labels), "rkd", validation=0)
    assert "accuracy" not in done.result.last
    assert done.report is None
    with pytest.raises(ValueError, match="the method 'class_wasserstein' needs labels, `data` has none"):
        run(models, Plain(torch.full((96,), -1)), "class_wasserstein")


def test_a_named_dataset_and_what_is_read_at_the_end():
    torch.manual_seed(0)
    pair = [nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)) for width in (16, 8)]
    done = run(pair, "digits", batch_size=64)
    assert (done.measured_on, done.report.samples) == ("test", 359)


def test_a_folder_of_images(tmp_path):
    for number in range(40):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 6 * number).save(path)
    pair = [nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2)) for width in (16, 8)]
    done = run(pair, tmp_path, ["kd", "intra_class"])
    assert (done.measured_on, done.report.samples) == ("test", 8)


def test_parts_of_ones_own(models):
    done = run(models, BOTH, validation=24, test=Plain())
    assert (done.measured_on, done.report.samples, done.result.steps) == ("test", 96, 5)
    again = run(models, BOTH, validation=Plain(), test=None)
    assert (again.measured_on, again.report.samples) == ("validation", 96)
    none = run(models, BOTH, validation=0)
    assert (none.measured_on, none.report, none.result.steps) == (None, None, 6)


def test_a_short_last_batch_is_left_out(models):
    assert run(models, TensorDataset(INPUTS[:65], LABELS[:65]), validation=0).result.steps == 4
    assert run(models, TensorDataset(INPUTS[:69], LABELS[:69]), validation=0).result.steps == 5


def test_the_default_gives_way_where_the_teacher_knows_other_classes(models, caplog):
    teacher = net(16, classes=7)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    done = run((teacher, models[1]))
    told = "The teacher has 7 classes, the student 3: a classifier of the data's classes is fitted on its features."
    assert told in caplog.text
    assert done.report.student_accuracy is not None
    assert done.report.teacher_accuracy is not None  # by that classifier
    assert same(before, teacher.state_dict())
    plain = run((teacher, net()), TensorDataset(INPUTS))
    assert "the method is queue_relation, which compares features, not kd." in caplog.text
    assert plain.report.gpcl is not None
    with pytest.raises(
        ValueError, match=r"The teacher has 7 .*: 'kd' compares class logits; .* one method=\"queue_relation\"\."
    ):
        run((teacher, models[1]), BOTH, "kd")
    images = torch.arange(96 * 6, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(96, 1, 2, 3)
    named = ArrayDataset(images, LABELS, classes=3, mean=[0.5], std=[0.25], class_names=("a", "b", "c"))
    pair = [nn.Sequential(nn.Flatten(), net(width)) for width in (16, 8)]
    remember(pair[0], ModelFacts(classes=3, class_names=("x", "y", "z")), "file")
    with pytest.raises(ValueError, match="The teacher has the classes 'x', 'y', 'z', the data 'a', 'b', 'c'"):
        run(pair, named, "kd")
    assert run(pair, named, "pkt").report is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_other_classes_gets_a_classifier_of_what_it_gives(models, caplog):
    program = torch.jit.trace(net(16, classes=7).eval(), INPUTS[:2])
    done = run((program, models[1]), teacher_views=1)
    assert "a classifier of the data's classes is fitted" in caplog.text
    assert done.report.teacher_accuracy is not None


def test_an_encoder_teaches_by_a_classifier_too_and_keeps_it(models, caplog, tmp_path):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 5)

        def forward(self, rows):
            return nn.functional.normalize(self.inner(rows))

    teacher = Encoder()
    done = run((teacher, models[1]), out=tmp_path / "run")
    assert (
        "The teacher's output is an embedding, not class scores: a classifier of the data's classes is" in caplog.text
    )
    kept = load_weights(tmp_path / "run" / "teacher-head.safetensors")
    assert kept["weight"].shape == (3, 5)
    assert done.report.teacher_accuracy is not None
    (tmp_path / "other").mkdir()
    run(models, BOTH, "pkt", out=tmp_path / "other")
    with pytest.raises(ValueError, match="holds "):
        run((teacher, net()), out=tmp_path / "other")
    assert not (tmp_path / "other" / "teacher-head.safetensors").exists()
    with pytest.raises(ValueError, match=r"'kd'.* no default layer for 'logits'"):
        run((teacher, models[1]), BOTH, "kd")


def test_the_runs_folder(models, tmp_path):
    done = run(models, BOTH, out=tmp_path)
    assert same(cg.load_student(tmp_path, net).state_dict(), done.student.state_dict())
    with pytest.raises(ValueError, match="holds this run already"):
        run((models[0], net()), BOTH, out=tmp_path)
    other = net()
    assert run((models[0], other), BOTH, out=tmp_path, resume=True).result.steps == done.result.steps
    assert same(other.state_dict(), done.student.state_dict())


class Endless(IterableDataset):
    """What cannot be split."""

    def __iter__(self):
        yield INPUTS[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"data": DataLoader(BOTH, batch_size=4)}, "got a DataLoader: give its dataset"),
        ({"data": INPUTS}, "got a tensor: torch.utils.data.TensorDataset"),
        ({"data": (INPUTS, LABELS)}, "got tuple of tensors: torch.utils.data.TensorDataset"),
        ({"data": Endless()}, "`data` must be a map-style dataset, Splits, .*, got Endless"),
        ({"data": []}, "`data` must be a dataset with samples, got an empty one"),
        ({"data": "digitz"}, "Did you mean 'digits'"),
        ({"data": 3}, "got int"),
        ({"data": TensorDataset(INPUTS, torch.rand(96, 1))}, r"and their classes .*, got labels float32 \[16, 1\]"),
        ({"data": [(row, "cat") for row in INPUTS]}, "got labels list"),
        ({"method": "intra_class"}, "the method 'intra_class' reads each sample a second time as it is"),
        ({"method": "ptk"}, "Did you mean 'pkt'"),
        ({"method": nn.ReLU()}, "`method` must be a method's key, a Term, or a list of them, got ReLU"),
        ({"method": []}, "got \\[\\]"),
        ({"method": "dml"}, "dml"),
        ({"teacher": "resnet8"}, "`distill`: `teacher` must be a torch module, got str"),
        ({"student": None}, "`distill`: `student` must be a torch module, got NoneType"),
        ({"epochs": 0}, "`distill`: `epochs` must be an integer >= 1 or None, got 0"),
        ({"batch_size": 0}, "`distill`: `batch_size` must be"),
        ({"weight": "heavy"}, "`weight` must be 'balanced', 'published' or a number >= 0, got 'heavy'"),
        ({"weight": 1.0, "share": 0.5}, "`share` must be left out unless weight='balanced'"),
        ({"share": 0.0}, "`distill`: `share` must be a number > 0"),
        ({"validation": 1.5}, "`validation` must be a fraction < 1, a number of samples or a dataset, got 1.5"),
        ({"validation": True}, "`validation` must be"),
        ({"validation": 96}, "`validation` must be fewer than the 96 samples of `data`, got 96"),
        ({"validation": INPUTS}, "`validation` must be a number, or a map-style dataset"),
        ({"test": INPUTS}, "`test` must be a map-style dataset, got a tensor"),
        ({"augment": True}, "`augment` must be None for a dataset that transforms its own items"),
        ({"data": "digits", "test": BOTH}, "`test` must be left out where the data has a test part of its own"),
        ({"data": cg.data.load("digits"), "validation": 0.2}, "beside Splits, which have their own"),
    ],
)
def test_what_cannot_work_is_one_sentence(models, arguments, sentence):
    given = {"teacher": models[0], "student": models[1], "data": BOTH, "device": "cpu", "epochs": 1, "batch_size": 16}
    before = copy.deepcopy(models[1].state_dict())
    with pytest.raises(ValueError, match=sentence) as caught:
        cg.distill(**given | arguments)
    assert "\n" not in str(caught.value)
    assert same(before, models[1].state_dict())


def test_what_cannot_be_compared_costs_no_student(models, caplog):
    other = [(torch.full((6,), float("inf")), 0) for _ in range(8)]
    done = run(models, BOTH, test=other)
    assert done.report is None
    assert "The student is trained, and not compared with its teacher: " in caplog.text

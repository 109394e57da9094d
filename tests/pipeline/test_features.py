"""What a stage takes from its teacher before training: superclasses for its batches, an embedding head."""

from dataclasses import replace

import pytest
import torch
from _harness.configs import tiny
from _harness.features import on_a_rank, plan_and_head
from _harness.runs import on_ranks

from congruence.config import ConfigError
from congruence.data import ClassUniformSampler, SuperclassUniformSampler
from congruence.evaluation.embed import embed
from congruence.models import WithClassifier, WithHead, fit_classifier, fit_head, load_weights
from congruence.pipeline import RunContext, build_stage, run
from congruence.pipeline.context import load_splits
from congruence.pipeline.finished import finished

SUR = 'stages.student.train.sampler={name="superclass_uniform", k=2}'
OF_CLASSES = 'stages.student.teacher_head={kind="classifier"}'
WIDE = "stages.student.teacher_head={width=16}"


def sampled(**table):
    return tiny("digits/pkt", f"stages.student.train.sampler={{{', '.join(f'{k}={v}' for k, v in table.items())}}}")


def unlabelled(config):
    """The student's stage without what needs labels, and data without any."""
    splits = load_splits(config.data)
    stage = config.stages["student"]
    terms = [term for term in stage.terms if term.key != "ce"]
    stage = stage.model_copy(update={"labels_per_class": None, "terms": terms})
    config = config.model_copy(update={"stages": {**config.stages, "student": stage}})
    return config, type(splits)(*(replace(part, labels=None) for part in splits))


def test_class_uniform_batches_are_of_the_labels_that_are_kept():
    config = sampled(name='"class_uniform"', k=4)
    built = build_stage(config, "student", RunContext())
    sampler, labels = built.train_loader.sampler, built.train_loader.dataset.labels
    assert isinstance(sampler, ClassUniformSampler)
    assert (sampler.k, sampler.batch_size, len(built.train_loader)) == (4, 8, 12)  # of 100 labelled
    for _, classes, _ in built.train_loader.batches(0):
        assert classes.unique(return_counts=True)[1].tolist() == [4, 4]
    assert int((labels >= 0).sum()) == 100


def test_superclass_uniform_batches_are_of_clusters_of_the_teachers_features(tmp_path):
    built = build_stage(tiny("digits/pkt", SUR), "student", RunContext(out=tmp_path))
    teacher, dataset = built.models.teacher, built.train_loader.dataset
    before = torch.get_rng_state()
    features = embed(teacher, [dataset.batch(range(len(dataset)))]).features
    superclasses = load_weights(tmp_path / "superclasses.safetensors")["superclasses"]
    expected = SuperclassUniformSampler(features, batch_size=8, k=2)
    assert torch.equal(superclasses, expected.superclasses)
    plans = [built.train_loader.plan(1), expected.batches(1)]
    assert all(torch.equal(a, b) for a, b in zip(*plans, strict=True))
    assert len(plans[0]) == 25  # all 200 images, labelled or not
    assert torch.equal(before, torch.get_rng_state())


def test_superclasses_are_kept_for_a_resumed_run_and_never_written_over(tmp_path):
    config = tiny("digits/pkt", SUR)
    first = build_stage(config, "student", RunContext(out=tmp_path))
    kept = (tmp_path / "superclasses.safetensors").read_bytes()
    teacher = first.models.teacher
    assert teacher is not None
    again = build_stage(config, "student", RunContext(out=tmp_path, resume=True))
    assert torch.equal(torch.stack(again.train_loader.plan(0)), torch.stack(first.train_loader.plan(0)))
    other = tiny("digits/pkt", SUR, "stages.student.train.seed=3")
    changed = build_stage(other, "student", RunContext(out=tmp_path))
    assert not torch.equal(torch.stack(changed.train_loader.plan(0)), torch.stack(first.train_loader.plan(0)))
    (tmp_path / "superclasses.safetensors").write_bytes(kept[:50])
    build_stage(config, "student", RunContext(out=tmp_path))
    assert (tmp_path / "superclasses.safetensors").read_bytes() == kept[:50]


def test_the_head_is_fitted_on_frozen_features_before_the_student():
    config = tiny("digits/pkt", WIDE, "data.labels_per_class=5")
    plain = build_stage(tiny("digits/pkt"), "student", RunContext())
    built = build_stage(config, "student", RunContext())
    teacher, dataset = built.models.teacher, built.train_loader.dataset
    assert isinstance(teacher, WithHead)
    features = embed(teacher.model, [dataset.batch(range(len(dataset)))]).features
    expected = fit_head(features, dataset.labels, 16, seed=0)
    torch.testing.assert_close(teacher.embed.weight, expected.weight)
    images = dataset.batch(range(4))
    assert torch.equal(teacher(images), teacher.model(images))
    weights = [made.models.students["student"].state_dict() for made in (plain, built)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_classifier_is_fitted_on_the_labels_that_the_stage_sees(tmp_path):
    config = tiny("digits/pkt", OF_CLASSES, "stages.student.labels_per_class=5")
    built = build_stage(config, "student", RunContext(out=tmp_path))
    teacher, dataset = built.models.teacher, built.train_loader.dataset
    assert isinstance(teacher, WithClassifier)
    assert int((dataset.labels >= 0).sum()) == 50
    features = embed(teacher.model, [dataset.batch(range(len(dataset)))]).features
    expected = fit_classifier(features, dataset.labels, 10, seed=0)
    torch.testing.assert_close(teacher.classifier.weight, expected.weight, atol=1e-4, rtol=1e-3)
    again = build_stage(config, "student", RunContext(out=tmp_path)).models.teacher
    assert torch.equal(again.classifier.weight, teacher.classifier.weight)
    config, splits = unlabelled(tiny("digits/pkt", OF_CLASSES))
    for dry in (True, False):
        with pytest.raises(ValueError, match="A teacher's classifier needs labels, the data 'digits/train' has none"):
            build_stage(config, "student", RunContext(splits=splits, dry=dry))


@pytest.mark.parametrize("table", ["{}", '{kind="classifier", width=3}'])
def test_a_head_has_a_width_unless_it_is_a_classifier(table):
    with pytest.raises(ConfigError, match=r"width: expected (the outputs of the embedding|none of a classif)"):
        tiny("digits/pkt", f"stages.student.teacher_head={table}")


def test_a_head_without_labels_is_principal_components():
    config, splits = unlabelled(tiny("digits/pkt", WIDE))
    teacher = build_stage(config, "student", RunContext(splits=splits)).models.teacher
    torch.testing.assert_close(teacher.embed.weight @ teacher.embed.weight.T, torch.eye(16))
    config, _ = unlabelled(tiny("digits/pkt", "stages.student.teacher_head={width=65}"))
    for dry in (True, False):
        with pytest.raises(ValueError, match=r"head of 65 outputs needs labels: .* 64 features are at most 64\."):
            build_stage(config, "student", RunContext(splits=splits, dry=dry))


def test_a_run_extracts_once_and_resumes(tmp_path):
    config = tiny("digits/pkt", SUR, WIDE)
    finished = run(config, tmp_path)
    assert finished["student"].result.steps == 2
    files = {name: (tmp_path / name).read_bytes() for name in ("superclasses.safetensors", "teacher-head.safetensors")}
    assert not list((tmp_path / "teacher").glob("superclasses*"))
    run(config, tmp_path, resume=True)
    assert all((tmp_path / name).read_bytes() == content for name, content in files.items())


def test_a_finished_runs_teacher_has_its_head(tmp_path, caplog):
    run(tiny("digits/pkt", WIDE), tmp_path)
    teacher = finished(tmp_path).models.teacher
    assert isinstance(teacher, WithHead)
    assert torch.equal(teacher.embed.weight, load_weights(tmp_path / "teacher-head.safetensors")["weight"])
    assert "another one than that of the run" not in caplog.text


def test_nothing_is_extracted_where_only_the_fit_is_checked(monkeypatch):
    from congruence.pipeline import features as extracted

    monkeypatch.setattr(extracted, "_features", None)
    built = build_stage(tiny("digits/pkt", SUR, WIDE), "student", RunContext(dry=True))
    assert float(built.models.teacher.embed.weight.abs().sum()) == 0


def test_unlabelled_data_has_no_class_uniform_batches():
    config, splits = unlabelled(sampled(name='"class_uniform"', k=4))
    with pytest.raises(ValueError, match=r"'class_uniform' needs labels, the data 'digits/train' has none\."):
        build_stage(config, "student", RunContext(splits=splits, dry=True))


def test_a_batch_that_the_classes_cannot_fill_is_told_before_anything_is_trained(tmp_path):
    config = sampled(name='"class_uniform"', k=1)
    run(config, tmp_path / "fits")
    sampler = 'stages.student.train.sampler={name="class_uniform"}'
    config = tiny("digits/pkt", "stages.student.train.batch_size=64", sampler)
    with pytest.raises(ValueError, match="a batch of 64 with k=4 holds 16 classes, but the data has 10"):
        run(config, tmp_path / "not")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ('train.sampler={name="uniform"}', "train.sampler.name: expected one of class_uniform, superclass_uniform"),
        ('train.sampler={name="class_uniform", n=3}', "train.sampler.n: expected one of name, k, clusters, got 'n'"),
        ('train.sampler={name="class_uniform", k=0}', "train.sampler.k: expected an integer >= 1, got 0"),
        ('train.sampler={name="class_uniform", clusters=3}', "sampler.clusters: expected none with 'class_uniform'"),
        (
            'train.sampler={name="class_uniform", k=3}',
            r"batch_size: expected a multiple of the sampler's k \(3\)",
        ),
        ("teacher_head={}", "teacher_head.width: expected the outputs of the embedding, got none"),
        ("teacher_head={width=3, size=2}", "teacher_head.size: expected one of width, layer, kind, got 'size'"),
    ],
)
def test_tables_are_checked(override, line):
    with pytest.raises(ConfigError, match=line):
        tiny("digits/pkt", f"stages.student.{override}")


def test_both_need_a_teacher():
    overrides = ['stages.teacher.train.sampler={name="superclass_uniform"}', "stages.teacher.teacher_head={width=8}"]
    with pytest.raises(ConfigError) as caught:
        tiny("digits/teacher", *overrides)
    assert "teacher_head: expected none without a teacher" in str(caught.value)
    assert "train.sampler.name: expected 'class_uniform' without a teacher" in str(caught.value)


def test_ranks_have_the_same_superclasses_and_head(tmp_path):
    on_ranks(on_a_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = plan_and_head()
    for name in ("plan", "weight", "bias"):
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], alone[name])
    batches = [share["share"].view(len(alone["plan"]), -1) for share in (first, second)]
    assert torch.equal(torch.cat(batches, 1), alone["plan"])

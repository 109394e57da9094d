"""Every shipped recipe is a short diff, and trains."""

import pytest
from _harness.configs import fake, fake_cifar10, quick

from congruence.config import load_config, load_splits, run
from congruence.config.shipped import names, shipped
from congruence.methods import keys

RECIPES = names("recipes")
# Further ones of a method, beside the one that is called as its key.
VARIANTS = {"digits/" + name for name in ("cckd_mimic", "cckd_bilinear", "cckd_cur", "cckd_sur", "cckd_head")}
VARIANTS |= {"digits/fitnet_two_stage", "digits/intra_class_teacher", "cifar100/cckd_resnet14"}
# Published benchmarks on the user's own files, with the methods that their papers compare.
CLASSES = {"cifar100": 100, "svhn": 10, "tiny-imagenet": 200}
BENCHMARKS = {f"{data}/{key}" for data in CLASSES for key in ("teacher", "ce", "kd")}
BENCHMARKS |= {f"cifar100/{key}" for key in ("cckd", "kda", "perception_coherence")} | {"tiny-imagenet/kda"}


def test_one_recipe_a_method_and_dataset():
    expected = {f"{data}/{key}" for data in ("digits", "cifar10") for key in (*keys(), "teacher")}
    assert set(RECIPES) - VARIANTS - BENCHMARKS == expected
    assert set(RECIPES) >= VARIANTS | BENCHMARKS


@pytest.mark.parametrize("name", RECIPES)
def test_is_short_and_says_what_it_is(name):
    lines = shipped("recipes", name).read_text(encoding="utf8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("name", RECIPES)
def test_trains_two_steps(name, tmp_path):
    stages = load_config(name).stages
    # Full width is checked when the file is read; here it would write gigabytes of checkpoints.
    large = [key for key, stage in stages.items() if getattr(stage.student, "model", "") in ("resnet18", "resnet34")]
    narrow = [f"stages.{key}.student.options.width=8" for key in large]
    config = load_config(name, [*quick(stages), *narrow])
    if config.data.name == "cifar10":
        splits = fake_cifar10()
    elif config.data.name in CLASSES:
        splits = fake(CLASSES[config.data.name])
    else:
        splits = load_splits(config.data.model_copy(update={"train_size": 900, "validation": 20}))
    finished = run(config, tmp_path, splits=splits)
    assert list(finished) == list(config.stages)
    assert [stage.result.steps for stage in finished.values()] == [2] * len(finished)
    assert finished[config.last].result.student_file == tmp_path / "student.safetensors"

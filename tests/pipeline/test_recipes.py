"""Every shipped recipe is a short diff, and trains."""

import pytest
from _harness import layouts
from _harness.cases import OWN_KEYS
from _harness.configs import CLASSES, NARROW, fake, photographs, quick
from _harness.encoders import THIRD_PARTY, save_sentences

from congruence.config import load_config
from congruence.config.shipped import names, shipped
from congruence.data.sources.wordnet import FILES as WORDNET
from congruence.pipeline import load_splits, run

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]
RECIPES = names("recipes")
LABEL_FREE = {f"cifar10/retrieval_{key}" for key in ("pc", "pkt", "mimic", "cckd", "kda", "wasserstein", "mmd")}
DRAWINGS = ("perception_coherence", "pkt", "mimic", "cckd", "kda", "wasserstein", "mmd")
LABEL_FREE |= {f"quickdraw/{key}" for key in DRAWINGS}
# Further ones of a method, beside the one that is called as its key.
VARIANTS = {"digits/" + name for name in ("cckd_mimic", "cckd_bilinear", "cckd_cur", "cckd_sur", "cckd_head")}
VARIANTS |= {
    "digits/fitnet_two_stage",
    "digits/intra_class_teacher",
    "digits/intra_class_logits",
    "cifar10/intra_class_logits",
    "cifar10/teacher_resnet20",
    "digits/adv_mimic",
    "digits/kda_diagnostics",
    *(f"cifar100/cckd_{name}" for name in ("ce", "kd", "resnet14")),
}
# Published benchmarks on the user's own files, with the methods that their papers compare.
BENCHMARKS = {f"{data}/{key}" for data in CLASSES if data != "cifar10" for key in ("teacher", "ce", "kd")}
BENCHMARKS |= {f"cifar100/{key}" for key in ("cckd", "kda", "perception_coherence")} | {"tiny-imagenet/kda"}
BENCHMARKS |= {
    f"{data}/kda_{student}" for data in ("cifar100", "tiny-imagenet") for student in ("half", "shufflenetv2")
}
BENCHMARKS |= {f"cifar100/perception_coherence_shufflenetv{version}" for version in (1, 2)}
BENCHMARKS |= {f"cifar100/intra_class_{pair}" for pair in ("resnet", "resnet_logits", "wrn", "vgg")}
BENCHMARKS |= {f"cifar10/intra_class_{student}" for student in ("mobilenetv2", "shufflenetv2")}
BENCHMARKS |= LABEL_FREE | {"cifar10/retrieval_kd", "cifar10/retrieval_hkd", "quickdraw/teacher"}
KD2M = [f"{inner}{metric}" for inner in ("", "class_") for metric in ("wasserstein", "gaussian_wasserstein")]
KD2M += ["joint_wasserstein", "gaussian_kl"]
BENCHMARKS |= {f"svhn/{key}" for key in KD2M}
BENCHMARKS |= {f"{data}/kd2m_{key}" for data in ("cifar10", "cifar100") for key in ("ce", *KD2M)}
# The same on photographs that stay in their files, of which a test writes a small tree.
PHOTOGRAPHS = {
    "imagenet": ("teacher", "ce", "kd", "cckd"),
    "msmt17": ("teacher", "ce", "kd", "cckd", "cckd_random"),
    "faces": ("teacher", "arcface", "mimic", "mimic_arcface", "cckd", "cckd_arcface"),
    "cub200": ("teacher", "kd", "pkt", "hkd", "perception_coherence"),
}
BENCHMARKS |= {f"{folder}/{key}" for folder, keys in PHOTOGRAPHS.items() for key in keys}
# Sentences, with a small teacher and a few sentences in their place.
SENTENCES = {
    f"wordnet-sentences/{name}"
    for name in ("mimic", "cosine", "queue_relation", "relation_anchor", "transformer", "matryoshka")
}
BENCHMARKS |= SENTENCES


def sentences(root):
    """Write the files of a small WordNet and a small teacher; return what recipes are told of them."""
    save_sentences(root)
    (root / "dict").mkdir()
    for number, name in enumerate(WORDNET):
        examples = "; ".join(f'"the small model {number} sees a world {each}"' for each in range(12))
        (root / "dict" / name).write_text(f"00001740 03 n 01 entity 0 000 | a definition; {examples}\n")
    teacher = f'{{model="st:{root / "st"}", inputs={{max_length=8}}}}'
    return [
        f'data.root="{root}"',
        "data.train_size=20",
        "data.test=16",
        "stages.student.student.options.vocabulary=60",
        f"stages.student.teacher={teacher}",
    ]


def test_one_recipe_a_method():
    """Each has one on the digits; that on CIFAR-10, for its figures, may come later."""
    ones = set(RECIPES) - VARIANTS - BENCHMARKS
    expected = {data: {f"{data}/{key}" for key in (*OWN_KEYS, "teacher")} for data in ("digits", "cifar10")}
    assert {name for name in ones if name.startswith("digits/")} == expected["digits"]
    assert ones <= expected["digits"] | expected["cifar10"]
    assert set(RECIPES) >= VARIANTS | BENCHMARKS


@pytest.mark.parametrize("name", RECIPES)
def test_is_short_and_says_what_it_is(name):
    lines = shipped("recipes", name).read_text(encoding="utf8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith("# ")


# Whose terms train here in another recipe, and whose models and data with other terms.
TOLD_APART = {f"svhn/{row}" for row in KD2M[1:]} | {f"cifar100/kd2m_{row}" for row in KD2M[1:]}
TOLD_APART |= {f"quickdraw/{key}" for key in DRAWINGS[1:]} | {"faces/mimic_arcface", "cub200/pkt"}
TOLD_APART |= {"cifar100/cckd_ce", "cifar100/cckd_kd"}
TOLD_APART |= {f"{data}/{key}" for data in ("imagenet", "msmt17") for key in ("ce", "kd")}


def in_two(config):
    """A recipe's data, stages and training; and its terms."""
    values = config.model_dump(exclude={"name", "extends"})
    return values, values["stages"][config.last].pop("terms")


def test_what_does_not_train_here_is_of_parts_that_do():
    """Its terms read logits and features alone, which each model has."""
    trained = [in_two(load_config(name)) for name in RECIPES if name not in TOLD_APART]
    of_terms = [term for _, terms in trained for term in terms]
    for name in TOLD_APART:
        config = load_config(name)
        frame, terms = in_two(config)
        assert any(frame == other for other, _ in trained), name
        assert all(term in of_terms for term in terms), name
        roles = {role for term in config.stages[config.last].terms for role in term.term().needs.roles}
        assert roles <= {"logits", "features"}, name


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in TOLD_APART])
def test_trains_two_steps(name, tmp_path):
    stages = load_config(name).stages
    # Full width is checked when the file is read; here it would write gigabytes of checkpoints.
    students = {key: getattr(stage.student, "model", "") for key, stage in stages.items()}
    widths = [
        f"stages.{key}.student.options.width={NARROW[model]}" for key, model in students.items() if model in NARROW
    ]
    folder = name.split("/")[0]
    tree = []
    if folder in PHOTOGRAPHS:
        tree = [f'data.root="{tmp_path / "tree"}"', *photographs(folder, tmp_path / "tree")]
        tree += [f"stages.{key}.train.workers=0" for key in stages]
    if folder == "quickdraw":
        layouts.write_quickdraw(tmp_path / "tree", {"airplane": 20, "ant": 20, "bee": 20})
        tree = [f'data.root="{tmp_path / "tree"}"', "data.test_classes=1"]
    if name in SENTENCES:
        tree = sentences(tmp_path / "tree")
    config = load_config(name, [*quick(stages), *widths, *tree])
    if name in SENTENCES:
        splits = load_splits(config.data)
    elif folder in PHOTOGRAPHS or folder == "quickdraw":
        splits = load_splits(config.data)
        assert all(len(part) for part in splits)
    elif config.data.name in CLASSES:
        splits = fake(CLASSES[config.data.name])
    else:
        splits = load_splits(config.data.model_copy(update={"train_size": 900, "validation": 20}))
    finished = run(config, tmp_path, splits=splits)
    assert list(finished) == list(config.stages)
    assert [stage.result.steps for stage in finished.values()] == [2] * len(finished)
    students = config.stages[config.last].students()
    names = ["student"] if list(students) == ["student"] else [f"student-{name}" for name in students]
    files = list(finished[config.last].result.student_files.values())
    assert files == [tmp_path / f"{name}.safetensors" for name in names]
    assert all(file.is_file() for file in files)


@pytest.mark.parametrize("name", sorted(LABEL_FREE))
def test_no_label_reaches_the_student(name):
    config = load_config(name)
    (term,) = config.stages[config.last].terms
    needs = term.term().needs
    assert (needs.labels, needs.roles) == (False, ("features",))


TABLES = {
    "cifar100": ("cckd_ce", "cckd_kd", "cckd"),
    "imagenet": ("ce", "kd", "cckd"),
    "msmt17": ("ce", "kd", "cckd"),
    "faces": ("arcface", "mimic", "mimic_arcface", "cckd", "cckd_arcface"),
    "digits": ("ce", "kd", "cckd", "cckd_bilinear"),
    "cifar10": ("ce", "kd", "cckd"),
}


@pytest.mark.parametrize("folder", TABLES)
def test_the_rows_of_cckds_tables_differ_in_their_terms_alone(folder):
    """Or the gap between them mixes the term with the batches, the head and the weight of cross-entropy."""
    of = {name: load_config(f"{folder}/{name}").model_dump(exclude={"name", "extends"}) for name in TABLES[folder]}
    terms = {name: {t["key"]: t for t in values["stages"]["student"].pop("terms")} for name, values in of.items()}
    assert all(values == of["cckd"] for values in of.values())
    main = folder not in ("digits", "cifar10")  # α = 0
    for name, by_key in terms.items():
        if {"kd", "mimic"} & set(by_key) and "_arcface" not in name:
            assert ("ce" in by_key or "arcface" in by_key) != main
            assert all(by_key[key] == terms["cckd"][key] for key in by_key if key != "cckd")
    train = of["cckd"]["stages"]["student"]["train"]
    assert (train["sampler"] is not None) == main
    assert not main or train["sampler"]["k"] == 4


@pytest.mark.parametrize("name", ["cifar100/kda", "cifar100/kda_half", "tiny-imagenet/kda", "tiny-imagenet/kda_half"])
def test_the_published_kernel_transfer_is_the_authors(name):
    (_, kda) = load_config(name).stages["student"].terms
    given = kda.model_dump()
    assert (given["scale"], given["weight"]) == ("teacher_norm", 0.04)
    assert given.get("normalize", False) is False

"""Two steps of every row of the papers' tables, on small data of the same layout: `make papers`, and `make figures`."""

from __future__ import annotations

from pathlib import Path

import pytest
from _harness.configs import CLASSES, NARROW, fake, photographs

from congruence.bench.planfile import load_plan
from congruence.config.schema import RunConfig
from congruence.config.shipped import names
from congruence.config.tables import ModelConfig
from congruence.pipeline import load_splits, run
from congruence.training.saving.run_directory import RunDirectory

PAPERS = [name for name in names("plans") if name.startswith("paper/")]
SHALLOW = {"resnet110": "resnet20", "wrn40_2": "wrn16_2"}  # with layers of the same names
TREES = {"imagenet": "imagenet", "msmt17": "msmt17", "image-folder": "faces", "cub200": "cub200"}


def narrow(model):
    """Return a model of the zoo as narrow and as shallow as a test has it; several are a table of them."""
    if isinstance(model, dict):
        return {name: narrow(each) for name, each in model.items()}
    if model.model in SHALLOW:
        return model.model_copy(update={"model": SHALLOW[model.model]})
    if model.model not in NARROW:
        return model
    return model.model_copy(update={"options": {**model.options, "width": NARROW[model.model]}})


def small(config: RunConfig) -> RunConfig:
    """Return a configuration of two steps a stage, with narrow models and a protocol for few test samples."""
    stages = {}
    for name, stage in config.stages.items():
        train = stage.train
        size = 8 if train.sampler is None else 2 * train.sampler.k  # the small trees have few classes
        few = {"epochs": 1, "max_steps": 2, "batch_size": size, "workers": 0, "log_every": 1, "device": "cpu"}
        # On noise, with a teacher of two steps, the published rates let maps overflow.
        few["optimizer"] = train.optimizer.model_copy(update={"lr": 1e-4})
        changed = {"train": train.model_copy(update=few), "student": narrow(stage.student), "teacher_cache": None}
        if isinstance(stage.teacher, ModelConfig):  # a kept one, of other images
            changed["teacher"] = stage.teacher.model_copy(update={"unchecked": True})
        stages[name] = stage.model_copy(update=changed)
    protocol = config.protocol
    if protocol is not None and protocol.kind == "identification":
        protocol = None  # of whose people the small tree has too few
    elif protocol is not None:
        least = {"ks": protocol.ks and (1,), "sizes": protocol.sizes and (4,)}
        protocol = protocol.model_copy(update=least)
    return config.model_copy(update={"stages": stages, "protocol": protocol})


def told(settings: list[str]) -> dict[str, object]:
    """Return the keys of data among settings "data.KEY=VALUE"."""
    pairs = (each.removeprefix("data.").split("=", 1) for each in settings)
    return {key: eval(value, {}) for key, value in pairs}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return (configuration of the data, splits) of small data in the place of a configuration's."""
    made = {}

    def of(config: RunConfig):
        name = config.data.name
        if name in CLASSES:
            made.setdefault(name, fake(CLASSES[name]))
            return config, made[name]
        if name not in made:
            folder: Path = tmp_path_factory.mktemp(name)
            keys = told(photographs(TREES[name], folder)) | {"root": str(folder)}
            keys = {key: tuple(each) if isinstance(each, list) else each for key, each in keys.items()}
            told_data = config.data.model_copy(update=keys)
            made[name] = told_data, load_splits(told_data)
        told_data, splits = made[name]
        return config.model_copy(update={"data": told_data}), splits

    return of


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", PAPERS)
def test_every_row_trains_two_steps(name, data, tmp_path):
    plan = load_plan(name)
    seed = plan.seeds[0]
    failed = {}
    for cell in plan.cells():
        if cell.seed != seed:
            continue
        config, splits = data(small(cell.config))
        try:
            if cell.teacher is not None:  # trained once
                folder = tmp_path / cell.teacher_key()
                if not folder.exists():
                    run(config, folder, splits=splits, only=cell.teacher.stage)
                config = config.with_teacher(RunDirectory(folder).student_file(cell.teacher.student))
            run(config, tmp_path / cell.row, splits=splits)
        except ValueError as error:
            failed[cell.row] = str(error)
    assert failed == {}

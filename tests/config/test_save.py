"""What is written loads to an equal configuration."""

import pytest

from congruence.config import from_values, load_config, resolved_toml, write_resolved
from congruence.config.shipped import names


@pytest.mark.parametrize("name", names("recipes"))
def test_every_recipe_comes_back(name, tmp_path):
    config = load_config(name)
    write_resolved(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


def test_awkward_values_come_back(tmp_path):
    values = {
        "name": 'quotes " and \\ and \n and ü and \x7f',
        "data": {"name": "digits", "validation": 0.25},
        "stages": {
            "two": {
                "student": {"a": {"model": "resnet8", "options": {"embedding_dim": 3}}, "b": {"model": "cnn3"}},
                "teacher": {"factory": "a.b:c", "options": {"x.y": [1, {"deep": "er"}], "none": {}}},
                "terms": [
                    {"key": "pkt", "student_layer": {"features": ["l 1", "l2"]}, "eps": 1e-12},
                    {"key": "ce", "weight": 1},
                ],
                "train": {"max_steps": 7, "augment": {"pad": 1}, "schedule": {"milestones": [1, 2.5]}},
            }
        },
    }
    config = from_values(values, "here")
    path = tmp_path / "config.toml"
    write_resolved(config, path)
    assert load_config(path).model_dump() == config.model_dump()
    assert resolved_toml(load_config(path)) == path.read_text(encoding="utf8")

"""Built-in models: an explicit table, one factory a row."""

from congruence.models.zoo.entries import ZOO, ZooEntry, build, names

__all__ = ["ZOO", "ZooEntry", "build", "names"]

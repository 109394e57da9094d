"""The context that the stages of one run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from congruence import data
from congruence.data.sources.catalogue import sources
from congruence.pipeline.own_data import made_splits
from congruence.training.options import Callback
from congruence.training.saving.run_directory import RunDirectory

if TYPE_CHECKING:
    from congruence.config.references import StudentRef
    from congruence.config.tables import DataConfig


@dataclass(frozen=True)
class RunContext:
    """What a stage needs besides its configuration.


    Args:
        splits: the data, with all its labels; None: loaded as the configuration says.
        teachers: the weights of earlier stages' students. For a missing stage, the teacher has fresh weights, which is
            enough to check that everything fits.
        out: the stage's directory.
        resume: as in `FitOptions`.
        trust: whether factories may be imported.
        callbacks: as in `FitOptions`.
        dry: only check that everything fits, also for `fit`: steps that need a pass over the data are left out
            (superclasses of the teacher's features, fitting its head).
    """

    splits: data.Splits | None = None
    teachers: Mapping[StudentRef, Path] = field(default_factory=dict)
    out: Path | None = None
    resume: bool = False
    trust: bool = False
    callbacks: tuple[Callback, ...] = ()
    dry: bool = False

    @property
    def directory(self) -> RunDirectory | None:
        """The stage's directory, for the names of its files."""
        return None if self.out is None else RunDirectory(self.out)

    def loaded(self, config: DataConfig) -> data.Splits:
        """Return the data."""
        return load_splits(config, trust=self.trust) if self.splits is None else self.splits

    def with_splits(self, config: DataConfig) -> RunContext:
        """Return the context with its data loaded."""
        return replace(self, splits=self.loaded(config))


def folder_of(config: DataConfig) -> Path | None:
    """Return the folder of one's own that data are loaded from, if it is one."""
    place = Path(config.root or config.called)
    own = config.factory is None and config.name not in sources()
    return place if own and place.is_dir() else None


def load_splits(config: DataConfig, *, trust: bool = False) -> data.Splits:
    """Load the data of a configuration, with all its labels.

    Args:
        config: the table.
        trust: whether its factory may be imported.
    """
    if config.factory is not None:
        return made_splits(config.factory, config.options or {}, trust=trust)
    values = config.model_dump(exclude={"name", "labels_per_class", "factory", "options"})
    return data.load(config.called, **values)

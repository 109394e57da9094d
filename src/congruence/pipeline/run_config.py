"""The configuration of a run that is there, and the stage whose student lies in its folder."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from congruence.config.load import load_config
from congruence.training.saving.run_directory import RunDirectory

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig, StageConfig

LOG = logging.getLogger("congruence")


def configured(directory: RunDirectory) -> tuple[RunConfig | None, StageConfig | None]:
    """Return a run's configuration and stage, None without one: an earlier stage's folder lies in that of the run."""
    above = RunDirectory(directory.path.absolute().parent)
    for folder, stage in ((directory, None), (above, directory.path.absolute().name)):
        if not folder.config.is_file():
            continue
        try:
            config = load_config(folder.config)
        except ValueError as error:  # of another version
            text = "'%s' is not read, so that how its student takes the data is not known: %s"
            LOG.warning(text, folder.config, error)
            return None, None
        if stage is None or stage in config.stages:
            return config, config.stages[stage or config.last]
    return None, None

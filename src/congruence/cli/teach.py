"""`congruence teach`: train a teacher."""

from __future__ import annotations

from congruence.cli.options import Config, Metric, Out, Resume, Set, Trust


def teach(
    config: Config,
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    trust: Trust = False,
    metric: Metric = None,
) -> None:
    """Train the first stage of a configuration, the teacher; its weights are saved in the run's folder."""
    from congruence.cli.train import folder, train
    from congruence.config import load_config

    loaded = load_config(config, set_ or ())
    first = next(iter(loaded.stages))
    train(loaded, folder(out, loaded), resume=resume, trust=trust, only=first, metrics=metric or ())

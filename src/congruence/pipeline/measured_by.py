"""The protocol by which a configuration's test numbers are published, on its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from congruence import data
from congruence.data.sources.people import PEOPLE
from congruence.evaluation.protocols import Fitted, ProtocolData, ReIdentification

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig


def protocol_of(config: RunConfig, splits: data.Splits) -> Fitted | None:
    """Return the protocol that a configuration names, or that its data has by itself; None if there is none.

    Data in the layouts of re-identification, whose test part is queries without labels, is measured by that protocol.

    Raises:
        ValueError: if the protocol does not fit the data.
    """
    name = config.data.called
    asked = None if config.protocol is None else config.protocol.protocol()
    if asked is None and name in PEOPLE and len(splits.test):
        asked = ReIdentification()
    if asked is None:
        return None
    if not len(splits.test):
        raise ValueError(f"The protocol '{asked.kind}' needs test samples, and the data '{name}' has none.")
    return asked.fit(ProtocolData(splits, name, config.data.root))

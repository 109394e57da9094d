"""The protocols by which test numbers are published: `KINDS` by the names that configurations give them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from congruence.evaluation.classification import Classification
from congruence.evaluation.coherence import Coherence
from congruence.evaluation.content_based import ContentBased
from congruence.evaluation.fidelity import Fidelity
from congruence.evaluation.identification import Identification
from congruence.evaluation.open_set import OpenSet
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData
from congruence.evaluation.re_identification import ReIdentification

KINDS: Mapping[str, type[Protocol]] = MappingProxyType(
    {
        each.kind: each
        for each in (Classification, ContentBased, ReIdentification, Identification, OpenSet, Fidelity, Coherence)
    }
)

__all__ = [
    "KINDS",
    "Classification",
    "Coherence",
    "ContentBased",
    "Fidelity",
    "Fitted",
    "Identification",
    "OpenSet",
    "Protocol",
    "ProtocolData",
    "ReIdentification",
]

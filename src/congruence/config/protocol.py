"""The table of the protocol by which test numbers are published."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from congruence.config.base import Count, Table, Whole, absolute
from congruence.config.problems import Problems, expected, one_by_one
from congruence.evaluation.protocols import KINDS, Protocol

Counts = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]


class ProtocolConfig(Table):
    """What else is measured on the test part: a kind of `congruence.evaluation.protocols`, and its own settings.

    Without it only data that says so is measured by one: queries and gallery of re-identification.

    Args:
        kind: "classification", "retrieval", "re-identification", "identification", "open-set", "fidelity" or
            "coherence". Each of the other keys belongs to some kinds only.
    """

    kind: str
    ks: Counts | None = None
    query_batch: Count | None = None
    ranks: Counts | None = None
    metric: Literal["cosine", "euclidean"] | None = None
    sizes: Counts | None = None
    distractors: str | None = None
    seed: Whole | None = None
    k: Count | None = None
    dims: Counts | None = None

    _distractors = field_validator("distractors")(absolute)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(expected(KINDS, kind))
        return kind

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        own = [each.name for each in dataclasses.fields(KINDS[self.kind])]  # type: ignore[arg-type]
        listing = f"expected one of {', '.join(own)}" if own else "expected no setting"
        others = [key for key in self._given() if key not in own]
        wrong = [(key, f"{listing} for the kind '{self.kind}', got {key!r}.") for key in others]
        wrong = wrong or one_by_one(KINDS[self.kind], self._given())
        if wrong:
            raise Problems(wrong)
        return self

    def _given(self) -> dict[str, Any]:
        return self.model_dump(exclude={"kind"}, exclude_none=True)

    def protocol(self) -> Protocol:
        """Return the protocol."""
        return KINDS[self.kind](**self._given())

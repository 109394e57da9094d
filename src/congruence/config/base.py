"""What every table of a configuration file has in common: the base class `Table`, and types of single keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the file: frozen, with no keys but its own, and no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def absolute(path: str | None) -> str | None:
    """Make a path independent of the working directory."""
    return None if path is None else str(Path(path).expanduser().absolute())


def table_or(other: str, table: str) -> Discriminator:
    """Tell a table from the other thing that may be written, so that errors speak of the one that was meant."""
    return Discriminator(lambda value: table if isinstance(value, dict | Table) else other)

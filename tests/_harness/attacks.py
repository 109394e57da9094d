"""What attacks have in common: how many there are."""

from __future__ import annotations

import os

LONG = "CONGRUENCE_ATTACK"  # in the environment: as many attacks as docs/reliability.md counts


def scale() -> int:
    """How many times the attacks of `make test` are made: 1, and 50 of `make attack`."""
    return 50 if os.environ.get(LONG) else 1

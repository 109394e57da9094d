"""What a plan's files hold: lines of results, numbers of teachers, and what decided them."""

from __future__ import annotations

from congruence.core.kinds import ANY_TABLE, Kind

MADE: Kind = {"*": (str,)}
NUMBERS: Kind = {
    "name?": str,
    "found?": {"*": float},
    "diagnosed?": (ANY_TABLE,),
    "made?": (MADE,),
    "failed?": str,
    "diverged?": bool,
    "*": (float,),
}
ROW: Kind = {"method": str, "variant": str, "seed": int, **NUMBERS}
TRIAL: Kind = {**ROW, "accuracy": (float,)}

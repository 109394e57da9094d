"""Names that become folders and files: what none can be on any system, and which would be one and the same there."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LONGEST = 100  # bytes: several names, a seed and an ending fit into the 255 of a file's
_RESERVED = '<>:"/\\|?*'


def wrong(name: str) -> str:
    """Say what a name must be that it is not; "" of one that can be a folder's or file's own.

    Example:
        >>> wrong("kd-few_2.5"), wrong("../kd")
        ('', 'without any of < > : " / \\\\ | ? *')
    """
    if not name.strip() or set(name) <= {"."}:
        return "with a letter or digit"
    if set(name) & set(_RESERVED):
        return f"without any of {' '.join(_RESERVED)}"
    if not name.isprintable():
        return "of printable characters"
    if name != name.strip() or name.endswith("."):
        return "without a space or dot at its end"
    return f"of at most {LONGEST} bytes" if len(name.encode(errors="surrogatepass")) > LONGEST else ""


def twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that are one folder, also where a system does not tell cases or accents apart.

    Example:
        >>> twice(["kd", "pkt", "KD"]), twice(["kd", "pkt"])
        (('kd', 'KD'), None)
    """
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
        if folded in seen:
            return seen[folded], name
        seen[folded] = name
    return None

"""Names that become folders and files: which are invalid on some system, and which would collide there."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LONGEST = 100  # bytes: several names, a seed and a suffix fit into a file name's 255
_RESERVED = '<>:"/\\|?*'


def wrong(name: str) -> str:
    """Describe what makes a name invalid for a folder or file ("must be ..."); "" for a valid one.

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
    """Return the first two names that would be the same folder on a system that ignores case or accents.

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

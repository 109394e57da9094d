"""The sentence for a library that is not there."""

from __future__ import annotations


def not_there(library: str, error: Exception) -> ImportError:
    """Return the error to raise in place of the one that importing a library gave.

    Args:
        library: its name.
        error: what the import raised; a library that is there and broken may raise what it likes.

    Example:
        >>> not_there("lightning", ModuleNotFoundError("No module named 'lightning'", name="lightning"))
        ImportError("lightning is not there: pip install 'congruence[loops]'.")
    """
    if isinstance(error, ModuleNotFoundError) and error.name == library:
        return ImportError(f"{library} is not there: pip install 'congruence[loops]'.")
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImportError(f"{library} cannot be imported ({reason}): pip install 'congruence[loops]'.")

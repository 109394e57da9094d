"""Inputs that are made when a model asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Later:
    """A model's inputs in `Inputs` that are made when they are first asked for, and once.

    A teacher whose outputs are stored asks for none, and neither does one that is not there; to prepare an image for it
    may cost more than the student's step.

    Example:
        >>> entry = Later(lambda: print("made") or 3).then(lambda made: made + 1)
        >>> entry.made(), entry.made()
        made
        (4, 4)
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._made: Any = None

    @property
    def is_made(self) -> bool:
        """Whether the inputs have been asked for."""
        return self._make is None

    def made(self) -> Any:
        """Return the inputs."""
        if self._make is not None:
            self._made, self._make = self._make(), None
        return self._made

    def then(self, function: Callable[[Any], Any]) -> Later:
        """Return what a function makes of the inputs, later too."""
        return Later(lambda: function(self.made()))

    def to(self, *args: Any, **kwargs: Any) -> Later:
        """Return the inputs on another device, later too: other libraries move a batch by this name."""
        return self.then(lambda made: made.to(*args, **kwargs))


def entries(value: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """Return a mapping's keys and what stands under them, a `Later` as it is: `Inputs.items` would make it."""
    return dict.items(value) if isinstance(value, dict) else value.items()

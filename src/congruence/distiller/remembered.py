"""Teachers' answers to batches that come again, as those of a validation set do after every epoch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from congruence.core import rng
from congruence.core.content import tensor_bytes
from congruence.core.inputs import made
from congruence.data.loading.batches import Loader
from congruence.distiller.bindings import Binding
from congruence.distiller.distiller import Distiller
from congruence.distiller.forwards import read
from congruence.distiller.recall import Recall
from congruence.models.prepared import Prepared
from congruence.models.sharded import is_sharded
from congruence.models.teacher import Teacher
from congruence.models.weights_watch import WeightsWatch, watched

MOST = 2**29  # bytes of one teacher's answers; batches that do not fit are shown to it each time


class Remembered:
    """What the teachers of a distiller answered to the batches of one loader, in the main memory.

    A frozen teacher answers the same batch alike, so it is asked once. Batches are known by their samples if those of
    the loader are always the same, else by a hash of the inputs. A teacher is asked each time if it draws random
    numbers, or is sharded, since then all ranks must run it together. What is known is forgotten when its weights have
    changed.
    """

    def __init__(self, loader: Any = None, most: int = MOST) -> None:
        self._by_index = isinstance(loader, Loader) and not loader.varies()
        self._most = most
        self._of: dict[str, _Answers] = {}

    @contextlib.contextmanager
    def lent(self, distiller: Distiller) -> Iterator[None]:
        """Let a distiller in evaluation mode read from here within a block, in which the loader's batches are run."""
        teachers = {name: each for name, each in distiller.teachers.items() if not is_sharded(each.module)}
        for name, teacher in teachers.items():
            if name not in self._of or self._of[name].teacher is not teacher:
                self._of[name] = _Answers(teacher, distiller.examples[name], self._most, by_index=self._by_index)
            self._of[name].looked = False
        distiller.remembered = {name: self._of[name] for name in teachers}
        try:
            yield
        finally:
            distiller.remembered = {}


class _Answers:
    """Those of one teacher."""

    def __init__(self, teacher: Teacher, example: str, most: int, *, by_index: bool) -> None:
        self.teacher, self._example, self._most, self._by_index = teacher, example, most, by_index
        self.looked = False  # whether its weights are known to be those of the answers
        self._watch: WeightsWatch | None = None
        self._prepared: Prepared | None = None
        self._known: dict[tuple[bytes, str, frozenset[str]], dict[str, tuple[Tensor, torch.device]]] = {}
        self._left = 0

    def at(self, index: Tensor | None, epoch: int, bindings: Iterable[Binding]) -> Recall:
        """Return a function that answers for the samples of a batch, as `StoredTeacher.at`."""
        if not self.looked:  # here, since a validation by labels asks no teacher
            self._look()
        rows = None if index is None or not self._by_index else index.cpu().numpy().tobytes()
        return functools.partial(self._answer, rows)

    def _look(self) -> None:
        """Forget the answers of weights, or of an arithmetic, that the teacher no longer has."""
        self.looked, teacher = True, self.teacher
        watch = self._watch if teacher.prepared is self._prepared else None
        if watch is not None and not watch.changed(teacher.module, sizes=True):
            return
        self._known, self._prepared, self._watch = {}, teacher.prepared, watched(teacher.module)
        self._left = 0 if self._watch is None else self._most

    def _answer(self, rows: bytes | None, view: str, paths: set[str], inputs: Any) -> dict[str, Tensor]:
        batch = rows or content(made(inputs))
        key = batch or b"", view, frozenset(paths)
        if key not in self._known:
            before, name = rng.get_state(), self.teacher.taps.name
            values = read(name, self.teacher, made(inputs), paths, self._example)[1]
            size = sum(value.nbytes for value in values.values())
            if batch is None or size > self._left or rng.differs(before):
                return values
            self._left -= size
            self._known[key] = {path: (value.to("cpu", copy=True), value.device) for path, value in values.items()}
        # copies, the first time too: whoever writes in one changes no later epoch, and a resumed run gets the same bits
        return {path: value.to(device, copy=True) for path, (value, device) in self._known[key].items()}


def content(inputs: Any) -> bytes | None:
    """Return a hash of a model's inputs; None if there is more in them than tensors, lists, tables and plain values.

    Texts count whatever they hold: `core.content` leaves out those that may be paths.

    Example:
        >>> content(torch.ones(2)) == content(torch.ones(2)), content([torch.ones(2)]) == content(torch.ones(2))
        (True, False)
        >>> content(object()) is None
        True
    """
    digest = hashlib.sha256()
    return digest.digest() if _added(digest, inputs) else None


def _added(digest: Any, value: Any) -> bool:
    """Add a value to a hash; whether that could be done."""
    parts: list[bytes] | None = []
    below: list[Any] = []
    if isinstance(value, Tensor):
        of_tensor = tensor_bytes(value)
        parts = None if of_tensor is None else [f"{value.dtype} {list(value.shape)}".encode(), *of_tensor]
    elif isinstance(value, Mapping):
        below = [part for item in value.items() for part in item]
    elif isinstance(value, list | tuple):
        below = list(value)
    elif value is None or isinstance(value, str | int | float):
        parts = [repr(value).encode()]
    else:
        return False
    digest.update(f"{type(value).__name__} {len(below)}:".encode())
    for part in parts or ():
        digest.update(len(part).to_bytes(8, "little") + part)
    return parts is not None and all(_added(digest, part) for part in below)

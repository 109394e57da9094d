"""The identity of a plan's cell, in five short hashes: two cells for which these are equal have the same numbers.

They are stored with a cell's numbers (`made`), so that a later run can reuse them instead of training again.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import inspect
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from congruence import methods
from congruence.bench import named_models
from congruence.bench.plan import Cell
from congruence.bench.teachers import KeptTeacher, digest_of
from congruence.config.protocol import ProtocolConfig
from congruence.config.references import StudentRef
from congruence.config.schema import RunConfig, StageConfig
from congruence.config.tables import DataConfig, ModelConfig, TermConfig
from congruence.data import ImageDataset, Splits
from congruence.data.sources.people import PEOPLE
from congruence.data.sources.reid import read_sides
from congruence.methods.rows import Row
from congruence.methods.term import Term
from congruence.models import named
from congruence.pipeline.context import load_splits
from congruence.training.saving.identity import config_identity

# Raised by a commit after which the same configuration of the same methods trains to other numbers, or measures other
# ones: what the digests of `code_of` do not see (the loop, the distiller, the measures).
COURSE = 1
WORDS = {
    "settings": "configuration",
    "code": "code",
    "data": "data",
    "teacher": "teacher",
    "torch": "version of torch",
}
NO_RECORD = "no record"
NOT_TOLD = "teacher or code that cannot be told"
_PACKAGES = ("congruence.losses.", "congruence.methods.", "congruence.geometry.")
# What all methods stand on: a change there is one of `COURSE`.
_SHARED = frozenset(
    f"congruence.methods.{name}"
    for name in (
        *("catalogue", "loss_method", "method", "term"),
        *("rows", "rows_compared", "rows_founding", "rows_modern", "rows_recent"),
    )
)
_BALANCE = "congruence.distiller.balance"  # of weights that balance themselves
_CHANGES = "congruence.methods.changed_logits"  # of terms that change their logits
_PREFIXES = "congruence.methods.prefixes"  # of terms with `dims`
# What a term itself says, or what says nothing.
_NOT_OF_A_ROW = (
    *("key", "summary", "reference", "part", "function", "weight", "share"),
    *("blind", "older", "part_aliases", "year", "link"),
)
# Hyper-parameters that a row got after numbers had been kept, at the values that train as it did without them.
_YOUNGER: Mapping[str, Mapping[str, Any]] = {"ce": {"label_smoothing": 0.0, "class_weights": None}}
_YOUNGER_NEEDS = ("dense",)  # whether dense logits are read, too: of [B, C] nothing changes


class Made(dict[str, str | None]):
    """What decides a line's numbers, in a few hashes.

    Attributes:
        also: the hashes that the same code has in checkouts without some of the records of `docs/same_code.py`: lines
            may be older than a record, or be made beside it.
    """

    also: frozenset[str | None] = frozenset()


def differs(kept: Mapping[str, Any], wanted: Made) -> str:
    """Return in a word how a kept line differs from what is wanted; "" if it does not.

    Example:
        >>> wanted = Made(settings="a", code="b", data="c", teacher=None, torch="2.6.0")
        >>> differs({"accuracy_best": 0.9, "made": wanted}, wanted), differs({"accuracy_best": 0.9}, wanted)
        ('', 'no record')
        >>> differs({"made": {**wanted, "code": "other", "commit": "0123"}}, wanted)
        'code'
    """
    made = kept.get("made")
    if not isinstance(made, Mapping):
        return NO_RECORD
    right = {key: {wanted[key], *(wanted.also if key == "code" else ())} for key in WORDS}
    return next((word for key, word in WORDS.items() if key not in made or made[key] not in right[key]), "")


class Identities:
    """Computes the identities of cells and teachers; reads each dataset once.

    Args:
        trust: whether factories may be imported.
        same: records of hashes of code by those of other code that trains to the same bits (`kept.Shelf.same`).

    Example:
        >>> from congruence.bench.planfile import load_plan
        >>> cell = load_plan("demo").cells()[0]
        >>> sorted(Identities().of_cell(cell, "the hash of its teacher"))
        ['code', 'data', 'settings', 'teacher', 'torch']
    """

    def __init__(self, *, trust: bool = False, same: Sequence[Mapping[str, str]] = ()) -> None:
        self._trust, self._same = trust, same
        self._splits: dict[str, Splits] = {}
        self._data: dict[str, str | None] = {}

    def splits(self, data: DataConfig) -> Splits:
        """Return the data of a configuration, with all its labels."""
        key = _said(data)
        if key not in self._splits:
            self._splits[key] = load_splits(data, trust=self._trust)
        return self._splits[key]

    def forget_data(self) -> None:
        """Let go of the images; what was found out of them stays."""
        self._splits.clear()

    def of_cell(self, cell: Cell, teacher: str | None) -> Made | None:
        """Return what decides a cell's numbers; None if it cannot be told.

        Args:
            cell: of a plan.
            teacher: the `digest_of` of its teacher's weights, where an earlier stage makes it.
        """
        config = cell.config
        stage = config.stages[config.last]
        if isinstance(stage.teacher, ModelConfig) and stage.teacher.weights is not None:
            teacher = digest_of(Path(stage.teacher.weights))
        begins = any(getattr(model, "start_stage", None) is not None for model in stage.students().values())
        stages = config.upto(config.last).stages if begins else {config.last: stage}
        return self._made(config, stages, teacher)

    def of_teacher(self, config: RunConfig, teacher: StudentRef) -> Made | None:
        """Return what decides the numbers of an earlier stage's student; None if it cannot be told."""
        return self._made(config, config.upto(teacher.stage).stages, teacher.student)

    def of_kept(self, teacher: KeptTeacher, data: DataConfig, protocol: ProtocolConfig | None = None) -> Made:
        """Return what decides the numbers of a kept teacher on the data of a plan, by its protocol."""
        torch_version = str(torch.__version__)
        told = teacher.digest if protocol is None else _short([teacher.digest, _protocol(protocol)])
        made = Made(settings=told, code=_short([COURSE]), data=self._of(data), teacher=None)
        made |= {"torch": torch_version, "weights": teacher.digest, "kept": teacher.name}
        return made

    def _made(self, config: RunConfig, stages: Mapping[str, StageConfig], teacher: str | None) -> Made | None:
        told = settings(config, stages)
        terms = [term for stage in stages.values() for term in stage.terms]
        code = [code_of(term.key) for term in terms]
        code += [_code_from([_BALANCE])] if any(term.weight == "balanced" for term in terms) else []
        changes = {name for term in terms for name in term.term().changes}
        code += [_code_from([_CHANGES])] if changes - {"dims"} else []
        code += [_code_from([_PREFIXES])] if "dims" in changes else []
        data = self._of(config.data)
        found = [each for each in code if each is not None]
        if told is None or data is None or len(found) < len(code):
            return None
        records = [record for record in self._same if not record.keys().isdisjoint(found)]
        hashes = []
        for chosen in _subsets(records):
            known = {new: old for record in chosen for new, old in record.items()}
            hashes.append(_short([COURSE, [known.get(each, each) for each in found]]))
        *some, last = hashes
        made = Made(settings=_short(told), code=last, data=data, teacher=teacher, torch=str(torch.__version__))
        made.also = frozenset(some)
        return made

    def _of(self, data: DataConfig) -> str | None:
        """Return a hash of what data yields; None if it cannot be told."""
        key = _said(data)
        if key not in self._data:
            splits = self.splits(data)
            augment = getattr(splits.train, "augment", None)  # texts have none
            augment = augment if dataclasses.is_dataclass(augment) else None
            told = all(part.told for part in splits)
            content: list[Any] = [[part.fingerprint() for part in splits], repr(augment)]
            if data.called in PEOPLE and isinstance(splits.train, ImageDataset):  # whose queries look up a gallery
                _, gallery, *who = read_sides(data.called, data.root, splits.train)
                content += [gallery.fingerprint(), [each.tolist() for each in who]]
            self._data[key] = _short(content) if told else None
        return self._data[key]


def settings(config: RunConfig, stages: Mapping[str, StageConfig]) -> dict[str, Any] | None:
    """Return what stages are told that decides their numbers, as plain values; None if it cannot be told.

    That is code, or a model "KIND:REST" of which `named_models` does not tell.

    Paths are replaced by what lies there, and terms have the defaults of their methods.
    """
    tables: dict[str, Any] = {}
    for name, stage in stages.items():
        if isinstance(stage.teacher, dict):  # several: not worth the telling, so far
            return None
        teacher = config.teacher_of(stage) if name == config.last or isinstance(stage.teacher, ModelConfig) else None
        models = {**{f"student {key}": each for key, each in stage.students().items()}, "teacher": teacher}
        if any(model is not None and _model(model) is None for model in models.values()):
            return None
        values = stage.model_dump(mode="json", exclude_defaults=True, exclude={"student", "teacher", "terms"})
        tables[name] = {
            **values,
            "models": {key: _model(model) for key, model in models.items() if model is not None},
            "terms": [_term(term) for term in stage.terms],
            "teacher_stage": stage.teacher if isinstance(stage.teacher, str) and name != config.last else None,
        }
    labels = {"labels_per_class": config.data.labels_per_class, "split_seed": config.data.split_seed}
    published = {} if config.protocol is None else {"protocol": _protocol(config.protocol)}
    return {**config_identity({"stages": tables}), **labels, **published}


def _protocol(protocol: ProtocolConfig) -> dict[str, Any]:
    """Return what a protocol is told, of a folder what lies there."""
    told = protocol.model_dump(mode="json", exclude_none=True)
    if protocol.distractors is not None:
        folder = Path(protocol.distractors)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        told["distractors"] = _short([[str(path.relative_to(folder)), path.stat().st_size] for path in files])
    return told


def _model(model: ModelConfig) -> dict[str, Any] | None:
    if model.factory or named.split(model.model or ""):
        return named_models.told(model)
    told = model.model_dump(mode="json", exclude_defaults=True)
    told["options"] = {key: value for key, value in model.options.items() if key not in ("classes", "in_channels")}
    return told | {key: digest_of(Path(told[key])) for key in ("weights", "start") if told.get(key)}


def _term(config: TermConfig) -> dict[str, Any]:
    term, row = config.term(), methods.row(config.key)
    told = term.describe()
    usual_parts = {key: getattr(value, "__qualname__", str(value)) for key, value in row.defaults().items()}
    given = {**usual_parts, **told.pop("hyperparameters")}
    younger = _YOUNGER.get(row.key, {})
    given = {key: value for key, value in given.items() if key not in younger or str(value) != str(younger[key])}
    usual = {key: each.default for key, each in inspect.signature(Term).parameters.items()}
    values = {key: _plain(value) for key, value in told.items() if key not in usual or value != usual[key]}
    published = {"published": _plain(row.weight)} if term.balanced else {}  # of its parts among each other
    return {**values, **published, "hyperparameters": given, "row": _row(row)}


def _row(row: Row) -> dict[str, Any]:
    """Return what a row of the catalogue says beside its class, without what it leaves at a default."""
    values = _without_defaults(row, _NOT_OF_A_ROW)
    # Whether each rank computes the loss of its own samples or of all, with the same memory, changes no number.
    needs = dataclasses.replace(row.needs, scope="batch", memory=False) if row.needs.memory else row.needs
    told = _without_defaults(needs, _YOUNGER_NEEDS)
    return {**{key: _plain(value) for key, value in values.items()}, "needs": told}


def _without_defaults(value: Any, apart: Iterable[str] = ()) -> dict[str, Any]:
    fields = [each for each in dataclasses.fields(value) if each.name not in apart]
    return {each.name: getattr(value, each.name) for each in fields if getattr(value, each.name) != each.default}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    known = isinstance(value, str | int | float | bool) or value is None
    return value if known else getattr(value, "__qualname__", None) or repr(value)


@functools.cache
def code_of(key: str) -> str | None:
    """Return a hash of the code of a method: its own modules, and those of losses and geometry that they import.

    Comments, docstrings and layout do not count. None if there is no source.

    Example:
        >>> code_of("pkt") == code_of("pkt"), code_of("pkt") == code_of("kda")
        (True, False)
    """
    row = methods.row(key)
    return _code_from([row.part.__module__, row.function.__module__])


def _code_from(modules: Iterable[str]) -> str | None:
    waiting, texts = list(modules), dict[str, str]()
    while waiting:
        name = waiting.pop()
        if name in texts:
            continue
        try:
            tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        except (OSError, TypeError):  # an installed package's row without source
            return None
        texts[name] = _bare(tree)
        waiting += [module for module in _imported(tree) if module.startswith(_PACKAGES) and module not in _SHARED]
    return _short(sorted(texts.items()))


def _bare(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _imported(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            if f"{node.module}." in _PACKAGES:  # a module of a package, or what the package takes from one
                package = importlib.import_module(node.module)
                for found in (getattr(package, alias.name) for alias in node.names):
                    yield found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _subsets(records: Sequence[Mapping[str, str]]) -> Iterable[tuple[Mapping[str, str], ...]]:
    """Return every choice of records, that of all of them last."""
    return itertools.chain.from_iterable(itertools.combinations(records, count) for count in range(len(records) + 1))


def _said(data: DataConfig) -> str:
    return repr(data.model_copy(update={"labels_per_class": None}))


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]

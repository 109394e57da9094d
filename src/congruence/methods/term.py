"""A term of the objective: a method, the layers that it reads, and its weight over time."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from congruence.core import check
from congruence.methods.changes import CHANGES, changed, check_changes
from congruence.methods.method import Clock, Method
from congruence.methods.rows import Row, current_parts
from congruence.models.layouts import check_layout
from congruence.models.masks import Mask, check_mask

Layers = str | Sequence[str]
Weight = float | Mapping[str, float] | Literal["balanced", "published"]
Layout = str | Mapping[str, str | Mapping[str, str]]
Pool = Literal["cls", "mean", "none"] | None
LAYERS = "a layer's path, a list of paths, or a mapping from role to them"
_SCHEDULE = {
    "start_epoch": check.Real(low=0, closed="low", integer=True),
    "stop_epoch": check.Real(low=1, closed="low", integer=True, optional=True),
    "warmup_epochs": check.NOT_NEGATIVE,
    "decay": check.POSITIVE,
    "cosine_from": check.Real(low=0, closed="low", integer=True, optional=True),
}
# Keys of metrics.jsonl.
_COLUMNS = ("loss", "gradient_norm", "gradient_norms", "weights", "lr", "step", "epoch", "validation", "diagnostics")
# Described only if they are not the default: descriptions are compared with those of older versions.
_NEW = (*CHANGES, "cosine_from")


class Term:
    """One term of the objective.

    Its weight in epoch e is `weight · min(1, (e − start_epoch + 1)/(warmup_epochs + 1)) · decay^(e − start_epoch)`
    for start_epoch ≤ e < stop_epoch; in other epochs the term is not computed. A term of weight 0 is computed and
    logged without affecting the student at all.

    Args:
        method: a key of the catalogue (`congruence methods` lists them), or a `Method`.
        weight: None or "published" for the method's published weight; a number; a mapping with a number for each named
            part of the method's loss; or "balanced" for a factor w on the whole term, measured during training so that
            its gradient is `share` times as long as that of the anchor a, the first term whose weight is a number:
            ‖∂(w·L)/∂θ‖ = share · ‖∂(w_a·L_a)/∂θ‖ (see `congruence.distiller.Balance`).
        share: for a "balanced" weight; None for the method's default. The schedule (`start_epoch` and the arguments
            after it) multiplies it.
        name: the name under which the term is logged; the method's key by default. Two terms of one method need two
            names.
        student_layer: a path, a list of paths (shallow to deep), or a mapping from role to these; by default the input
            of the last Linear ("features") and the class logits ("logits").
        teacher_layer: the teacher's layers, given like `student_layer`.
        student: with several students, the one that this term trains; by default each of them.
        teacher: with several teachers, the one that this term learns from; by default each of them.
        layout: the meaning of the tapped tensors' dimensions, if it cannot be derived from the models' layers: one
            letter for each dimension, B for the batch, C for channels, T or N for time or tokens, H, W, and D for depth
            ("BCT", "TBC", "BHWC"). One layout for all, or by model ({"student": "BCT", "teacher": "BTC"}) or role, or
            by model and then role. It does not apply to class logits, except for methods that read dense ones (`kd`,
            `dist`, `ce`).
        mask: marks the real tokens of a padded batch, for averages over tokens [B, N, C]: the key of a mask [B, N] in
            the inputs' mapping, or its position in their tuple, with "~" in front if True marks padding
            ("~src_key_padding_mask"); or a mapping with one for each model. With dense logits, the positions that
            count, [B, T] or [B, H, W]. By default "attention_mask" if the inputs have it; False averages over all
            positions.
        pool: how tokens [B, N, C] become one feature row for each sample: "cls" takes the first token, "mean" the mean
            over an image's patches only; or a mapping with one for each model. By default the mean over all tokens.
            "none" keeps the tokens, which methods of tokens and maps read anyway; other methods raise.
        standardize: whether each sample's logits are standardised to mean 0 and deviation 1, on both sides, before the
            method compares them. This and the next two arguments are for methods of logits and can be combined.
        regions: whether to use the logits of 1, 4 and 16 regions of the last map, each compared separately.
        uncertainty: γ > 0 weights each sample by Σ_c p_c^γ, p the teacher's probabilities, so that samples on which the
            teacher is uncertain count more. See `congruence.methods.changed_logits.ChangedLogits`.
        dims: widths of Matryoshka prefixes: the loss is the mean over d in `dims` of the method's on the first d
            entries of the student's embedding, for any method of features. See `congruence.methods.prefixes.Prefixes`.
        start_epoch: the first epoch in which the term is computed.
        stop_epoch: the first epoch in which it is no longer computed; None for never.
        warmup_epochs: epochs over which the weight grows to its full value.
        decay: factor by which the weight changes from epoch to epoch.
        cosine_from: the epoch c from which the weight falls as half a cosine, ½ (1 + cos(π (e − c)/(E − c))), with E
            given by `stop_epoch` or the end of the run; None for never.
        **hyperparameters: hyper-parameters of the method.

    Raises:
        ValueError: for an unknown key or hyper-parameter, or a value out of its range.

    Example:
        >>> Term("kd", weight=0.5, temperature=2.0)
        Term('kd', weight=0.5, temperature=2.0)
        >>> Term("pkt", weight="balanced").share
        1.0
    """

    RESERVED = (
        "weight",
        "share",
        "name",
        "student_layer",
        "teacher_layer",
        "student",
        "teacher",
        "layout",
        "mask",
        "pool",
        *CHANGES,
        "start_epoch",
        "stop_epoch",
        "warmup_epochs",
        "decay",
        "cosine_from",
    )

    def __init__(
        self,
        method: str | Method,
        /,  # a hyper-parameter may have this name
        *,
        weight: Weight | None = None,
        share: float | None = None,
        name: str | None = None,
        student_layer: Layers | Mapping[str, Layers] | None = None,
        teacher_layer: Layers | Mapping[str, Layers] | None = None,
        student: str | None = None,
        teacher: str | None = None,
        layout: Layout | None = None,
        mask: Mask | Mapping[str, Mask] = None,
        pool: Pool | Mapping[str, Pool] = None,
        standardize: bool = False,
        regions: bool = False,
        uncertainty: float | None = None,
        dims: Sequence[int] | None = None,
        start_epoch: int = 0,
        stop_epoch: int | None = None,
        warmup_epochs: float = 0,
        decay: float = 1.0,
        cosine_from: int | None = None,
        **hyperparameters: Any,
    ) -> None:
        course = {"start_epoch": start_epoch, "stop_epoch": stop_epoch, "warmup_epochs": warmup_epochs, "decay": decay}
        check.hyperparameters("Term", _SCHEDULE, **course, cosine_from=cosine_from)
        check_changes({"standardize": standardize, "regions": regions, "uncertainty": uncertainty, "dims": dims})
        self.standardize, self.regions, self.uncertainty, self.dims = standardize, regions, uncertainty, dims
        self.hyperparameters = hyperparameters
        self._given = method if isinstance(method, Method) else None
        published: float | Mapping[str, float] = 1.0
        usual = 1.0
        if isinstance(method, str):
            self.key = method
            published, usual = self._row().weight, self._row().share
            self.needs = self.make().needs  # so that a bad hyper-parameter fails here, not in the first step
        elif isinstance(method, Method):
            if hyperparameters:
                names = ", ".join(f"`{key}`" for key in hyperparameters)
                raise ValueError(f"`Term`: {names} must be set on the {type(method).__name__} itself, not on the Term.")
            if self.changes:
                names = ", ".join(f"`{key}`" for key in self.changes)
                raise ValueError(f"`Term`: {names} must be left out beside a Method, which may change its own logits.")
            self.key, self.needs = type(method).__name__, method.needs
        else:
            check.fail("Term", "method", "a key of the catalogue or a Method", _kind(method))
        self.published = published
        self.weight: Any = published if weight is None or weight == "published" else weight
        if self._given is None:
            self.weight = current_parts(self._row(), self.weight)
        self.share = usual if share is None and self.balanced else share
        self.name = self.key if name is None else name
        self.student_layer, self.teacher_layer = student_layer, teacher_layer
        self.student, self.teacher = student, teacher
        self.layout, self.mask, self.pool = layout, mask, pool
        self.start_epoch, self.stop_epoch = start_epoch, stop_epoch
        self.warmup_epochs, self.decay, self.cosine_from = warmup_epochs, decay, cosine_from
        self._check()

    def _check(self) -> None:
        weights = self.weight.values() if isinstance(self.weight, Mapping) else [self.weight]
        if not self.balanced and (not weights or not all(check.Real().accepts(weight) for weight in weights)):
            wanted = "a finite number, one for each part, 'balanced' or 'published'"
            check.fail("Term", "weight", wanted, repr(self.weight))
        if self.share is not None and not self.balanced:
            check.fail("Term", "share", "left out unless weight='balanced'", repr(self.share))
        if self.balanced:
            check.hyperparameters("Term", {"share": check.POSITIVE}, share=self.share)
        self._check_parts()
        if not isinstance(self.name, str) or not self.name or "." in self.name or "/" in self.name:
            check.fail("Term", "name", "a word without '.' or '/'", repr(self.name))
        if self.name in _COLUMNS or hasattr(nn.ModuleDict(), self.name):
            check.fail("Term", "name", "a word that is not reserved", repr(self.name))
        for argument in ("student_layer", "teacher_layer"):
            layers = getattr(self, argument)
            values = layers.values() if isinstance(layers, Mapping) else [layers]
            for value in values:
                listed = isinstance(value, Sequence) and all(isinstance(path, str) for path in value) and len(value) > 0
                if not (value is None or isinstance(value, str) or listed):
                    check.fail("Term", argument, LAYERS, repr(layers))

        for layout in _leaves(self.layout):
            if layout is not None:
                check_layout("Term", "layout", layout)
        for mask in _leaves(self.mask):
            check_mask("Term", "mask", mask)
        for pool in _leaves(self.pool):
            if pool not in (None, "cls", "mean", "none"):
                check.fail("Term", "pool", "'cls', 'mean', 'none' or None", repr(pool))
        if "none" in _leaves(self.pool) and "features" in self.needs.roles:
            raise ValueError(
                f"The term '{self.name}' compares one row for each sample, but pool='none' keeps all tokens: take "
                "'mean' or 'cls', or a method of tokens (such as gram, patch_relation or minilm; fitnet compares them "
                "one by one)."
            )

    def _check_parts(self) -> None:
        """Check the names of a weight's parts, if the catalogue knows them."""
        if self._given is not None or not isinstance(self.weight, Mapping):
            return
        row = self._row()
        if isinstance(row.weight, Mapping) or not issubclass(row.part, Method):
            parts = set(row.weight) if isinstance(row.weight, Mapping) else {"loss"}
            if set(self.weight) != parts:
                wanted = " and ".join(map(repr, sorted(parts)))
                check.fail("Term", "weight", f"a number, or one for each part of '{self.key}' ({wanted})", self.weight)

    def _row(self) -> Row:
        from congruence.methods import catalogue  # imported here, since its rows import the losses

        return catalogue.row(self.key)

    @property
    def blind(self) -> bool:
        """Whether the term matches distributions regardless of the classes (see `Row`)."""
        return self._given is None and self._row().blind

    @property
    def holds_method(self) -> bool:
        """Whether the term was given a `Method` rather than a key."""
        return self._given is not None

    def make(self) -> Method:
        """Return the method: a new one for a key, the given instance otherwise."""
        if self._given is not None:
            return self._given
        return changed(lambda: self._row().make(**self.hyperparameters), self.changes)

    @property
    def changes(self) -> dict[str, Any]:
        """The changes that the term makes to logits or to the width of features, if any."""
        return {name: value for name in CHANGES if (value := getattr(self, name)) not in (False, None)}

    def for_student(self, student: str) -> Term:
        """Return this term for one of several students, with a method of its own."""
        return self._of_its_own(student=student, name=f"{self.name}:{student}")

    def for_teacher(self, teacher: str) -> Term:
        """Return this term for one of several teachers, with a method of its own."""
        return self._of_its_own(teacher=teacher, name=f"{self.name}:{teacher}")

    def _of_its_own(self, **changes: str) -> Term:
        mine = copy.copy(self)
        vars(mine).update(changes)
        mine._given = copy.deepcopy(self._given)
        return mine

    def layers(self, model: str, role: str, roles: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the paths given for a role of the student or the teacher, None for the default."""
        argument = "teacher_layer" if model == "teacher" else "student_layer"
        paths = getattr(self, argument)
        if isinstance(paths, Mapping):
            unknown = [key for key in paths if key not in roles]
            if unknown:
                check.fail("Term", argument, f"keyed by {' or '.join(map(repr, roles))}", repr(unknown[0]))
            paths = paths.get(role)
        elif role != roles[0]:
            paths = None
        if paths is None:
            return None
        return (paths,) if isinstance(paths, str) else tuple(paths)

    def layout_of(self, model: str, role: str) -> str | None:
        """Return the layout named for a role of a model, None if it is to be derived from the model's layers."""
        given: Any = self.layout
        for _ in range(2):  # by model, by role, or by model and then role
            if isinstance(given, Mapping):
                given = _entry(given, model, given.get(role))
        named = role != "logits" or self.needs.dense
        return given if named and not isinstance(given, Mapping) else None

    def mask_of(self, model: str) -> Mask:
        """Return the mask named for a model's tokens, None for the default."""
        return _entry(self.mask, model, None) if isinstance(self.mask, Mapping) else self.mask

    def pool_of(self, model: str) -> Pool:
        """Return how a model's tokens are pooled to one row for each sample."""
        return _entry(self.pool, model, None) if isinstance(self.pool, Mapping) else self.pool

    @property
    def pools(self) -> bool:
        """Whether `pool` asks for pooling, given a method that reads tokens unpooled."""
        as_they_are = {None} if {"tokens", "maps"}.isdisjoint(self.needs.roles) else {None, "none"}
        return not as_they_are.issuperset(_leaves(self.pool))

    def check_models(self, models: Sequence[str], roles: tuple[str, ...]) -> None:
        """Raise if a layout, a mask or a pool has keys that are neither models nor, for a layout, roles."""
        named = {*models, "student"}
        for argument, known in (("layout", named | {*roles}), ("mask", named), ("pool", named)):
            given = getattr(self, argument)
            for key in given if isinstance(given, Mapping) else ():
                if key not in known:
                    check.fail("Term", argument, f"keyed by {' or '.join(map(repr, sorted(known)))}", repr(key))

    @property
    def balanced(self) -> bool:
        """Whether the weight is measured while the student trains."""
        return isinstance(self.weight, str) and self.weight == "balanced"

    @property
    def watched(self) -> bool:
        """Whether the weight is 0: the term is computed and logged, but does not train anything."""
        weights = self.weight.values() if isinstance(self.weight, Mapping) else [self.weight]
        return not any(weight != 0 for weight in weights)

    def schedule(self, clock: Clock) -> float:
        """Return the schedule's factor on the weight at a point in training, 0 if the term is not computed then."""
        age = clock.epoch - self.start_epoch
        if age < 0 or (self.stop_epoch is not None and clock.epoch >= self.stop_epoch):
            return 0.0
        return min(1.0, (age + 1) / (self.warmup_epochs + 1)) * float(self.decay) ** age * self._cosine(clock)

    def _cosine(self, clock: Clock) -> float:
        if self.cosine_from is None or clock.epoch <= self.cosine_from:
            return 1.0
        end = clock.epochs if self.stop_epoch is None else self.stop_epoch
        if end is None:
            raise ValueError(
                f"The weight of the term '{self.name}' falls as a cosine to the end of the run, which is not known: "
                "give stop_epoch=, or distiller.begin_epoch a Clock with epochs=."
            )
        return 0.5 * (1 + math.cos(math.pi * (clock.epoch - self.cosine_from) / (end - self.cosine_from)))

    def given(self, part: str) -> float:
        """Return the weight of a part of the loss before the schedule; for a balanced term, its published weight."""
        weight = self.published if self.balanced else self.weight
        if isinstance(weight, Mapping):
            if part not in weight:
                parts = ", ".join(map(repr, weight))
                raise ValueError(f"`Term`: `weight` of '{self.name}' has no entry for its part '{part}', got {parts}.")
            weight = weight[part]
        return float(weight)

    def weight_of(self, part: str, clock: Clock) -> float:
        """Return the weight of a part of the loss at a point in training, if it is a number."""
        schedule = self.schedule(clock)
        return self.given(part) * schedule if schedule else 0.0

    def active(self, clock: Clock) -> bool:
        """Whether the term is computed at a point in training."""
        return self.schedule(clock) != 0

    def counts(self, clock: Clock) -> bool:
        """Whether the term is computed and trains a student at a point in training."""
        return self.active(clock) and not self.watched

    def describe(self) -> dict[str, Any]:
        """Return the term as plain values, for the run's record."""
        plain = {key: getattr(value, "__qualname__", str(value)) for key, value in self.hyperparameters.items()}
        values = {name: getattr(self, name) for name in self.RESERVED if name not in _NEW} | self.changes
        values |= {} if self.cosine_from is None else {"cosine_from": self.cosine_from}
        # Some words had another meaning once: a description without this key uses the old meaning.
        today = {} if self._given is not None or not self._row().older else {"words": "of today"}
        return {"method": self.key, **values, "hyperparameters": plain, **today}

    def __repr__(self) -> str:
        words = [repr(self.key), f"weight={self.weight}"]
        if self.name != self.key:
            words.append(f"name={self.name!r}")
        words += [f"{key}={value!r}" for key, value in {**self.changes, **self.hyperparameters}.items()]
        return f"Term({', '.join(words)})"


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value.values() for leaf in _leaves(part)] if isinstance(value, Mapping) else [value]


def _entry(given: Mapping[str, Any], model: str, otherwise: Any) -> Any:
    """Return a model's entry; the entry "student" is for any student without an entry under its own name."""
    named = given.get(model)
    if named is None and model != "teacher":
        named = given.get("student")
    return otherwise if named is None else named


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__

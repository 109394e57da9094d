"""Bindings: each term's method, bound to layers of the models and checked against the dry forward."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.inputs import TEACHER
from congruence.data.datasets.facts import DataFacts
from congruence.geometry.positions import check_positions, positions_of, rows_of_positions
from congruence.methods.method import Method, Needs, Probe
from congruence.methods.term import Pool, Term
from congruence.models.layouts import MOST, batch_sizes, check_rows, order
from congruence.models.masks import Mask, position_mask, token_mask
from congruence.models.parameters import shares_parameters
from congruence.models.projectors import rows
from congruence.models.taps import LayerError, Taps
from congruence.models.teacher import called
from congruence.models.tokens import Patches, as_maps, tokens_of
from congruence.models.untaught import is_untaught

LOG = logging.getLogger("congruence")


@dataclass(frozen=True)
class Binding:
    """A term's method and the layers it reads.

    `paths` is keyed by (model, role), with models named as the method names them; `models` maps these names to the
    distiller's. By model, `masks` names the mask that marks real tokens, and `pools` says how tokens become one row for
    each sample. `patches` gives, by (model, path), the grid in which the tokens of an image lie. `named` says whether
    the term named a layout, `second` whether the batch was the second dimension in the example.
    """

    term: str
    method: Method
    students: tuple[str, ...]
    models: Mapping[str, str]
    paths: Mapping[tuple[str, str], tuple[str, ...]]
    masks: Mapping[str, Mask] = field(default_factory=dict)
    patches: Mapping[tuple[str, str], Patches] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    named: bool = False
    second: bool = False

    def called(self, name: str) -> str:
        """Return how messages refer to one of the method's models."""
        return called(self.models[name]) if name == TEACHER else self.models[name]

    def without_teacher(self) -> Binding:
        """Return the binding restricted to the students."""
        return replace(
            self,
            models={name: model for name, model in self.models.items() if name != TEACHER},
            paths={key: paths for key, paths in self.paths.items() if key[0] != TEACHER},
        )


def for_models(
    terms: list[Term], students: tuple[str, ...], teachers: tuple[str, ...], facts: DataFacts | None
) -> list[Term]:
    """Copy terms that see one student or teacher for each of them; check names and needs."""
    expanded: list[Term] = []
    instances = [term.make() for term in terms if term.holds_method]
    if len({id(instance) for instance in instances}) < len(instances):
        raise ValueError("`Distiller`: two terms hold the same Method: give each its own.")
    for term in _of_teachers(terms, teachers):
        if term.needs.teacher and not teachers:
            raise ValueError(f"The term '{term.name}' needs a teacher, got none.")
        if term.teacher is not None and term.teacher not in teachers:
            raise ValueError(
                f"The term '{term.name}' names a teacher '{term.teacher}' that does not "
                f"exist.{check.near(term.teacher, teachers)}"
            )
        if term.teacher is not None and not term.needs.teacher:
            raise ValueError(f"The term '{term.name}' does not use a teacher: leave out teacher='{term.teacher}'.")
        if term.needs.facts and facts is None:
            raise ValueError(
                f"The term '{term.name}' needs facts of the dataset: give facts=congruence.data.facts(dataset)."
            )
        if term.student is not None and term.student not in students:
            near = check.near(term.student, students)
            raise ValueError(f"The term '{term.name}' names a student '{term.student}' that does not exist.{near}")
        if term.needs.students == "all" and term.student is not None:
            raise ValueError(f"The term '{term.name}' sees all students: leave out student='{term.student}'.")
        if term.needs.students == "all" or term.student is not None or len(students) == 1:
            expanded.append(term)
            continue
        expanded += [term.for_student(student) for student in students]
    names = [term.name for term in expanded]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two terms are called '{twice}': give one of them another name, Term(..., name=...).")
    return expanded


def _of_teachers(terms: list[Term], teachers: tuple[str, ...]) -> list[Term]:
    """Return the terms; with several teachers, a term that names none is copied for each."""
    of_each: list[Term] = []
    for term in terms:
        each = len(teachers) > 1 and term.needs.teacher and term.teacher is None
        of_each += [term.for_teacher(teacher) for teacher in teachers] if each else [term]
    return of_each


def bind(
    term: Term,
    taps: Mapping[str, Taps],
    students: tuple[str, ...],
    teachers: tuple[str, ...],
    facts: DataFacts | None,
) -> Binding:
    """Resolve a term's layers, check its needs and build its method."""
    method = term.make()
    if method._bound:
        raise ValueError(
            f"The term '{term.name}' holds a {type(method).__name__} that another distiller has built: give it a new "
            f"one."
        )
    needs = method.needs
    if needs.students == "all":
        models = {name: name for name in students}
    else:
        models = {"student": term.student or students[0]}
    if needs.teacher:
        models[TEACHER] = term.teacher or teachers[0]
    paths: dict[tuple[str, str], tuple[str, ...]] = {}
    patches: dict[tuple[str, str], Patches] = {}
    grids: dict[tuple[str, str], tuple[tuple[int, int] | None, ...]] = {}
    shapes: dict[tuple[str, str], tuple[torch.Size, ...]] = {}
    term.check_models([*models, *taps], needs.roles)
    if term.pools and "features" not in needs.roles:
        raise ValueError(
            f"The term '{term.name}' reads no features, and `pool` applies to features only: leave it out."
        )
    second = False
    logits: dict[torch.Size, torch.Size] = {}  # dense ones: by their positions, their shape
    for role in needs.roles:
        given = {name: term.layers(name, role, needs.roles) for name in models}
        for name, model in models.items():
            try:
                usual = needs.unnamed or role
                paths[name, role] = given[name] or _default(usual, given, needs, models, taps, model)
                layout, of = term.layout_of(name, role), taps[model].shapes
                layout = _require(taps[model], paths[name, role], layout, role)
                if (name, role) == (TEACHER, "logits"):
                    _warn_of_untaught(term.name, taps[model], paths[name, role])
                second |= _check_layouts(taps[model], paths[name, role], named=layout is not None)
                for path in paths[name, role] if role != "logits" else ():
                    if (found := taps[model].patches(path)) is not None:
                        patches[name, path] = found
                    if role == "features":
                        _check_pool(term.pool_of(name), taps[model], path)
                seen = [_seen(role, of[path], patches.get((name, path)), needs.dense) for path in paths[name, role]]
                logits |= {positions_of(of[path]): of[path] for path in paths[name, role] if needs.dense}
                shapes[name, role] = tuple(shape for shape, _ in seen)
                grids[name, role] = tuple(grid for _, grid in seen)
            except ValueError as error:
                raise ValueError(f"The term '{term.name}': {error}") from None
    check_positions(term.name, logits)
    try:
        modules = {name: taps[model].module("") for name, model in models.items()}
        method.build(Probe(shapes, paths, modules, _students(models), facts, grids))
    except ValueError as error:
        where = "; ".join(
            f"{name} {role} {', '.join(f'{p!r} {list(s)}' for p, s in zip(paths[name, role], sizes, strict=True))}"
            for (name, role), sizes in shapes.items()
        )
        raise ValueError(f"The term '{term.name}' does not fit these layers ({where}): {error}") from None
    for model in models.values():
        if shares_parameters(method, taps[model].module("")):
            raise ValueError(
                f"The term '{term.name}' holds a module of the {taps[model].name} as its own part, which would be "
                f"trained and saved with the term: keep a copy of what it reads there."
            )
    masks = {name: term.mask_of(name) for name in models}
    named = term.layout is not None
    pools = {name: term.pool_of(name) for name in models}
    binding = Binding(term.name, method, _students(models), models, paths, masks, patches, pools, named, second)
    _check_masks(binding, taps)
    return binding


def _require(taps: Taps, paths: tuple[str, ...], layout: str | None, role: str) -> str | None:
    """Let layers be read, and return their named layout: it says nothing of logits [B, C]."""
    try:
        taps.require(paths, layout)
    except LayerError:
        if role == "logits":
            taps.require(paths)
        if role != "logits" or any(len(taps.shapes[path]) > 2 for path in paths):
            raise
        return None
    return layout


def _check_pool(pool: Pool, taps: Taps, path: str) -> None:
    """Raise if `pool` is given for a layer that returns no tokens, or "cls" where the first token is a patch."""
    if pool is None:
        return
    shape, patches = taps.shapes[path], taps.patches(path)
    got = f"the {taps.name}'s layer '{path}' gives {list(shape)}"
    if len(shape) != 3:
        raise ValueError(f"pool={pool!r} needs tokens [batch, tokens, channels], {got}: leave it out or name a layer.")
    if pool == "cls" and patches is not None and not patches.before:
        raise ValueError(f"pool='cls' needs a token before the patches, {got}, which are all patches: take 'mean'.")


def _warn_of_untaught(term: str, taps: Taps, paths: tuple[str, ...]) -> None:
    """Warn of a teacher whose logits come from a head that no term of its own run trained."""
    for path in paths:
        heads = taps.defaults.made_of if path == taps.defaults.logits else {path}
        if heads and all(is_untaught(taps.module(head)) for head in heads):
            LOG.warning(
                "The term '%s' distils the teacher's logits '%s', but no term of the teacher's own run trained that "
                "layer.",
                term,
                path,
            )


def described(binding: Binding, taps: Mapping[str, Taps]) -> str:
    """Describe the layers that a term reads, with their shapes in the dry forward."""
    parts = []
    for (model, role), paths in binding.paths.items():
        shapes = taps[binding.models[model]].shapes
        who = binding.called(model) if model == TEACHER else model
        parts.append(f"{who} {role} " + " + ".join(f"'{path}' {list(shapes[path])}" for path in paths))
    return ", ".join(parts)


def _default(
    role: str,
    given: Mapping[str, tuple[str, ...] | None],
    needs: Needs,
    models: Mapping[str, str],
    taps: Mapping[str, Taps],
    model: str,
) -> tuple[str, ...]:
    """Return a model's default layers; for feature maps, as many as the other model has."""
    if needs.naming:
        side = TEACHER if model == models.get(TEACHER) else "student"
        raise ValueError(f"name what is read of the {taps[model].name} with {side}_layer=: {needs.naming}.")
    stages, of = needs.stages, taps[model].defaults
    if role == "logits" and needs.dense and of.logits is None and of.dense is not None:
        return (of.dense,)
    if role != "maps" or not stages:
        return (taps[model].default(role),)
    named = [len(paths) for paths in given.values() if paths]
    count = named[0] if named else min(stages, *(len(taps[each].stages) or stages for each in models.values()))
    return tuple(taps[model].stages)[-count:] or (taps[model].default(role),)


def probed_in_evaluation(students: Mapping[str, Taps], examples: Mapping[str, Any]) -> dict[str, Taps]:
    """Return taps of the students in evaluation mode, and pass what they found on to the taps for training.

    A student may return something else in evaluation: two heads in training, their mean in evaluation. A student that
    fails on its example in evaluation mode is left out.
    """
    in_evaluation = {}
    for name, taps in students.items():
        with contextlib.suppress(ValueError):
            there = Taps(taps.model, name=name)
            there.probe(examples[name], training=False)
            taps.in_evaluation, in_evaluation[name] = there.defaults, there
    return in_evaluation


def logits_paths(
    students: Mapping[str, Taps], bindings: Collection[Binding], training: Mapping[str, Taps]
) -> dict[str, str]:
    """Return for each student the layer that gives its class logits in evaluation; students without one are left out.

    This is the output, or the head that it equals. If it equals no head and is not as wide as the logits that a term
    reads, it is that term's layer. Dense logits have the layout that they have in training.
    """
    path_of: dict[str, str] = {}
    for name, taps in students.items():
        output, named = taps.defaults.logits, _logits_path(name, bindings)
        for path in (output, named):
            with contextlib.suppress(ValueError):  # a layer that does not run in evaluation
                of_map = path is not None and len(training[name].layouts.get(path, "")) > 2  # its term may name it
                taps.require([] if path is None else [path], training[name].layouts[path or ""] if of_map else None)
        shape_of = taps.shapes
        if output is not None and (
            taps.defaults.made_of or named not in shape_of or shape_of[named] == shape_of[output]
        ):
            path_of[name] = output
        elif named in shape_of:
            path_of[name] = named
    return path_of


def _logits_path(model: str, bindings: Iterable[Binding]) -> str | None:
    """Return the layer at which a term reads a model's class logits; those that compare them with labels come first."""
    candidates: list[tuple[bool, str]] = []
    for binding in bindings:
        for (name, role), paths in binding.paths.items():
            if role == "logits" and binding.models[name] == model:
                candidates.append((binding.method.needs.labels, paths[-1]))
    return max(candidates, key=lambda pair: pair[0])[1] if candidates else None


def _students(models: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in models if name != TEACHER)


def _check_layouts(taps: Taps, paths: Iterable[str], *, named: bool) -> bool:
    """Raise for layers whose layout is unknown, or whose rows are not the samples of the example.

    Returns whether any layer has the inputs' second dimension, not their first, as its rows. Nothing is assumed about
    rows [B, C]. With a named layout, the batch may be the second dimension of the inputs; if the inputs have tensors of
    several lengths, the named layout is trusted.
    """
    samples = first = batch_sizes(taps.example)
    if named:
        samples = batch_sizes(taps.example, second=True) if len(samples) == 1 else frozenset()
    second = False
    for path in paths:
        shape = taps.shapes[path]
        ways = {3: ("BCT", "BTC"), 4: ("BCHW", "BHWC")}.get(len(shape), ("BCTHW", "BTHWC"))
        way = f"name its layout, a letter a dimension, as in Term(..., layout='{ways[0]}') or layout='{ways[1]}'"
        layout = taps.layout(path, way)
        if len(layout) > 2:
            tapped = [shape[order(layout).index(axis)] for axis in range(len(shape))]
            check_rows(f"The {taps.name}'s layer '{path}'", tapped, samples, layout)
            second |= bool(samples) and shape[0] not in first
    return second


def _check_masks(binding: Binding, taps: Mapping[str, Taps]) -> None:
    """Find the masks in the example, so that a mask that does not fit is reported before the first step."""
    tokens = False
    for (name, role), paths in binding.paths.items():
        reader, usual = taps[binding.models[name]], binding.masks[name] is None
        for path in paths:
            tapped = torch.empty(reader.shapes[path], device="meta")
            real = mask_of(binding, name, role, path, tapped, reader.example, dry=True)
            if real is None and usual:
                reader.turned.check_own_mask(path, f"The term '{binding.term}'", ", or give Term(..., mask=False)")
            tokens |= tapped.dim() == 3 or (role == "logits" and tapped.dim() > 2)
    named = [mask for mask in binding.masks.values() if mask is not None and mask is not False]
    if named and not tokens:
        raise ValueError(
            f"The term '{binding.term}' names the mask {named[0]!r}, but no layer that it reads gives tokens "
            "[batch, tokens, channels] or dense logits."
        )


def mask_of(
    binding: Binding, name: str, role: str, path: str, tokens: Tensor, inputs: Any, *, dry: bool = False
) -> Tensor | None:
    """Return which of a layer's tokens [B, N, C] are real; None if all are, or the layer gives no tokens.

    With `dry` the inputs' values are read, which waits for the device, to find a mask that was not named.

    Raises:
        ValueError: for a mask that is missing, does not fit, or had to be named.
    """
    if role == "logits" and tokens.dim() < 3:
        return None
    what = f"The term '{binding.term}': the {binding.called(name)}'s layer '{path}'"
    way = (
        "name the mask with Term(..., mask=...), '~' before the name where True marks padding, or mask=False to "
        "count all positions"
    )
    find = position_mask if role == "logits" else token_mask
    mask = find(tokens, inputs, binding.masks.get(name), what, way, look=dry)
    if mask is not None and role == "maps" and not binding.method.needs.padded:
        raise ValueError(
            f"{what} gives padded tokens {list(tokens.shape)}, and {type(binding.method).__name__} would count the "
            "padding: read rows [batch, channels], use a method of features, or give Term(..., mask=False) for batches "
            "without any."
        )
    return mask


def _seen(role: str, shape: torch.Size, patches: Patches | None, dense: bool) -> tuple[torch.Size, Any]:
    """Return the shape of a role as the method sees it, and the grid of its tokens in an image."""
    tapped = torch.empty(shape, device="meta")
    if role == "features":
        return rows(tapped).shape, None
    if role == "logits" and dense and 2 < len(shape) <= MOST:
        return rows_of_positions(tapped).shape, None
    if role == "logits" and len(shape) != 2:
        way = "(kd, dist, ce and sigmoid_kd take each position of dense logits as a row)"
        raise ValueError(f"logits must be [batch, classes], got {list(shape)} from the tapped layer {way}.")
    if role == "tokens" and len(shape) < 3:
        raise ValueError(f"tokens must be [batch, tokens, channels], got {list(shape)} from the tapped layer.")
    if role == "tokens":
        tokens, grid = tokens_of(tapped, patches)
        return tokens.shape, grid
    return (shape if role == "logits" or patches is None else as_maps(tapped, patches).shape), None

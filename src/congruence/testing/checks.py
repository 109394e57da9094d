"""The checks of one process."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from congruence.core.batch import Batch
from congruence.distiller import Distiller, Output
from congruence.methods import Row, Term
from congruence.models import load_weights
from congruence.testing.case import (
    Case,
    SmallLoader,
    batches,
    changed,
    clone,
    gradients,
    require,
    same,
    small_distiller,
    small_model,
)
from congruence.training import Event, FitOptions, FitResult, OptimizerOptions, fit
from congruence.training.modes import channels_last

STOP_AT = 7  # of 8 steps in 2 epochs: the newest checkpoint is then that of step 6, within an epoch


def check_row(case: Case | Row | str) -> None:
    """Run every check of one process.

    Args:
        case: a `Case`; a row or a key if the default settings are enough.

    Raises:
        AssertionError: with the first check that failed.

    Example:
        >>> check_row("kd")
    """
    case = case if isinstance(case, Case) else Case(case)
    check_description(case)
    check_terms(case)
    check_bf16(case)
    check_channels_last(case)
    check_training(case)
    check_resume(case)
    if case.zero_at_equal:
        check_zero_at_equal(case)


def check_description(case: Case) -> None:
    """Check the row's texts, that its defaults are accepted, and that a misspelt hyper-parameter gets a suggestion."""
    entry, doc = case.entry, inspect.getdoc(case.entry.function) or ""
    require(entry.key.isidentifier() and entry.key.islower(), case, f"its key is no lower-case word: {entry.key!r}")
    require(bool(entry.summary.strip()) and "\n" not in entry.summary, case, "its summary is not one line")
    require(bool(entry.reference.strip()), case, "it has no reference")
    require("=" in doc and "Shape" in doc, case, f"the docstring of {entry.function.__name__} lacks formula or Shape")
    for parameter in inspect.signature(entry.part).parameters.values():
        # A module without a constructor of its own shows nn.Module's (*args, **kwargs), which takes nothing.
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        require(parameter.kind is parameter.KEYWORD_ONLY, case, f"`{parameter.name}` is not keyword-only")
    defaults = {name: value for name, value in entry.defaults().items() if value is not inspect.Parameter.empty}
    own = {p.name for p in inspect.signature(Term).parameters.values() if p.kind is not p.POSITIONAL_ONLY}
    clash = sorted(own & set(entry.defaults()))
    require(not clash, case, f"its hyper-parameters {clash} are names of `Term`'s own")
    entry.make(**{**defaults, **case.hyperparameters})
    for name in entry.defaults() or {"anything": None}:
        try:
            entry.make(**{**case.hyperparameters, f"{name}_": 1})
        except ValueError as error:
            require(f"`{name}_`" in str(error), case, f"its error does not name the unknown `{name}_`: {error}")
            near = not entry.defaults() or f"'{name}'" in str(error)
            require(near, case, f"its error does not offer '{name}' for `{name}_`: {error}")
        else:
            require(False, case, f"it accepts the unknown hyper-parameter `{name}_`")


def check_terms(case: Case) -> None:
    """Check that terms are finite, reproducible and independent of the batch order, and that `loss` writes no state."""
    first, second = batches(case)[:2]
    distiller = small_distiller(case).double()
    distiller.begin_epoch(0)
    before = clone(distiller.state_dict())
    _score(distiller, first, update=False)
    require(same(before, distiller.state_dict()), case, "its `loss` or `embed` writes state: `update` is for that")
    outputs = [_two_steps(case, first, second) for _ in range(2)]
    for name, value in outputs[0].terms.items():
        require(bool(torch.isfinite(value)), case, f"its term '{name}' is {value.item()}")
        require(torch.equal(value, outputs[1].terms[name]), case, f"its term '{name}' differs from run to run")
    if case.permutes:
        order = torch.tensor([3, 0, 6, 1, 7, 5, 2, 4])
        moved = _two_steps(case, first, changed(second, lambda tensor: tensor[order]))
        for name, value in outputs[0].terms.items():
            equal = torch.allclose(value, moved.terms[name], rtol=1e-6, atol=1e-12)
            require(equal, case, f"its term '{name}' changes with the order of the batch")


def check_bf16(case: Case) -> None:
    """Check that terms and gradients are finite under bfloat16 autocast."""
    distiller = small_distiller(case)
    with torch.autocast("cpu", torch.bfloat16):
        out = _score(distiller, changed(batches(case)[0], lambda t: t.float() if t.is_floating_point() else t))
    out.loss.backward()
    for name, value in out.terms.items():
        require(bool(torch.isfinite(value)), case, f"its term '{name}' is {value.item()} under bfloat16")
    for name, gradient in gradients(distiller).items():
        require(bool(torch.isfinite(gradient).all()), case, f"its gradient by {name} is not finite under bfloat16")


def check_channels_last(case: Case) -> None:
    """Check that terms and gradients are the same for maps with channels last in memory."""

    def values(last: bool) -> dict[str, Tensor]:
        distiller = small_distiller(case).double()
        with channels_last(distiller, last):
            out = _score(distiller, batches(case)[0])
            out.loss.backward()
        return {**out.terms, **gradients(distiller)}

    expected, in_channels_last = values(False), values(True)
    for name, value in expected.items():
        equal = torch.allclose(value, in_channels_last[name], rtol=1e-6, atol=1e-9)
        require(equal, case, f"'{name}' changes where maps have their channels last in memory")


def check_training(case: Case) -> None:
    """Check that a run trains students to finite weights, leaves the teacher unchanged, and saves plain students."""
    distiller = small_distiller(case)
    before = clone(distiller.students.state_dict())
    teacher = clone(distiller.teacher.module.state_dict()) if distiller.teacher else {}
    with tempfile.TemporaryDirectory() as folder:
        result = _fit(case, distiller, Path(folder) / "run")
        saved = {name: load_weights(file) for name, file in result.student_files.items()}
    for name, tensor in distiller.state_dict().items():
        finite = not isinstance(tensor, Tensor) or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
        require(finite, case, f"{name} is not finite after training")
    for name, module in distiller.students.items():
        trained = clone(module.state_dict())
        start = {key: before[f"{name}.{key}"] for key in trained}
        require(not same(start, trained), case, f"training did not move the {name}")
        plain = small_model(case, "student", 0)
        expected = sorted(plain.state_dict())
        require(sorted(saved[name]) == expected, case, f"the saved {name} has {sorted(saved[name])}, not {expected}")
        plain.load_state_dict(saved[name], strict=True)
    if distiller.teacher:
        module = distiller.teacher.module
        require(same(teacher, module.state_dict()), case, "training moved the teacher's parameters or buffers")
        require(not any(part.training for part in module.modules()), case, "the teacher was left in training mode")
        owned = {id(p) for p in distiller.parameters()} & {id(p) for p in module.parameters()}
        require(not owned, case, "the teacher's parameters are among the distiller's")


def check_resume(case: Case) -> None:
    """Check that a run interrupted within an epoch and resumed ends bit-identical to an uninterrupted one."""

    def die(event: Event) -> None:
        if event.kind == "step" and event.step == STOP_AT:
            raise _StoppedError

    whole, stopped, resumed = (small_distiller(case) for _ in range(3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = _fit(case, whole, folder / "whole")
        try:
            _fit(case, stopped, folder / "stopped", callbacks=(die,))
        except _StoppedError:
            pass
        else:
            require(False, case, f"its run was over before step {STOP_AT}")
        result = _fit(case, resumed, folder / "stopped", resume=True)
        files = [[file.read_bytes() for file in r.student_files.values()] for r in (expected, result)]
    require(same(whole.state_dict(), resumed.state_dict()), case, "a resumed run ends in other bits")
    require(expected.history == result.history, case, "a resumed run has another history")
    require(files[0] == files[1], case, "a resumed run saves another student")


def check_zero_at_equal(case: Case) -> None:
    """Check that every term is 0 for a student equal to the teacher."""
    distiller = small_distiller(case, equal=True).double().eval()
    out = _score(distiller, batches(case)[0])
    for name, value in out.terms.items():
        require(
            abs(value.item()) < 1e-7, case, f"its term '{name}' of a student equal to the teacher is {value.item()}"
        )


class _StoppedError(Exception):
    """The run dies here."""


def _fit(case: Case, distiller: Distiller, out: Path, **options: Any) -> FitResult:
    plain = OptimizerOptions(lr=0.01, weight_decay=0.0)  # decay alone would move a student
    common = FitOptions(
        epochs=2,
        out=out,
        device="cpu",
        gradient_clip=1.0,
        checkpoint_seconds=0.0,
        optimizer=plain,
        **options,
    )
    return fit(distiller, SmallLoader(case), None, common)


def _score(distiller: Distiller, batch: Batch, *, update: bool = True) -> Output:
    distiller.begin_epoch(0)
    captured = distiller.capture(batch.inputs, batch.labels, batch.index, views=batch.views)
    return distiller.score(captured, update=update)


def _two_steps(case: Case, first: Batch, second: Batch) -> Output:
    """Score two batches on a new distiller: the second meets what the first left in the method's memory."""
    distiller = small_distiller(case).double()
    _score(distiller, first)
    return _score(distiller, second)

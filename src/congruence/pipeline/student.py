"""The student of a run, ready to use."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from congruence.core import check, ranks
from congruence.core.files import damaged, write_json
from congruence.data.datasets.model_facts import ModelFacts, check_prepared, check_same_classes, forget, remember
from congruence.data.sources.load import Splits
from congruence.models import named
from congruence.models.adapters import kind_of, save_native
from congruence.models.untaught import mark_parts
from congruence.models.weights import load_into, load_weights
from congruence.training.result import FitResult
from congruence.training.saving.run_directory import RunDirectory, facts_of, untaught_of

LOG = logging.getLogger("congruence")


def write_students(directory: RunDirectory, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Write down how a run's students are built, by name."""
    write_json(directory.students, described)


def leave_best(students: Mapping[str, nn.Module], result: FitResult, out: str | Path | None = None) -> None:
    """Leave a run's students with their best epochs' weights in evaluation mode, and with what their files say.

    A student of transformers, sentence-transformers or timm is also written into a folder of its library's, beside its
    file in `out`.
    """
    for name, student in students.items():
        load_into(student, result.best_states[name], source="the best epoch")
        mark_parts(student, result.untaught.get(name, ()))
        student.eval()
    for name, file in result.student_files.items():
        facts = facts_of(file) if file.is_file() else None
        if facts is not None:
            remember(students[name], facts, file)
    for name, student in students.items() if out is not None and ranks.rank() == 0 else ():
        kind = kind_of(student)
        if kind is not None:
            folder = RunDirectory(Path(out or "")).native_folder(name, kind)
            try:
                save_native(student, folder)
            except Exception as error:  # of the library: the weights are in the student's file all the same
                LOG.warning("The student is trained, and '%s' was not written: %s", folder, check.sentence(error))


def load_student(
    run_dir: str | Path,
    factory: Callable[[], nn.Module] | None = None,
    *,
    name: str | None = None,
    last: bool = False,
    data: Any = None,
) -> nn.Module:
    """Return the student of a run with its best weights, in evaluation mode on the CPU.


    Args:
        run_dir: the run's directory.
        factory: makes the student's architecture; None for a model of the zoo or of another library ("hf:FOLDER"),
            which the run has recorded.
        name: which student, if the run had several.
        last: take the last epoch's weights instead of the best one's.
        data: the data to use it on: a dataset, a loader, or `Splits`, which is compared with its training data.

    Returns:
        A plain module of the student's class. Its attribute `trained_on` says how its images were prepared and what its
        classes are called, as in the run's model.json. With other data, `compare`, `congruence.evaluation.measure`, and
        `fit` with it as teacher, raise unless this attribute is deleted.

    Raises:
        ValueError: if there is no student, its file is damaged, the factory makes a different model, or `data` is
            prepared differently or has other classes.

    Example:
        >>> import tempfile, torch, congruence as cg
        >>> folder, student = tempfile.mkdtemp(), torch.nn.Linear(4, 2)
        >>> distiller = cg.Distiller(None, student, ["ce"], example=torch.randn(2, 4))
        >>> batches = [(torch.randn(8, 4), torch.arange(8) % 2)]
        >>> _ = cg.fit(distiller, batches, options=cg.FitOptions(epochs=1, out=folder))
        >>> cg.load_student(folder, lambda: torch.nn.Linear(4, 2))
        Linear(in_features=4, out_features=2, bias=True)
    """
    directory = RunDirectory(Path(run_dir))
    files = directory.student_files(last=last)
    if not files:
        expected = directory.student_file(last=last).name
        raise ValueError(f"There is no student in '{run_dir}' (no {expected}): has its run finished an epoch?")
    chosen = name or "student"
    if chosen not in files:
        near = check.near(chosen, files)
        check.fail("load_student", "name", f"one of {', '.join(files)}", f"{name!r}.{near}"[:-1])
    model = _made(directory, factory, chosen)
    load_into(model, load_weights(files[chosen]), source=f"'{files[chosen]}'")
    mark_parts(model, untaught_of(files[chosen]))
    facts = facts_of(files[chosen])
    if facts is None:
        forget(model)
        LOG.info("The run in '%s' has no %s: nothing to compare data with.", directory.path, directory.model.name)
    else:
        remember(model, facts, files[chosen])
    if data is not None:
        now = ModelFacts.of(data.train if isinstance(data, Splits) else data)
        check_prepared(model, now)
        check_same_classes(model, now)
    return model.eval()


def _made(directory: RunDirectory, factory: Callable[[], nn.Module] | None, name: str) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if factory is not None:
        made = factory()
        if not isinstance(made, nn.Module):
            check.fail("load_student", "factory", "a callable that returns a torch module", type(made).__name__)
        return made
    from congruence.pipeline.models import rebuild

    described, why_not = directory.described(name), ""
    own = str((described or {}).get("model")).startswith("text:")  # its folder is for sentence-transformers alone
    for kind, file in {} if own else {"hf": "config.json", "st": "modules.json"}.items():
        folder = directory.native_folder(name, kind)
        if (folder / file).is_file():  # with the run, wherever that lies now
            try:
                return named.load(f"{kind}:{folder.absolute()}", **_class_of(folder / file))
            except ValueError as error:  # of a class of the user's own, say
                why_not = f" ({check.sentence(error).rstrip('.')})"
    if described is None or described.get("model") is None:
        made_by = f" ('{described['factory']}' made it)" if described and "factory" in described else ""
        raise ValueError(
            f"The student in '{directory.path}' is not a model of the zoo{made_by}{why_not}: "
            f"give what makes it, load_student(run_dir, factory)."
        )
    if named.is_drawn(bare := described["model"].partition(".")[0]):  # its weights are the run's
        described = {**described, "model": bare}
    try:
        return rebuild(described)
    except (TypeError, KeyError, AttributeError) as error:  # options that no run wrote
        raise damaged(
            directory.students, f"it does not say how '{name}' is built ({check.sentence(error).rstrip('.')})"
        ) from None


def _class_of(config: Path) -> dict[str, Any]:
    """Return the class of a student that transformers saved, as `named.load` takes it: with whatever head it has."""
    said = json.loads(config.read_text(encoding="utf8"))
    known = isinstance(said, dict) and said.get("architectures") and not said.get("auto_map")
    return {"architecture": said["architectures"][0]} if known else {}

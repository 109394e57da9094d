"""The linear map that a run has trained from its student's embedding to its teacher's, for comparing the two."""

from __future__ import annotations

from torch import nn

from congruence.core.inputs import TEACHER
from congruence.models.fingerprint import model_fingerprint
from congruence.pipeline.any_model import run_of
from congruence.pipeline.exported_run import RunStudent, projection_of
from congruence.training.saving.run_directory import RunDirectory


def run_projection(word: str, student: nn.Module, teacher: nn.Module) -> nn.Linear | None:
    """Return the map of the run that a student's word names, where the teacher is the one that it was trained on.

    It is that of the first term which has trained one between the models' embeddings, and is read from the checkpoint
    that has the student's weights.

    Args:
        word: see `any_model`.
        student: the run's, with its weights.
        teacher: beside which it is compared.

    Returns:
        None if the word names no run, the run learnt from another teacher, or there is no such map (any more).
    """
    run = run_of(word)
    if run is None:
        return None
    path, name = run
    directory = RunDirectory(path)
    known = directory.teachers().get(TEACHER)
    if known is None or known != model_fingerprint(teacher).content:
        return None
    found = RunStudent(
        directory, name or next(iter(directory.student_files() | directory.student_files(last=True))), student, {}, None
    )
    for term in directory.terms():
        try:
            linear, layer = projection_of(found, term["name"])
        except ValueError:  # it has none, or its checkpoint is gone
            continue
        if layer is None and term.get("teacher_layer") is None:
            return linear
    return None

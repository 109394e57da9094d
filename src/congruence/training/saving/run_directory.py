"""A run directory: the names of its files, what run it holds, and the files that `fit` writes."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.files import atomic, damaged, locked, read_json, sweep, writable, write_json
from congruence.core.inputs import TEACHER
from congruence.core.kinds import Kind, fault
from congruence.data.datasets.model_facts import ModelFacts, check_same_preparation, other_classes
from congruence.models.weights import load_metadata, load_weights, save_weights
from congruence.models.weights_file import split_key, torch_content, why_not
from congruence.training.saving.checkpoint import Checkpoints, naming_write_errors
from congruence.training.saving.elastic import why_not_on_other_ranks
from congruence.training.saving.identity import check_goes_on, more_epochs
from congruence.training.saving.migrate import migrate_identity, without_younger

LOG = logging.getLogger("congruence")
IN_FILE = "model"  # the key of a student file's metadata under which the text of model.json stands
NO_FACTS = ModelFacts()
_SUFFIX = ".safetensors"
_LAST = "-last"
_ONLY = "student"  # the name of a single student
_SUMMARY: Kind = {"seconds": float, "untaught?": {"*": [str]}}
_STUDENTS: Kind = {"*": {"model?": (str,), "factory?": (str,), "options": {"*": object}}}
_IDENTITY: Kind = {"terms": [{"*": object}], "options": {"*": object}}
_OPTIONS: Kind = {"optimizer?": ({"name": str, "lr": float, "*": object},), "*": object}
_TERM: Kind = {"name": str, "method": str, "weight": object, "hyperparameters?": ({"*": object},), "*": object}
_WAIT = 10.0  # seconds to wait for another run's lock: loader workers of a killed run hold it until they notice


def facts_of(weights: str | Path) -> ModelFacts | None:
    """Return the training data facts from a student's file and the model.json next to it; None if neither has them.

    Raises:
        ValueError: if the two differ, since they then come from different runs.
    """
    path = split_key(Path(weights))[0]
    text = load_metadata(path).get(IN_FILE)
    try:
        inside = None if text is None else ModelFacts.from_dict(json.loads(text))
    except ValueError:
        raise damaged(path, f"its metadata '{IN_FILE}' is not what a run writes there") from None
    directory = RunDirectory(path.parent)
    ours = path in (*directory.student_files().values(), *directory.student_files(last=True).values())
    beside = directory.facts() if ours else None
    if inside is not None and beside is not None and inside != beside:
        raise ValueError(
            f"The file '{path}' and '{directory.model}' beside it are of different training data "
            f"({check.difference(inside.to_dict(), beside.to_dict())}): remove the one that is not of this student."
        )
    return beside if inside is None else inside


def untaught_of(weights: str | Path) -> list[str]:
    """Return the parts of a run's student that no term trained, given its file; none for files of no run."""
    path = split_key(Path(weights))[0]
    directory = RunDirectory(path.parent)
    for last in (False, True):
        for name, file in directory.student_files(last=last).items():
            if file == path:
                return list((directory.summary() or {}).get("untaught", {}).get(name, ()))
    return []


class RunDirectory:
    """The folder of one run: the only place that knows what its files are called.

    Args:
        path: path of the folder.
        writes: whether this process writes into the folder, which is then created.

    Attributes:
        identity: run.json, the identity of the run.
        metrics: metrics.jsonl.
        summary_file: summary.json, whose presence marks a finished run.
        model: model.json, how images are prepared and what the classes are called: `ModelFacts`, also stored in the
            students' files.
        config: config.toml, the resolved configuration, where one was given.
        students: students.json, how each student is rebuilt.
        teacher_cache: the folder of the teacher's cache, unless another is named.
        teacher_rows: the folder of the teacher's embeddings of the images on which students are measured.
        superclasses: the superclasses found in the teacher's features, if a sampler needs them.
        teacher_head: the embedding head fitted on a given teacher.
        tensorboard: the folder of event files.
        checkpoints: see `Checkpoints`.
    """

    # Names that a stage cannot have, because its folder would be there too.
    FOLDERS = ("checkpoints", "tensorboard", "teacher-cache", "teacher-rows")

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        self.path = writable(path) if writes else path
        self.writes = writes
        self.identity = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.config = path / "config.toml"
        self.students = path / "students.json"
        self.model = path / "model.json"
        self.superclasses = path / f"superclasses{_SUFFIX}"
        self.teacher_head = path / f"teacher-head{_SUFFIX}"
        checkpoints, self.tensorboard, self.teacher_cache, self.teacher_rows = (path / name for name in self.FOLDERS)
        self.checkpoints = Checkpoints(checkpoints)

    def student_file(self, name: str = _ONLY, *, last: bool = False) -> Path:
        """Return the file of a student: "student.safetensors", or "student-NAME.safetensors" if there are several."""
        stem = _ONLY if name == _ONLY else f"{_ONLY}-{name}"
        return self.path / f"{stem}{_LAST if last else ''}{_SUFFIX}"

    def native_folder(self, name: str, kind: str) -> Path:
        """Return a student's folder in another library's format: "student-hf", or "student-NAME-hf" of several."""
        return self.path / f"{self.student_file(name).stem}-{kind}"

    def student_files(self, *, last: bool = False) -> dict[str, Path]:
        """Return the existing student files, by the students' names."""
        end = f"{_LAST}{_SUFFIX}" if last else _SUFFIX
        files = [path for path in sorted(self.path.glob(f"{_ONLY}*{end}")) if last or not path.stem.endswith(_LAST)]
        return {path.name.removesuffix(end).removeprefix(f"{_ONLY}-"): path for path in files}

    def test_file(self, name: str = _ONLY) -> Path:
        """Return the file of a student's test numbers: "test.json", or "test-NAME.json" if there are several."""
        return self.path / ("test.json" if name == _ONLY else f"test-{name}.json")

    def open(
        self, identity: Mapping[str, Any], *, resume: bool, facts: ModelFacts | None = None, planned: bool = False
    ) -> dict[str, Any] | None:
        """Claim the folder for a run, or find that run in it; return its last checkpoint if there is one.

        Args:
            identity: the identity of the run.
            resume: whether to continue an existing run.
            facts: the facts of the current data; if other data makes it another run, the error says what differs.
            planned: whether the loader gives the same global batches on any number of ranks.

        Raises:
            ValueError: if the folder holds another run, or this run and `resume` is False, or if it cannot go on with
                this number of ranks. Nothing in it is changed.
        """
        now = json.loads(json.dumps(identity))
        before = self._recorded_identity()
        if before is None and self._begun():
            raise ValueError(
                f"The folder '{self.path}' holds checkpoints or metrics and no {self.identity.name}, which says whose "
                "they are: put it back, or choose another `out`. Nothing in it was changed."
            )
        same = self._like(now if before is None else before, identity)
        if before is None or ((before != same or not resume) and not self._begun()):
            if resume:
                LOG.info("There is no run in '%s' yet: starting it.", self.path)
            with naming_write_errors(self.identity):
                self.checkpoints.clear()
                write_json(self.identity, now)
            return None
        if before != same and not (resume and self._longer(before, same)):
            if resume and facts is not None and before.get("data") != same.get("data"):
                self.same_facts(facts, way="choose another `out`, nothing in this one was changed")
            # A difference in epochs alone would be accepted.
            longer = more_epochs(before["options"], same["options"]) and resume
            differs = check.difference(before, {**same, "options": before["options"]} if longer else same)
            raise ValueError(
                f"The folder '{self.path}' holds another run ({differs}): choose another `out`. "
                f"Nothing in it was changed."
            )
        if not resume:
            raise ValueError(
                f"The folder '{self.path}' holds this run already: resume it (resume=True, or --resume), or choose "
                f"another `out`. Nothing in it was changed."
            )
        if before.get("ranks") != now.get("ranks") and not self.summary_file.exists():
            self._on_other_ranks(before, now, planned=planned)
        was, is_now = (each.get("teacher_arithmetic") or "as it is" for each in (before, {**before, **now}))
        if was != is_now:
            text = "The run in '%s' continues with a teacher in different arithmetic (%s; it was %s)."
            LOG.warning(text, self.path, is_now, was)
        state = self.checkpoints.load()
        if state is None and self._begun():
            raise ValueError(f"The run in '{self.path}' has lost its checkpoints: choose another `out`.")
        return state

    def _on_other_ranks(self, before: Mapping[str, Any], now: Mapping[str, Any], *, planned: bool) -> None:
        whose, ranks = f"The run in '{self.path}'", (now["ranks"], before["ranks"])
        if reason := why_not_on_other_ranks(before, now, planned=planned):
            raise ValueError(
                f"{whose} cannot go on with {ranks[0]} ranks instead of {ranks[1]}: {reason}. Nothing was changed."
            )
        LOG.warning(
            "%s goes on with %d ranks instead of %d, on the same batches in the same order. Batch norms see other "
            "parts of a batch, and layers that draw random numbers draw others.",
            *(whose, *ranks),
        )

    def _longer(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Whether a run is the earlier one with more epochs; raise if its schedule does not allow more."""
        longer = more_epochs(before["options"], now["options"]) and {**before, "options": 0} == {**now, "options": 0}
        if longer:
            self._rate(before, now)
        return longer

    def _rate(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        own = next((name for name in now.get("stepped", ()) if hasattr(torch.optim.lr_scheduler, name)), None)
        way = f"load_student('{self.path}', last=True)"
        return check_goes_on(str(self.path), before["options"], now["options"], way, own=own)

    def ended(self, identity: Mapping[str, Any]) -> bool:
        """Whether the run has ended, and is not to get more epochs."""
        before = self._recorded_identity()
        return before is not None and self.summary_file.exists() and before == self._like(before, identity)

    @staticmethod
    def _like(before: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return an identity in the form that is compared with a recorded one.

        The teacher's arithmetic is left out, because it may differ between devices, and so is the number of ranks, of
        which `open` says whether it may.
        """
        now = without_younger(migrate_identity(json.loads(json.dumps(identity))), before)
        return {**now, **{key: before[key] for key in ("teacher_arithmetic", "ranks") if key in before}}

    def lengthen(self, identity: Mapping[str, Any]) -> None:
        """Record more epochs for the run that `open` has found, if it gets any, and remove the marks of its end."""
        now = json.loads(json.dumps(identity))
        before = self._recorded_identity()
        if before is None or before == self._like(before, identity):
            return
        LOG.warning("%s", self._rate(before, now))
        for path in (self.summary_file, *self.path.glob("test.json"), *self.path.glob("test-*.json")):
            path.unlink(missing_ok=True)
        write_json(self.identity, now)  # written last: until then it is an unfinished run of fewer epochs

    def _recorded_identity(self) -> dict[str, Any] | None:
        if not self.identity.exists():
            return None
        try:
            return migrate_identity(read_json(self.identity, _IDENTITY))
        # also raised for a term in a form that no version wrote
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            why = str(error).removeprefix(f"The file '{self.identity}' is damaged: ") if str(error) else "unreadable"
            raise ValueError(
                f"The file '{self.identity}' is damaged or foreign: choose another `out`. Nothing was changed. "
                f"What is wrong: {why.rstrip('.')}."
            ) from None

    def teachers(self) -> dict[str, str]:
        """Return the recorded identity of the run's teachers, by name, as far as it is known."""
        recorded = (self._recorded_identity() or {}).get("teacher")
        return recorded if isinstance(recorded, dict) else {} if recorded is None else {TEACHER: recorded}

    def terms(self) -> list[dict[str, Any]]:
        """Return the recorded arguments of the run's terms; empty without a run."""
        terms = list((self._recorded_identity() or {}).get("terms", ()))
        wrong = fault(terms, [_TERM], "terms")
        if wrong:
            raise damaged(self.identity, wrong)
        return terms

    def described(self, name: str = _ONLY) -> dict[str, Any] | None:
        """Return how a student is rebuilt; None if that was not recorded.


        Raises:
            ValueError: if that file is damaged.
        """
        return read_json(self.students, _STUDENTS).get(name) if self.students.is_file() else None

    def options(self) -> dict[str, Any]:
        """Return the recorded options of the run; empty without a run."""
        options = dict((self._recorded_identity() or {}).get("options", {}))
        wrong = fault(options, _OPTIONS, "options")
        if wrong:
            raise damaged(self.identity, wrong)
        return options

    def _begun(self) -> bool:
        """Whether the run has saved a step; the folder of a run that has not may be reused for another run."""
        return self.checkpoints.last() > 0 or (self.metrics.exists() and self.metrics.stat().st_size > 0)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run.


        Raises:
            ValueError: if the file is damaged.
        """
        return dict(read_json(self.summary_file, _SUMMARY)) if self.summary_file.exists() else None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder while a run writes into it, and remove half-written files of a killed run.


        Raises:
            ValueError: if another process holds the lock.
        """
        from filelock import Timeout

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock", wait=_WAIT))
            except Timeout:
                raise ValueError(
                    f"Another run is writing to the folder '{self.path}': choose another `out`, or wait until "
                    "it has ended. Nothing in it was changed."
                ) from None
            for folder in (self.path, self.checkpoints.folder):
                sweep(folder)
            yield

    def save_student(
        self, name: str, state: Mapping[str, Any], *, last: bool = False, facts: ModelFacts = NO_FACTS
    ) -> None:
        """Write a student's weights, with the facts of its training data in the same file and next to it.

        Parts of its state that are not tensors (extra states) go into another file.
        """
        if self.writes:
            path = self.student_file(name, last=last)
            tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            with naming_write_errors(path):
                write_json(self.model, facts.to_dict())
                save_weights(tensors, path, metadata={"format": "pt", IN_FILE: json.dumps(facts.to_dict())})
            if len(tensors) < len(state):
                with naming_write_errors(_beside(path)), atomic(_beside(path)) as file:
                    torch.save({key: value for key, value in state.items() if key not in tensors}, file)

    def bring_up_to_date(self, name: str, state: Mapping[str, Any], facts: ModelFacts) -> None:
        """Rewrite the file of a student's best weights if its facts differ from model.json or are missing."""
        if self.writes and load_metadata(self.student_file(name)).get(IN_FILE) != json.dumps(facts.to_dict()):
            self.save_student(name, state, facts=facts)

    def facts(self) -> ModelFacts | None:
        """Return the content of model.json; None for an older run without it.


        Raises:
            ValueError: if the file is damaged.
        """
        if not self.model.is_file():
            return None
        values = read_json(self.model, {"*": object})
        try:
            return ModelFacts.from_dict(values)
        except ValueError as error:
            raise damaged(self.model, f"it does not hold what a run writes there ({error})") from None

    def same_facts(self, now: ModelFacts, *, way: str | None = None) -> ModelFacts:
        """Return the facts of the data that the run was trained on, after comparing them with the current data.


        Raises:
            ValueError: if images are prepared differently, or classes have other names or another order.
        """
        before = self.facts()
        if before is None:
            if self.student_files():
                LOG.info("The run in '%s' has no %s: nothing to compare the data with.", self.path, self.model.name)
            return now
        whose = f"The run in '{self.path}'"
        way = way or f"choose another `out`, or remove {self.model.name} to continue anyway"
        check_same_preparation(before, whose, now, way)
        clause = other_classes(before, now)
        if clause is not None:
            raise ValueError(f"{whose} {clause}: give the classes their names and order from before; {way}.")
        return before

    def load_student(self, name: str) -> dict[str, Any]:
        """Return a student's best weights, as `save_student` wrote them."""
        path = self.student_file(name)
        beside = _beside(path)
        more = _plain_content(beside) if beside.exists() else {}
        return {**load_weights(path), **more}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, which marks the run as finished."""
        if self.writes:
            with naming_write_errors(self.summary_file):
                write_json(self.summary_file, summary)


def _plain_content(path: Path) -> dict[str, Any]:
    try:
        return dict(torch_content(path))
    except Exception as error:  # damaged bytes can raise anything
        raise damaged(path, why_not(error)) from None


def _beside(path: Path) -> Path:
    """Return the file for parts of a student's state that are not tensors."""
    return path.with_name(f"{path.stem}-extra.pt")

"""Runs that are killed, stopped or finished, and go on to the same bits."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from _harness.fits import constant, data, distiller, killed_stock_run, same_state, stock, stock_run, stopped_run
from _harness.runs import in_process, killed_run, run

import congruence as cg
from congruence import Term


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The plain toy's run of 3 epochs of 4 steps, never killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return (*run("plain", out), out)


def alike(first, second):
    """Assert that two results say the same, but for the time."""
    for name in ("steps", "epochs", "best_epoch", "best", "last", "history"):
        assert getattr(first, name) == getattr(second, name), name
    assert list(first.student_files) == list(second.student_files)
    for name, state in first.best_states.items():
        assert all(torch.equal(value, second.best_states[name][key]) for key, value in state.items())


@pytest.mark.parametrize("step", [0, 1, 4, 5, 12])
def test_killed_at_any_step_and_resumed(step, whole, tmp_path):
    expected, distiller, out = whole
    assert in_process(killed_run, "plain", tmp_path / "run", step, signal.SIGKILL) == -signal.SIGKILL
    result, again = run("plain", tmp_path / "run", resume=True)
    same_state(distiller, again)
    alike(expected, result)
    for name in ("metrics.jsonl", "student.safetensors", "student-last.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_stock_loader_resumes_at_the_epoch_s_end(own_generator, tmp_path, caplog):
    with caplog.at_level("INFO", "congruence"):
        expected, made, optimizer = stock_run(tmp_path / "whole", own_generator)
    assert "can be resumed only at the ends of epochs" in caplog.text
    code = in_process(killed_stock_run, tmp_path / "killed", 5, own_generator)
    assert code == -signal.SIGKILL
    torch.rand(7)
    steps = []
    result, again, other = stock_run(
        tmp_path / "killed", own_generator, resume=True, callbacks=(lambda e: steps.append((e.kind, e.step)),)
    )
    assert steps[0] == ("start", 3)
    same_state(made, again)
    alike(expected, result)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.01 * 0.5**3
    first, second = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed"))
    assert first == second


@pytest.mark.parametrize("exact", [True, False])
def test_sigterm_saves_and_exits_with_a_sentence(exact, tmp_path):
    out = tmp_path / "run"
    assert in_process(stopped_run, out, exact) == 0
    told = (tmp_path / "log.txt").read_text()
    assert f"SIGTERM at step 4: saved in '{out}': resume goes on from" in told
    assert ("from this step." in told) == exact
    assert not (out / "summary.json").exists()
    made, steps = distiller(), []
    loader = cg.data.loader(data(), batch_size=8) if exact else stock()
    options = constant(epochs=3, out=out, resume=True, callbacks=(lambda event: steps.append(event.step),))
    cg.fit(made, loader, options=options)
    assert steps[0] == (4 if exact else 3)
    other = distiller()
    cg.fit(other, cg.data.loader(data(), batch_size=8) if exact else stock(), options=constant(epochs=3))
    same_state(made, other)


def test_sigterm_without_a_directory_and_in_the_last_epoch():
    def at(step):
        return lambda event: signal.raise_signal(signal.SIGTERM) if (event.kind, event.step) == ("step", step) else None

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cg.fit(distiller(), [data().tensors] * 3, options=constant(callbacks=(at(2),)))
    assert ended.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit):
        cg.fit(distiller(), [data().tensors] * 3, options=constant(callbacks=(at(6),)))


def test_a_finished_run_is_returned_and_not_trained(whole):
    expected, distiller, out = whole
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    seen = []
    result, again = run("plain", out, resume=True, callbacks=[seen.append])
    assert seen == []
    alike(expected, result)
    assert result.seconds == expected.seconds
    assert result.student_file == out / "student.safetensors"
    same_state(distiller, again)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_resume_starts_an_absent_run(tmp_path, caplog):
    with caplog.at_level("INFO", "congruence"):
        result, _ = run("plain", tmp_path / "run", resume=True, epochs=1)
    assert result.steps == 4
    assert "There is no run in" in caplog.text


def test_what_a_run_leaves(whole):
    result, distiller, out = whole
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "checkpoints",
        "metrics.jsonl",
        "model.json",
        "run.json",
        "student-last.safetensors",
        "student.safetensors",
        "summary.json",
    ]
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["step-000000011.pt", "step-000000012.pt"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 12
    assert summary["best"] == result.best
    assert summary["last"] == result.last
    last = cg.load_student(out, lambda: torch.nn.Sequential(*distiller.student), last=True)
    assert all(torch.equal(last.state_dict()[k], v) for k, v in distiller.student_state_dict().items())


def test_resuming_with_other_parts_is_told(tmp_path):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    cg.fit(distiller("ce", "mimic"), loader, options=constant(epochs=1, out=out))
    made = distiller("ce", "mimic")
    optimizer = torch.optim.AdamW(made.parameter_groups())
    with pytest.raises(ValueError, match=r"holds another run \(its stepped is \['SGD'\], this one's \['AdamW'\]\)"):
        cg.fit(made, loader, options=constant(epochs=1, out=out, resume=True), optimizer=optimizer)
    for change, sentence in [
        ({"seed": 1}, r"its options.seed is 0, this one's 1"),
        ({"optimizer": cg.OptimizerOptions(lr=0.1)}, r"its options.optimizer.lr is 0.05, this one's 0.1"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            cg.fit(distiller("ce", "mimic"), loader, options=constant(epochs=1, out=out, resume=True, **change))
    with pytest.raises(ValueError, match=r"its data.order.seed is 0, this one's 5"):
        cg.fit(
            distiller("ce", "mimic"),
            cg.data.loader(data(), batch_size=8, seed=5),
            options=constant(epochs=1, out=out, resume=True),
        )


def test_a_checkpoint_of_other_methods_is_told(tmp_path):
    from _harness.toys import Bank

    def made(size):
        torch.manual_seed(0)
        points, facts = data().tensors[0][:4], cg.data.facts(torch.utils.data.TensorDataset(torch.zeros(size, 6)))
        parts = distiller()
        return cg.Distiller(parts.teacher.module, parts.student, ["ce", Term(Bank())], example=points, facts=facts)

    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    cg.fit(made(24), loader, options=constant(epochs=1, out=out))
    with pytest.raises(ValueError, match=r"is of other models or methods: .*size mismatch for methods.Bank.bank"):
        cg.fit(made(30), loader, options=constant(epochs=1, out=out, resume=True))


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_without_run_json_is_left_alone(tmp_path, resume):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    cg.fit(distiller(), loader, options=constant(epochs=1, out=out))
    (out / "run.json").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"holds checkpoints or metrics and no run\.json, which says whose they are"):
        cg.fit(distiller(), loader, options=constant(epochs=1, out=out, resume=resume))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_two_runs_in_one_folder(tmp_path, monkeypatch):
    from congruence.training.saving import run_directory

    monkeypatch.setattr(run_directory, "_WAIT", 0.05)
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"

    def second(event):
        if event.kind == "start":
            with pytest.raises(
                ValueError,
                match=r"Another run is writing to the folder '.*run': choose another "
                "`out`, or",
            ):
                cg.fit(distiller(), loader, options=constant(epochs=1, out=out, resume=True))

    cg.fit(distiller(), loader, options=constant(epochs=1, out=out, callbacks=(second,)))
    cg.fit(distiller(), loader, options=constant(epochs=2, out=out, resume=True))  # the lock is let go of


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    left = [out / "checkpoints/.step-000000002.pt.ab_12xyz.tmp", out / ".student.safetensors.abcdefgh.tmp"]
    mine = out / ".notes.tmp"
    for path in (*left, mine):
        path.write_bytes(b"half")
    cg.fit(distiller(), loader, options=constant(epochs=1, out=out))
    assert not any(path.exists() for path in left)
    assert mine.exists()


def test_lost_lines_of_metrics_are_told(tmp_path, caplog):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"

    def remove(event):
        if event.kind == "epoch" and event.epoch == 0:
            (out / "metrics.jsonl").unlink()

    cg.fit(distiller(), loader, options=constant(epochs=2, out=out, callbacks=(remove,)))
    (told,) = [line for line in caplog.messages if "shorter" in line]
    assert told.endswith("some of the run's earlier lines are lost.")
    caplog.clear()
    (out / "metrics.jsonl").unlink()
    cg.fit(distiller(), loader, options=constant(epochs=3, out=out, resume=True))
    assert len([line for line in caplog.messages if "metrics.jsonl' is shorter (0 bytes) than it was" in line]) == 1


@pytest.mark.parametrize("content", ['{"seconds": 1.', "[]", "3", '{"untaught": 3}'])
def test_a_damaged_summary_is_told(tmp_path, content):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    cg.fit(distiller(), loader, options=constant(epochs=1, out=out))
    (out / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=r"^The file '.*summary\.json' is damaged: it does not hold what a run writes"):
        cg.fit(distiller(), loader, options=constant(epochs=1, out=out, resume=True))


def test_lost_checkpoints_are_told(tmp_path):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    cg.fit(distiller(), loader, options=constant(epochs=1, out=out))
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="has lost its checkpoints"):
            cg.fit(distiller(), loader, options=constant(epochs=1, out=out, resume=True))
        (out / "summary.json").unlink(missing_ok=True)


def test_a_full_disk_stops_with_a_sentence_and_the_last_checkpoint_goes_on(tmp_path, monkeypatch):
    from congruence.training.saving import checkpoint

    loader, out, whole = cg.data.loader(data(), batch_size=8), tmp_path / "run", torch.save
    expected = distiller()
    cg.fit(expected, loader, options=constant())
    saved = []

    def save(state, file):
        saved.append(1)
        if len(saved) == 4:
            file.write(b"part of it")
            raise OSError(28, "No space left on device")
        whole(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    options = constant(out=out, checkpoint_seconds=0.0)
    with pytest.raises(ValueError, match=r"step-000000003.pt' could not be written: No space left on device"):
        cg.fit(distiller(), loader, options=options)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000000001.pt", "step-000000002.pt"]
    monkeypatch.undo()
    made = distiller()
    cg.fit(made, loader, options=constant(out=out, checkpoint_seconds=0.0, resume=True))
    same_state(expected, made)


def test_best_and_last_differ(tmp_path):
    values = iter([0.2, 0.9, 0.1])
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    made = distiller()
    options = constant(epochs=3, out=out, evaluate=lambda student: {"score": next(values)}, monitor="score")
    result = cg.fit(made, loader, options=options)
    assert result.best_epoch == {"student": 1}
    best = cg.load_student(out, lambda: distiller().student)
    assert all(torch.equal(value, best.state_dict()[key]) for key, value in result.best_states["student"].items())
    assert not torch.equal(best[0].weight, made.student[0].weight)


def test_one_s_own_monitor_that_is_not_there_can_be_mended(tmp_path):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    given = {"epochs": 1, "out": out, "evaluate": lambda student: {"score": 1.0}, "checkpoint_seconds": 0.0}
    with pytest.raises(ValueError, match=r"`monitor` must be one of score, got 'scoer'\. Did you mean 'score'"):
        cg.fit(distiller(), loader, options=constant(monitor="scoer", **given))
    events = []
    options = constant(monitor="score", resume=True, callbacks=(lambda e: events.append(e.kind),), **given)
    result = cg.fit(distiller(), loader, options=options)
    assert "step" not in events
    assert result.last == {"score": 1.0}


def test_a_run_that_chose_its_best_by_another_number_is_another_run(tmp_path):
    loader, out = cg.data.loader(data(), batch_size=8), tmp_path / "run"
    cg.fit(distiller(), loader, loader, constant(epochs=1, out=out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ValueError, match=r"chose its best epoch by `monitor` None, this one by 'loss': choose another"):
        cg.fit(distiller(), loader, loader, constant(epochs=1, out=out, resume=True, monitor="loss"))
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}

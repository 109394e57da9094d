"""A run that fills its teacher's cache is one that found it whole, whoever else fills it, and whatever stops either."""

from __future__ import annotations

import copy
import functools
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _harness.caches import SAMPLES, batches, filled_on_a_rank, images, net
from _harness.runs import on_ranks
from torch import nn

import congruence as cg
from congruence import Distiller, FitOptions, TeacherCache, Term
from congruence.core import rng
from congruence.teacher_cache.cache import Filling

TERMS = ["ce", "kd", "pkt"]
exact = functools.partial(FitOptions, teacher_speed="exact")


class Counted(nn.Module):
    """A teacher that counts the samples it is asked about."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x):
        self.seen.append(len(x))
        return self.inner(x)


def cell(folder, *, teacher=None, seed=3, terms=TERMS, dtype="float16", **given):
    """Return a distiller with a cache in a folder, and its loader."""
    train = batches(seed=seed, view_seed=3, **given)
    cache = TeacherCache(teacher or net(1), train, folder, dtype=dtype)
    return Distiller(cache, net(2, width=4), terms, example=images().batch([0, 1])), train


def trained(folder, *, epochs=3, options=None, **given):
    distiller, train = cell(folder, **given)
    cg.fit(distiller, train, None, exact(**{"epochs": epochs, "seed": 5, **(options or {})}))
    return distiller


def whole(folder, prepared=False, **given):
    """Make a cache in one pass, by a loop of one's own."""
    distiller, train = cell(folder, **given)
    if prepared:
        distiller.teacher.prepare()
    distiller.train()(*next(iter(train)))
    return distiller.caches["teacher"]


def same(one, other):
    states = [distiller.student_state_dict() for distiller in (one, other)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def stored(folder):
    return {path.name: np.load(path).tobytes() for path in folder.glob("*.npy")}


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    "given", [{}, {"batch_size": 50, "drop_last": True, "dtype": "float32"}, {"batch_size": 17}], ids=str
)
@pytest.mark.parametrize("speed", ["auto", "exact"])
def test_filling_gives_what_a_whole_cache_gives(tmp_path, given, speed):
    whole(tmp_path / "whole", prepared=speed == "auto", **given)
    found, filled = (
        trained(tmp_path / name, options={"teacher_speed": speed}, **given) for name in ("whole", "filled")
    )
    assert same(found, filled)
    assert filled.caches["teacher"].complete
    assert stored(tmp_path / "whole") == stored(tmp_path / "filled")
    assert "partial" not in manifest(tmp_path / "filled")
    names = sorted(path.name for path in (tmp_path / "filled").iterdir())
    assert names == [".lock", "000.npy", "001.npy", "manifest.json"]


def test_the_teacher_is_asked_once_about_each_view(tmp_path):
    teacher = Counted(net(1))
    counts = []
    note = exact(
        epochs=4, seed=5, callbacks=(lambda e: counts.append(len(teacher.seen)) if e.kind == "epoch" else None,)
    )
    distiller, train = cell(tmp_path, teacher=teacher, drop_last=True)
    cg.fit(distiller, train, None, note)
    asked = np.diff(counts).tolist()
    assert asked == [9, 2, 0]  # 9 full batches; then, once, the 12 samples that each of two epochs left out
    assert distiller.caches["teacher"].complete


def test_a_run_that_ends_before_leaves_the_rest_to_the_next(tmp_path):
    distiller = trained(tmp_path, epochs=1, drop_last=True)
    assert not distiller.caches["teacher"].complete
    assert set(manifest(tmp_path)["partial"]) == {"main:4", "main:input:4"}
    assert manifest(tmp_path)["arrays"] == {}
    assert np.load(tmp_path / "000.rows").sum() == SAMPLES // 32 * 32
    other = TeacherCache(net(1), batches(), tmp_path)
    again = Distiller(other, net(2), TERMS, example=images().batch([0, 1]))
    again(*next(iter(batches())))  # a loop of one's own makes the rest at once
    assert other.complete
    assert stored(tmp_path) == stored(whole(tmp_path / "whole").folder)


def test_nothing_is_stored_before_the_first_step_or_by_a_callback(tmp_path):
    marks = []

    def look(event):
        if event.kind == "start":
            event.distiller.caches["teacher"].filling.share()
            marks.append(int(np.load(tmp_path / "000.rows").sum()))
        if event.kind == "step" and event.step == 1:
            with rng.untouched(), torch.no_grad():
                event.distiller(torch.full((SAMPLES, 1, 6, 6), 9.0), torch.zeros(SAMPLES).long(), torch.arange(SAMPLES))

    # A last batch of one sample is rehearsed.
    looked = trained(tmp_path / "a", batch_size=SAMPLES - 1, options={"callbacks": ()})
    (tmp_path / "b").mkdir()
    distiller, train = cell(tmp_path, batch_size=SAMPLES - 1)
    cg.fit(distiller, train, None, exact(epochs=3, seed=5, callbacks=(look,)))
    assert marks == [0]
    assert stored(tmp_path) == stored(tmp_path / "a")
    assert looked.caches["teacher"].complete


class Stop(Exception):
    pass


def stops(step):
    def stop(event):
        if event.kind == "step" and event.step == step:
            raise Stop

    return (stop,)


@pytest.mark.parametrize(("step", "hard"), [(4, True), (13, True), (21, False)])
def test_killed_and_resumed_is_never_killed(tmp_path, monkeypatch, step, hard):
    never = trained(tmp_path / "cache-a", options={"out": tmp_path / "a"})
    if hard:  # as by a kill: what is not published is lost
        monkeypatch.setattr(Filling, "close", lambda self: None)
    options = {"out": tmp_path / "b", "callbacks": stops(step), "checkpoint_seconds": 0.0}
    with pytest.raises(Stop):
        trained(tmp_path / "cache-b", options=options)
    again = trained(tmp_path / "cache-b", options={"out": tmp_path / "b", "resume": True})
    assert same(never, again)
    assert stored(tmp_path / "cache-a") == stored(tmp_path / "cache-b")


def test_rows_that_were_stored_and_not_published_are_stored_again(tmp_path, monkeypatch):
    never = trained(tmp_path / "cache-a", options={"out": tmp_path / "a"})
    monkeypatch.setattr(Filling, "close", lambda self: None)
    with pytest.raises(Stop):
        trained(tmp_path / "cache-b", options={"callbacks": stops(4)})
    assert not np.load(tmp_path / "cache-b" / "000.rows").any()
    assert same(never, trained(tmp_path / "cache-b", options={"out": tmp_path / "b"}))


def test_cells_of_other_seeds_share_it_in_either_order(tmp_path):
    alone = {seed: trained(tmp_path / f"alone-{seed}", seed=seed) for seed in (3, 4)}
    for order in ((3, 4), (4, 3)):
        assert all(same(alone[seed], trained(tmp_path / f"shared-{order[0]}", seed=seed)) for seed in order)


def test_two_cells_at_the_same_time(tmp_path):
    """One runs as a whole between two steps of the other."""
    alone = {seed: trained(tmp_path / f"alone-{seed}", seed=seed) for seed in (3, 4)}
    within = []

    def other(event):
        if event.kind == "step" and event.step == 3:
            with rng.untouched():
                within.append(trained(tmp_path / "shared", seed=4))

    first = trained(tmp_path / "shared", seed=3, options={"callbacks": (other,)})
    assert same(first, alone[3])
    assert same(within[0], alone[4])
    assert stored(tmp_path / "shared") == stored(tmp_path / "alone-3")


def test_two_ranks_fill_it_together(tmp_path):
    on_ranks(filled_on_a_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items() if "1." not in name)  # batch norms
    assert stored(tmp_path / "cache") == stored(whole(tmp_path / "whole", dtype="float32").folder)


def test_what_a_term_reads_later_is_stored_with_the_rest(tmp_path):
    teacher = Counted(net(1))
    late = Term("mimic", teacher_layer="inner.1", student_layer="1", start_epoch=2)
    counts = []

    def note(event):
        if event.kind == "epoch":
            counts.append(len(teacher.seen))

    trained(tmp_path / "filled", teacher=teacher, terms=[*TERMS, late], epochs=4, options={"callbacks": (note,)})
    assert counts[1] == counts[2] == counts[3]
    assert len(manifest(tmp_path / "filled")["arrays"]) == 3


def test_a_sampler_that_repeats_and_leaves_out(tmp_path):
    class Odd:
        def batches(self, epoch):
            return [[epoch, 7, 7, 9, epoch], [9, 11]]

    def made(folder):
        return trained(folder, sampler=Odd(), batch_size=1)

    whole(tmp_path / "whole")
    assert same(made(tmp_path / "whole"), made(tmp_path / "filled"))
    assert stored(tmp_path / "whole") == stored(tmp_path / "filled")


def test_a_run_in_half_precision_stores_the_teacher_s_own_numbers(tmp_path):
    trained(tmp_path / "filled", dtype="float32", options={"precision": "bf16"})
    assert stored(tmp_path / "filled") == stored(whole(tmp_path / "whole", dtype="float32").folder)


def test_numbers_that_float16_cannot_hold_stop_the_step(tmp_path):
    teacher = net(1)
    with torch.no_grad():
        teacher[4].bias[0] = 1e6
    with pytest.raises(ValueError, match=r"The teacher's layer '4' reaches 1e\+06, .* with dtype='float32'"):
        trained(tmp_path, teacher=teacher)
    assert trained(tmp_path, teacher=teacher, dtype="float32").caches["teacher"].complete


class Scaled(nn.Module):
    """As dynamic quantisation: one scale a batch."""

    def __init__(self):
        super().__init__()
        self.inner = net(1)

    def forward(self, x):
        step = x.abs().max() / 127
        return self.inner((x / step).round() * step)


class OfBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, track_running_stats=False), nn.Linear(36, 3))

    def forward(self, x):
        return self.inner(x)


class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net(1)

    def forward(self, x):
        torch.rand(1)
        return self.inner(x)


def by_two_orders(kind, folder):
    """What the caches of two runs that see the samples in other orders hold of one teacher."""
    torch.manual_seed(0)
    teacher, found = kind(), []
    for seed in (3, 4):
        trained(folder / f"cache-{seed}", teacher=teacher, seed=seed, epochs=1, dtype="float32")
        found.append(stored(folder / f"cache-{seed}"))
    return found


@pytest.mark.parametrize("kind", [Scaled, OfBatch, Drawing])
def test_a_teacher_whose_answers_depend_on_the_batch_is_asked_in_one_order(tmp_path, caplog, kind):
    first, second = by_two_orders(kind, tmp_path)
    assert first == second
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert "depends on the other samples in its batch" in told[0].getMessage()


class ByPlace(nn.Module):
    """Gives last bits by a sample's place in the batch, as kernels of some processors do for odd widths."""

    def __init__(self):
        super().__init__()
        self.inner = net(1)

    def forward(self, x):
        output = self.inner(x)
        return output * (1 + 2e-7 * (torch.arange(len(x)) % 2)[:, None])


def test_last_bits_by_the_place_in_the_batch_are_told_as_such(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="congruence")
    first, second = by_two_orders(ByPlace, tmp_path)
    assert first == second
    assert sum("the last bits of the teacher's output" in record.getMessage() for record in caplog.records) == 2
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("seed", [1, 9], ids=["and made again", "for another"])
def test_a_cache_that_is_removed_meanwhile(tmp_path, caplog, seed):
    alone = trained(tmp_path / "alone")

    def remove(event):
        if event.kind == "step" and event.step == 4:
            for path in (tmp_path / "gone").iterdir():
                path.unlink()
            whole(tmp_path / "gone", teacher=net(seed))

    gone = trained(tmp_path / "gone", options={"callbacks": (remove,)})
    assert same(gone, alone)
    assert "was removed or replaced while this run filled it" in caplog.text
    assert stored(tmp_path / "gone") == stored(whole(tmp_path / "other", teacher=net(seed)).folder)
    assert not gone.caches["teacher"].complete


def test_the_run_after_one_whose_cache_was_removed(tmp_path):
    distiller, train = cell(tmp_path)

    def remove(event):
        if event.kind == "step" and event.step == 4:
            for path in tmp_path.iterdir():
                path.unlink()

    for callbacks in ((remove,), ()):
        cg.fit(distiller, train, None, exact(epochs=3, seed=5, callbacks=callbacks))
    assert distiller.caches["teacher"].complete


def test_a_copy_of_a_distiller_opens_the_files_anew(tmp_path):
    alone = trained(tmp_path / "alone", epochs=4)
    distiller, train = cell(tmp_path / "cache")
    copied = []

    def copies(event):
        if event.kind == "step" and event.step == 4:
            copied.append(copy.deepcopy(event.distiller))

    cg.fit(distiller, train, None, exact(epochs=4, seed=5, callbacks=(copies,)))
    copied[0].students.load_state_dict(cell(tmp_path / "cache")[0].students.state_dict())
    cg.fit(copied[0], train, None, exact(epochs=4, seed=5))
    assert same(copied[0], alone)
    assert same(distiller, alone)


def test_a_teacher_of_another_arithmetic_has_another_cache(tmp_path):
    trained(tmp_path, epochs=1)
    assert "arithmetic" not in manifest(tmp_path)["identity"]
    with pytest.raises(ValueError, match=r"its arithmetic is None, this one's .*1 batch norms folded"):
        trained(tmp_path, epochs=1, options={"teacher_speed": "auto"})


def test_a_teacher_whose_arithmetic_changes_is_not_taken_for_what_it_was(tmp_path):
    distiller, train = cell(tmp_path)
    cg.fit(distiller, train, None, exact(epochs=3))
    distiller.teacher.prepare()
    with pytest.raises(ValueError, match="its arithmetic is None"):
        distiller.train()(*next(iter(train)))


def test_images_are_prepared_for_the_teacher_only_where_it_is_asked(tmp_path, monkeypatch):
    """Not for rows that are stored, for a student alone, nor for a validation by labels or one that is remembered."""
    taken, counted, call = cg.data.ImageInput((0.4,), (0.3,)), [], cg.data.ImageInput.__call__

    def counting(self, pixels):
        counted.extend([len(pixels)] if self == taken else [])
        return call(self, pixels)

    def run(teacher, *terms, validation=None):
        """Return what was trained, and how many images were prepared for the teacher."""
        train = batches(images().for_models(teacher=taken))
        source = TeacherCache(net(1), train, teacher, dtype="float32") if isinstance(teacher, Path) else teacher
        distiller = Distiller(source, net(2, width=4), terms or TERMS, example=train.dataset.batch([0, 1]))
        counted.clear()
        cg.fit(distiller, train, validation, exact(epochs=3, seed=5))
        return distiller, sum(counted)

    monkeypatch.setattr(cg.data.ImageInput, "__call__", counting)
    first, filling = run(tmp_path / "cache")
    again, reading = run(tmp_path / "cache")
    live, asked = run(net(1))
    assert same(first, again)
    assert same(first, live)
    assert asked >= 3 * SAMPLES
    assert filling >= 2 * SAMPLES > 10 * reading
    assert run(None, "ce")[1] == 0
    held = cg.data.loader(images(7, 6).for_models(teacher=taken), batch_size=3, shuffle=False)
    assert run(tmp_path / "cache", validation=held)[1] == reading  # by labels
    without_labels = replace(images(7, 6), labels=None, classes=None).for_models(teacher=taken)
    unlabelled = cg.data.loader(without_labels, batch_size=3, shuffle=False)
    assert run(tmp_path / "cache", "kd", validation=unlabelled)[1] <= reading + 2 * 6  # rehearsed, and asked once

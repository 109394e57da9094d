"""A cached teacher is the live one; a cache is whole or absent, and never another's."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _harness.caches import CLASSES, SAMPLES, batches, build, images, net, opened
from torch import nn
from torch.utils.data import TensorDataset

import congruence as cg
from congruence import Distiller, FitOptions, TeacherCache, Term
from congruence.data import Augment, loader
from congruence.teacher_cache import cache_files, stored_rows
from congruence.teacher_cache.answers import CHUNK


def terms():
    return [Term("ce"), Term("kd"), Term("pkt", weight=10.0), Term("mimic", teacher_layer="1", student_layer="1")]


def trained(teacher, train, *, epochs=3, seed=7, **options):
    distiller = Distiller(teacher, net(seed, width=4), terms(), example=images().batch([0, 1]))
    cg.fit(distiller, train, None, FitOptions(epochs=epochs, seed=seed, **options))
    return distiller


def test_float32_cache_is_the_live_teacher(tmp_path):
    train = batches()
    live = trained(net(1), train).student_state_dict()
    cached = trained(TeacherCache(net(1), train, tmp_path, dtype="float32"), train).student_state_dict()
    for name, value in live.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-4, atol=1e-6)


def test_every_stored_number_is_that_of_a_full_chunk_bit_for_bit(tmp_path):
    train, teacher = batches(), net(1)
    cache = TeacherCache(teacher, train, tmp_path, dtype="float32")
    distiller = Distiller(cache, net(2), ["kd"], example=images().batch([0, 1]))
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))
    for epoch in (0, 1, 5):
        recall = cache.at(order, epoch, distiller.bindings.values())
        got = recall("main", {"4"}, None)["4"]
        inputs = train.dataset.batch(torch.arange(SAMPLES), epoch=epoch % 2, seed=3, augment=Augment(pad=1))
        with torch.no_grad():
            full = inputs[torch.arange(-(-SAMPLES // CHUNK) * CHUNK) % SAMPLES]  # whoever fills up the last one
            expected = torch.cat([teacher(chunk) for chunk in full.split(CHUNK)])
        assert torch.equal(got, expected[order])
    assert not torch.equal(
        *(cache.at(order, epoch, distiller.bindings.values())("main", {"4"}, None)["4"] for epoch in (0, 1))
    )


def test_float16_rounds_to_three_digits_and_halves_the_files(tmp_path):
    sizes = {}
    for dtype in ("float16", "float32"):
        train = batches()
        cache = TeacherCache(net(1), train, tmp_path / dtype, dtype=dtype)
        distiller = Distiller(cache, net(2), ["kd"], example=images().batch([0, 1]))
        sizes[dtype] = cache.at(torch.arange(9), 1, distiller.bindings.values())("main", {"4"}, None)["4"]
    assert sizes["float16"].dtype == torch.float32
    torch.testing.assert_close(sizes["float16"], sizes["float32"], rtol=6e-4, atol=1e-6)
    small, large = ((tmp_path / dtype / "000.npy").stat().st_size - 128 for dtype in ("float16", "float32"))
    assert (small, large) == (2 * SAMPLES * CLASSES * 2, 2 * SAMPLES * CLASSES * 4)


def test_the_teacher_does_not_run_in_training_and_runs_in_validation(tmp_path):
    train, teacher, calls = batches(), net(1), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    distiller = Distiller(TeacherCache(teacher, train, tmp_path), net(2), terms(), example=images().batch([0, 1]))
    inputs, labels, index = next(iter(train))
    distiller(inputs, labels, index)
    made = len(calls)
    distiller(inputs, labels, index)
    assert len(calls) == made
    assert distiller(inputs, labels, index).teacher is None
    assert distiller.eval()(inputs, labels, index).teacher.shape == (32, CLASSES)
    assert len(calls) == made + 1


def test_a_second_run_reads_what_the_first_made_and_adds_its_layers(tmp_path, caplog):
    train = batches()
    with caplog.at_level(logging.INFO, logger="congruence"):
        for keys, passes in ((["kd"], 1), (["kd"], 1), (["kd", "pkt"], 2), (["pkt"], 2)):
            distiller = Distiller(TeacherCache(net(1), train, tmp_path), net(2), keys, example=images().batch([0, 1]))
            distiller(*next(iter(train)))
            assert sum("runs on 300 images in 2 views" in line for line in caplog.messages) == passes
    assert any(f"'{tmp_path}': 0.0 MB" in line for line in caplog.messages)
    assert len(json.loads((tmp_path / "manifest.json").read_text())["arrays"]) == 2


def test_two_views_are_stored_apart(tmp_path):
    class Compare(cg.Method):
        needs = cg.Needs(roles=("logits",), views=("main", "strong"), scope="sample")

        def loss(self, signals):
            ours, theirs = (signals.one("teacher", "logits", view) for view in self.needs.views)
            return {"loss": (ours - theirs).square().mean() + 0 * signals.one("student", "logits").sum()}

    train = batches(views=("main", "strong"))
    values = []
    for teacher in (net(1), TeacherCache(net(1), train, tmp_path, dtype="float32")):
        distiller = Distiller(teacher, net(2), [Term(Compare())], example=images().batch([0, 1]))
        batch = next(train.batches(1))
        distiller.begin_epoch(1)
        out = distiller(batch["inputs"], batch["labels"], batch["index"], views=batch["views"])
        values.append(out.loss.item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] > 0.01


def test_without_augmentation_one_view_is_stored(tmp_path):
    train = batches(augment=None, view_cycle=None)
    assert TeacherCache(net(1), train, tmp_path).views == 1
    own = TensorDataset(torch.randn(40, 1, 6, 6), torch.arange(40) % CLASSES)
    train = loader(own, batch_size=8, view_cycle=1)
    distiller = Distiller(TeacherCache(net(1), train, tmp_path), net(2), ["kd"], example=own[:2][0])
    live = Distiller(net(1), net(2), ["kd"], example=own[:2][0])
    batch = next(iter(train))
    torch.testing.assert_close(distiller(*batch).loss, live(*batch).loss, rtol=1e-2, atol=0)


def test_killed_and_resumed_to_the_same_bits(tmp_path):
    whole = trained(TeacherCache(net(1), batches(), tmp_path / "cache"), batches(), out=tmp_path / "a")
    steps = len(batches())

    def stop(event):
        if event.kind == "step" and event.step == steps + 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(
            TeacherCache(net(1), batches(), tmp_path / "cache"),
            batches(),
            out=tmp_path / "b",
            callbacks=(stop,),
            checkpoint_seconds=0.0,
        )
    again = trained(TeacherCache(net(1), batches(), tmp_path / "cache"), batches(), out=tmp_path / "b", resume=True)
    for name, value in whole.student_state_dict().items():
        assert torch.equal(again.student_state_dict()[name], value)


# What is refused


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"teacher": net(5)}, "its teacher is "),
        ({"dataset": images(seed=1)}, "its images is "),
        ({"augment": Augment(pad=2)}, "its augment.main is Augment(pad=1"),
        ({"view_cycle": 3}, "its view_cycle is 2, this one's 3"),
        ({"view_seed": 8}, "its view_seed is 3, this one's 8"),
        ({"dtype": "float32"}, "its dtype is float16, this one's float32"),
    ],
)
def test_another_cache_is_refused_and_left_alone(tmp_path, changed, said):
    opened(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="was made of something else") as caught:
        opened(tmp_path, **changed)
    assert said in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_the_order_of_images_is_no_part_of_it(tmp_path):
    opened(tmp_path)
    assert opened(tmp_path, seed=9, view_seed=3, batch_size=16).loss > 0


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_cache_is_refused(tmp_path, damage):
    opened(tmp_path)
    path = tmp_path / ("manifest.json" if damage == "manifest" else "000.npy")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"^The teacher's cache '.*' is damaged: '{path.name}' cannot be read\.$"):
        opened(tmp_path)


def test_numbers_that_float16_cannot_hold(tmp_path):
    teacher = net(1)
    with torch.no_grad():
        teacher[4].bias[0] = 1e6
    with pytest.raises(ValueError, match=r"The teacher's layer '4' reaches 1e\+06, .* with dtype='float32'"):
        opened(tmp_path, teacher=teacher)
    assert not np.load(tmp_path / "000.rows").any()  # what holds no row is no other's cache
    assert opened(tmp_path, teacher=teacher, dtype="float32").loss > 0


def test_a_disk_too_small_is_said_before_the_teacher_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"needs 0\.0 MB, but the disk has 0\.0 MB free"):
        opened(tmp_path)


def test_a_disk_that_fills_up_keeps_what_it_took(tmp_path, monkeypatch):
    write, calls = stored_rows._write_all, []

    def full(file, data):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(file, data)

    monkeypatch.setattr(stored_rows, "_write_all", full)
    with pytest.raises(ValueError, match="could not be written: No space left on device"):
        opened(tmp_path)
    monkeypatch.undo()
    assert json.loads((tmp_path / "manifest.json").read_text())["arrays"] == {}
    assert opened(tmp_path).loss > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "000.npy", "manifest.json"]


def test_a_killed_builder_leaves_no_broken_cache_and_a_second_one_waits(tmp_path):
    context = multiprocessing.get_context("spawn")
    first = context.Process(target=build, args=(tmp_path, 60.0))
    first.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "passes").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.kill()
    first.join()
    assert not np.load(tmp_path / "000.rows").any()
    pair = [context.Process(target=build, args=(tmp_path, 0.1)) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "000.npy", "manifest.json", "passes"]
    assert (tmp_path / "passes").read_text() == "xx"  # the killed one's, and that of one of the two
    assert np.load(tmp_path / "000.npy").shape == (2, SAMPLES, CLASSES)


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / ".000.npy.x.tmp").write_bytes(b"half")
    opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "000.npy", "manifest.json"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda t, f: TeacherCache("resnet", batches(), f), "`teacher` must be a torch module, got str"),
        (lambda t, f: TeacherCache(t, [1], f), "`loader` must be one of congruence.data.loader, got list"),
        (
            lambda t, f: TeacherCache(t, batches(), f, dtype="int4"),
            "`dtype` must be one of 'float16', 'float32', 'int8', got 'int4'",
        ),
        (lambda t, f: TeacherCache(t, batches(view_cycle=None), f), r"augmentation repeats \(view_cycle=V\)"),
    ],
)
def test_bad_arguments(tmp_path, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(net(1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_batch_without_positions_or_with_others(tmp_path):
    train = batches()
    distiller = Distiller(TeacherCache(net(1), train, tmp_path), net(2), ["kd"], example=images().batch([0, 1]))
    inputs, labels, index = next(iter(train))
    with pytest.raises(ValueError, match="A cached teacher needs the batch's `index`"):
        distiller(inputs, labels)
    with pytest.raises(ValueError, match=r"0 to 299, got .* to \d{4}"):
        distiller(inputs, labels, index + 1000)


def test_fit_with_a_loader_that_shows_something_else(tmp_path):
    cache = TeacherCache(net(1), batches(), tmp_path)
    with pytest.raises(
        ValueError, match=r"`train_loader` must be one that shows what the TeacherCache holds.*view_cycle"
    ):
        trained(cache, batches(view_cycle=4))
    assert not list(tmp_path.iterdir())
    assert trained(cache, batches(batch_size=64, seed=4, view_seed=3), epochs=1)


class Turned(nn.Module):
    """A teacher whose layer has its dimensions in another order, and whose images are read as sequences."""

    def __init__(self, layer, say):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.say, self.head = layer, say, nn.Linear(5, CLASSES)

    def forward(self, x):
        tokens = self.layer(self.say(x[:, 0]))
        return self.head(tokens.flatten(2).mean(2) if isinstance(self.layer, nn.Conv1d) else tokens[0].mean(0))


@pytest.mark.parametrize("kind", ["Conv1d", "time first"])
def test_layers_in_another_order(tmp_path, kind):
    """A cached teacher is the live one where a layer gives [B, C, T] or [T, B, C]."""
    conv1d = kind == "Conv1d"
    layer = nn.Conv1d(6, 5, 3) if conv1d else nn.GRU(6, 5)
    teacher = Turned(layer, (lambda x: x) if conv1d else lambda x: x.transpose(0, 1))
    path = "layer" if conv1d else "layer[0]"
    train = batches()
    batch = next(iter(train))
    found = []
    for given in (teacher, TeacherCache(teacher, train, tmp_path, dtype="float32")):
        term = Term("pkt", teacher_layer=path, student_layer="input:4")
        made = Distiller(given, net(2), [term], example=images().batch([0, 1, 2]))
        found.append(made(*batch).loss)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    stored = json.loads((tmp_path / "manifest.json").read_text())["arrays"]
    assert list(stored) == [f"main:{path} as {'BCN' if conv1d else 'NBC'}"]  # none of the files of before it was turned


def test_a_layer_of_many_lengths_is_not_stored(tmp_path):
    class Cropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(6, 5), nn.Linear(5, CLASSES)

        def forward(self, x):
            tokens = self.layer(x[:, 0] if len(x) < CHUNK else x[:, 0, :4])
            return self.head(tokens.mean(1))

    train = batches()
    cache = TeacherCache(Cropped(), train, tmp_path)
    term = Term("pkt", teacher_layer="layer", student_layer="input:4")
    made = Distiller(cache, net(2), [term], example=images().batch([0, 1]))
    with pytest.raises(ValueError, match=r"'layer' gives \[4, 5\] a sample in this batch and \[6, 5\] for the example"):
        made(*next(iter(train)))


def test_a_cache_of_another_arithmetic_says_how_to_read_it(tmp_path):
    """Of a prepared teacher, and of the teacher as it is."""
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    teacher.append(torch.nn.Linear(4 * 36, 3))
    pixels = torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8)
    dataset = cg.data.ArrayDataset(pixels, torch.arange(8) % 3, classes=3, mean=[0.5], std=[0.5])
    shown = loader(dataset, batch_size=4)

    def asked(prepared, folder):
        distiller = Distiller(
            TeacherCache(teacher, shown, folder),
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)),
            ["kd"],
            example=dataset.batch([0, 1]),
        )
        if prepared:
            distiller.teacher.prepare()
        return distiller(*next(iter(shown)))

    for first, way in ((True, "after `teacher.prepare\\(\\)`"), (False, "teacher_speed='exact'")):
        asked(first, tmp_path / str(first))
        with pytest.raises(ValueError, match=way):
            asked(not first, tmp_path / str(first))

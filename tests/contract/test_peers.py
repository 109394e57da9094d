"""`benchmarks/peers.py` without the peers: what it says then, its parts, and a peer that is made up here."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _harness.pages import ROOT, script
from torch import Tensor, nn

from congruence.data import ArrayDataset

NAMES = ("peers", "peer_turns", "peer_worker", "peer_loops", "record")
# A loop of this test's own, under the names by which RepDistiller's is called.
MADE_UP = {
    "distiller_zoo/__init__.py": """
from torch import nn
class DistillKL(nn.Module):
    def __init__(self, T):
        super().__init__()
    def forward(self, student, teacher):
        return (student - teacher).square().mean()
""",
    "helper/__init__.py": "",
    "helper/util.py": """
def adjust_learning_rate(epoch, opt, optimizer):
    steps = sum(epoch > at for at in opt.lr_decay_epochs)
    optimizer.param_groups[0]["lr"] = opt.learning_rate * opt.lr_decay_rate ** steps
""",
    "helper/loops.py": """
def train_distill(epoch, loader, modules, criteria, optimizer, opt):
    seen, losses = [], []
    for images, labels, index in loader:
        features, logits = modules[0](images, is_feat=True)
        assert features[-1].shape[1] == opt.s_dim
        loss = opt.gamma * criteria[0](logits, labels)
        loss = loss + opt.alpha * criteria[1](logits, modules[-1](images, is_feat=True)[1].detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += index.tolist()
        losses.append(loss.item())
    assert sorted(seen) == list(range(opt.n_data))
    print("printed by a peer", optimizer.param_groups[0]["lr"])
    return 0.0, sum(losses) / len(losses)
""",
}


@pytest.fixture
def bench(monkeypatch):
    """The modules of the benchmark; what they change of Python and torch is put back."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(Tensor, "cuda", Tensor.cuda)
    before = set(sys.modules)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    for name in set(sys.modules) - before:
        if name in NAMES or name.split(".")[0] in ("helper", "distiller_zoo", "torchvision"):
            del sys.modules[name]


def dataset(samples=20):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ArrayDataset(pixels, torch.arange(samples) % 10, classes=10, mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])


@pytest.mark.parametrize("given", [False, True])
def test_without_the_peers_it_says_how_to_get_them(bench, tmp_path, capsys, given):
    words = ["time", "--peers", str(tmp_path)] if given else ["time"]
    assert bench.peers.main(words) == 2
    said = capsys.readouterr().out
    assert (f"'{tmp_path}' has none of" if given else "no folder was given") in said
    for url in bench.peers.SOURCES.values():
        assert f"git clone {url} FOLDER/" in said


def test_the_command_line(bench, capsys):
    read = bench.peers.parse(["cold", "--quick", "--views", "2", "--methods", "kd"])
    assert (read.images, read.rounds, read.methods, read.students) == (10_000, 5, ["kd"], ["resnet8", "cnn3"])
    assert (read.quick, read.views, read.loops) == (True, [2], list(bench.peers.SOURCES))
    for words in (["run"], ["time", "--methods", "ckd"], ["cold", "--views", "3"]):
        with pytest.raises(SystemExit) as ended:
            bench.peers.parse(words)
        assert ended.value.code == 2
        assert "invalid choice" in capsys.readouterr().err


def test_the_peers_images_are_ours(bench):
    images = dataset()
    plain = bench.peer_worker.PilImages(images, augment=False)
    assert torch.equal(torch.stack([plain[i][0] for i in range(20)]), images.batch(range(20)))
    assert [plain[i][1] for i in range(20)] == images.labels.tolist()
    moved = bench.peer_worker.PilImages(images)
    torch.manual_seed(0)
    first = torch.stack([moved[3][0] for _ in range(30)])
    torch.manual_seed(0)
    assert torch.equal(first, torch.stack([moved[3][0] for _ in range(30)]))
    # Each is a window of the padded image, mirrored or not.
    padded = nn.functional.pad(images.raw([3]).float() / 255, (4, 4, 4, 4))[0]
    windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32)
    windows = torch.cat([windows, windows.flip(3)])
    windows = (windows - plain.mean) / plain.std
    nearest = torch.cdist(first.flatten(1), windows.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert nearest.min(1).values.max() < 1e-3
    assert len(nearest.argmin(1).unique()) > 20


def test_negatives_are_of_other_classes(bench):
    np.random.seed(0)  # noqa: NPY002 (what the peers draw from)
    items = bench.peer_worker.Indexed(bench.peer_worker.PilImages(dataset(), augment=False), 18)
    _, label, number, rows = items[7]
    assert (label, number, rows[0]) == (7, 7, 7)
    assert sorted(rows[1:].tolist()) == [i for i in range(20) if i % 10 != 7]
    assert len(bench.peer_worker.Indexed(items.images)[7]) == 3


def test_a_made_up_peer_trains_our_pair(bench, tmp_path, capsys):
    for name, text in MADE_UP.items():
        path = tmp_path / "RepDistiller" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    worker = bench.peer_worker
    torch.manual_seed(0)
    teacher, student = (worker.cg.models.build("cnn3", classes=10) for _ in range(2))
    pair = worker.Pair(teacher.eval(), student, dataset(), dataset())
    before = [worker.digest(model) for model in (teacher, student)]
    job = worker.Job(
        "RepDistiller", "cnn3", "kd", 0, 20, 2, 8, "", folder=str(tmp_path / "RepDistiller"), milestones=(1,)
    )
    told = []
    clock = worker.Clock(None)
    clock.epoch = told.append
    worker.train(job, pair, clock)
    assert len(told) == 2
    assert told[1] < told[0]
    assert worker.digest(teacher) == before[0]
    assert worker.digest(student) != before[1]
    assert capsys.readouterr().out == "printed by a peer 0.05\nprinted by a peer 0.005000000000000001\n"


def test_runs_take_turns(bench, monkeypatch):
    turns = []

    class Fake:
        def __init__(self, job, log):
            self.job, self.told = job, 0

        def read(self):
            return {"student": "s", "teacher": self.job.teacher, "off": 0.0}

        def go(self):
            self.told += 1
            turns.append(self.job.loop)
            if self.told > self.job.epochs:
                return {"end": 0.5, "megabytes": 1.0}
            return {"seconds": self.told, "loss": 1 / self.told}

        def close(self):
            turns.append(f"closed {self.job.loop}")

    monkeypatch.setattr(bench.peer_turns, "Worker", Fake)

    def job(loop, teacher="t"):
        return bench.peer_worker.Job(loop, "cnn3", "kd", 0, 20, 2, 8, teacher)

    ran = bench.peer_turns.interleaved({"a": job("A"), "b": job("B")})
    assert turns == ["A", "B", "B", "A", "A", "B", "closed B", "closed A"]
    assert ran["a"].total == 3.5
    row = bench.peers.beside("a / b", ran["a"], ran["b"], 4, 1.6)
    sides = {"theirs": 500.0, "ours": 500.0, "theirs_megabytes": 1.0, "ours_megabytes": 1.0}
    assert row == {"name": "a / b", "value": 1.0, "least": 1.6, "reached": False, **sides}
    with pytest.raises(SystemExit, match="do not train the same"):
        bench.peer_turns.interleaved({"a": job("A"), "b": job("B", "another")})
    assert turns[-2:] == ["closed B", "closed A"]


def test_accuracies_are_compared_in_pairs(bench):
    rows = [{"RepDistiller": a, "ours": b, "ours, cached V=2": b} for a, b in ((50, 51), (60, 60), (55, 57))]
    first, second = bench.peers.compared("cnn3, kd", rows)
    assert (first["name"], first["difference"], first["sd"]) == ("cnn3, kd: accuracy, ours / RepDistiller", 1.0, 1.0)
    # One-sided, 95 %, two degrees of freedom: 2.92 deviations of a mean of three.
    assert first["least"] == pytest.approx(1 - 2.92 / 3**0.5 / 55, abs=1e-4)
    assert (first["value"], first["reached"]) == (pytest.approx(56 / 55, abs=1e-4), True)
    assert second["name"] == "cnn3, kd: accuracy, ours, cached V=2 / ours"
    lower = [{"RepDistiller": row["ours"], "ours": row["RepDistiller"] - 20} for row in rows]
    assert bench.peers.compared("cnn3, kd", lower)[0]["reached"] is False


def test_a_seed_is_trained_once_in_a_setting(bench, tmp_path):
    arguments = bench.peers.parse(["accuracy", "--out", str(tmp_path)])
    of, ran = bench.peers.Bench(arguments), []

    def trained():
        ran.append(1)
        return {"ours": 56.0 + len(ran)}

    asked = [
        of.once(("cnn3", "rkd", seed), trained, epochs=epochs) for seed, epochs in ((0, 6), (1, 6), (0, 6), (0, 7))
    ]
    assert [each["ours"] for each in asked] == [57.0, 58.0, 57.0, 59.0]
    lines = (tmp_path / "accuracy-seeds.jsonl").read_text().splitlines()
    assert [json.loads(line)["cell"] for line in lines] == [["cnn3", "rkd", 0], ["cnn3", "rkd", 1], ["cnn3", "rkd", 0]]


def test_exact_is_a_way_of_its_own_where_it_is_not_the_default(bench, monkeypatch):
    for fields, options in (
        ([("channels_last", bool, False)], {}),
        ([("channels_last", str, "auto")], {"channels_last": False}),
        (
            [("channels_last", str, "auto"), ("teacher_speed", str, "auto")],
            {"teacher_speed": "exact", "channels_last": False},
        ),
    ):
        made = dataclasses.make_dataclass("FitOptions", fields)
        monkeypatch.setattr(bench.peers, "cg", SimpleNamespace(FitOptions=made))
        assert bench.peers.exact_options() == options


def test_stages_are_kept_and_put_together(bench, tmp_path, monkeypatch, capsys):
    arguments = bench.peers.parse(["time", "--out", str(tmp_path)])
    kept = bench.peers.Bench(arguments)
    kept.commits = {"RepDistiller": "0123456789ab"}
    one, other = ({"name": name, "value": 1.5, "least": 1.6, "reached": False} for name in ("one", "other"))
    kept.keep("time", [one], rounds=5)
    kept.keep("time", [other, {**one, "value": 1.7, "reached": True}], rounds=5)
    kept.keep("cold", [{**other, "name": "third, estimated"}])
    kept.keep("accuracy", [one], epochs=6)
    kept.keep("accuracy", [other], epochs=7)  # another setting: the first is put aside
    assert "accuracy.before.json" in capsys.readouterr().out
    assert [each["name"] for each in json.loads((tmp_path / "accuracy.before.json").read_text())["figures"]] == ["one"]
    assert [each["name"] for each in json.loads((tmp_path / "accuracy.json").read_text())["figures"]] == ["other"]
    (tmp_path / "accuracy.json").unlink()
    measured = bench.record.commit()
    monkeypatch.setattr(bench.record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(bench.record, "ROOT", tmp_path)
    assert bench.peers.main(["write", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "results" / "peers.json").read_text())
    assert [each["name"] for each in result["figures"]] == ["one", "other", "third, estimated"]
    assert result["figures"][0]["value"] == 1.7
    assert "RepDistiller 0123456789ab" in result["note"]
    assert result["commit"] == measured
    assert "Estimated: V + 3 epochs" in result["note"]
    assert "(at least 1.6)  NOT REACHED" in capsys.readouterr().out
    page = script("update_benchmarks").part(tmp_path / "results" / "peers.json")
    assert "| other | 1.5 (under) | 1.6 |" in page

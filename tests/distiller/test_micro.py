"""Micro-batches in two passes are one pass: gradients, numbers, memories, generators, and what is kept meanwhile."""

from __future__ import annotations

import copy
import json
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from _harness import toys
from _harness.fits import Breaks, constant, data, micro_on_a_rank, micro_plain, same_state
from _harness.runs import Points, on_ranks, run, toy_distiller
from torch import nn

import congruence as cg
from congruence import Method, Needs, NonFiniteLossError, Term
from congruence.core import rng
from congruence.core.files import read_lines
from congruence.data import ArrayDataset, Augment

POINTS = Points().points.double()
LABELS = Points().targets
BATCH = {"inputs": POINTS[:24].clone(), "labels": LABELS[:24], "index": torch.arange(24)}


def alike(first, second, tolerance=1e-12):
    """Assert equal states."""
    first, second = dict(first), dict(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            second[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def gradients(module):
    """Return the gradients by name, those that are none left out."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def pair(terms, student, teacher=None):
    """Two equal distillers in float64."""
    facts = cg.data.facts(Points())
    made = cg.Distiller(teacher, student, terms, example=POINTS[:2].float(), facts=facts).double()
    return made, copy.deepcopy(made)


def chunked(made, starts, batch=BATCH):
    """Forward chunk by chunk with the whole graph kept, and score all rows: what two passes must give."""
    ends = [*starts[1:], len(batch["inputs"])]
    parts = [made.capture(*(v[a:b] for v in batch.values())) for a, b in zip(starts, ends, strict=True)]
    tensors = {key: torch.cat([part.tensors[key] for part in parts]) for key in parts[0].tensors}
    whole = replace(parts[0], tensors=tensors, inputs={"main": batch["inputs"]})
    return made.score(replace(whole, labels=batch["labels"], index=batch["index"]))


# One pass and two


@pytest.mark.parametrize("size", [1, 5, 8, 23])
@pytest.mark.parametrize("toy", toys.TOYS)
def test_two_passes_are_one(toy, size):
    one = toy_distiller(toy).double()
    for module in one.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    two = copy.deepcopy(one)
    for made, more in ((one, {}), (two, {"micro_batch": size})):
        made.begin_epoch(0)
        for step in range(3):  # the queue is full in the second and runs its inputs again
            batch = {name: value.roll(step, 0) for name, value in BATCH.items()}
            out = made(**batch, views={"strong": batch["inputs"] * 1.1}, **more)
            out.loss.backward()
            made.last = out
    assert gradients(one)
    alike(gradients(one), gradients(two))
    alike(one.named_buffers(), two.named_buffers())
    alike(one.last.terms, two.last.terms)
    torch.testing.assert_close(two.last.student, one.last.student, rtol=0, atol=1e-12)
    if one.teacher:
        torch.testing.assert_close(two.last.teacher, one.last.teacher, rtol=0, atol=1e-12)
        assert not two.last.teacher.requires_grad


def test_a_batch_that_fits_goes_in_one_pass():
    one, two = pair(["ce", "pkt"], toys.net(1), toys.net(2))
    for made, more in ((one, {}), (two, {"micro_batch": 24})):
        torch.manual_seed(0)
        made(**BATCH, **more).loss.backward()
    assert all(torch.equal(gradients(one)[name], value) for name, value in gradients(two).items())


def test_parameters_that_no_loss_reaches_stay_without_gradient():
    one, two = pair(["mimic"], toys.net(1), toys.net(2))
    one(**BATCH).loss.backward()
    two(**BATCH, micro_batch=5).loss.backward()
    assert gradients(two).keys() == gradients(one).keys()
    assert two.student[3].weight.grad is None
    frozen, _ = pair(["ce"], nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)))
    frozen.student[0].requires_grad_(False)
    frozen(**BATCH, micro_batch=5).loss.backward()
    assert gradients(frozen).keys() == {"students.student.1.weight", "students.student.1.bias"}


def test_a_gradient_with_a_graph_is_refused():
    made, _ = pair(["ce"], toys.net(1))
    loss = made(**BATCH, micro_batch=5).loss
    with pytest.raises(ValueError, match=r"^`micro_batch` computes gradients in a second pass and keeps no graph"):
        torch.autograd.grad(loss, list(made.student.parameters()), create_graph=True)


def test_a_detached_layer_has_no_gradient():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(self.body(inputs).detach())

    one, two = pair(["ce", Term("mimic", student_layer="input:head")], Cut(), toys.net(2))
    one(**BATCH).loss.backward()
    two(**BATCH, micro_batch=5).loss.backward()
    alike(gradients(one), gradients(two))
    assert two.student.body.weight.grad is None


def test_the_student_s_output_carries_gradient():
    one, two = pair(["ce"], toys.net(1).eval())
    for made, more in ((one.eval(), {}), (two.eval(), {"micro_batch": 5})):
        out = made(**BATCH, **more)
        (out.loss + out.student.square().mean()).backward()
    alike(gradients(one), gradients(two))
    with torch.no_grad():
        assert not two(**BATCH, micro_batch=5).student.requires_grad


class Rich(nn.Module):
    """A model whose output is no tensor."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.head = kind, nn.Linear(6, 3)

    def forward(self, inputs):
        logits = self.head(inputs)
        parts = {"logits": logits, "again": (logits, inputs), "size": len(inputs), "mean": logits.mean()}
        return parts if self.kind == "mapping" else [self.kind]


def test_outputs_of_all_kinds():
    made, _ = pair([Term("ce", student_layer="head")], Rich("mapping"))
    output = made(**BATCH, micro_batch=10).student
    assert torch.equal(output["logits"], output["again"][0])
    assert torch.equal(output["again"][1], BATCH["inputs"])
    torch.testing.assert_close(output["logits"], made.student.head(BATCH["inputs"]))
    assert (output["size"], output["mean"].shape) == (8, ())
    other, _ = pair([Term("ce", student_layer="head")], Rich("other"))
    assert other(**BATCH, micro_batch=10).student == [["other"]] * 3


def test_inputs_of_several_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, points, factor, shift):
            return self.head(points * factor + shift)

    inputs = {"points": POINTS[:24], "factor": torch.rand(24, 1).double(), "shift": torch.rand(6).double()}
    example = {name: value.float()[:2] if name != "shift" else value.float() for name, value in inputs.items()}
    one = cg.Distiller(None, Two(), ["ce"], example=example).double()
    two = copy.deepcopy(one)
    one(inputs, LABELS[:24]).loss.backward()
    two(inputs, LABELS[:24], micro_batch=7).loss.backward()
    alike(gradients(one), gradients(two))


# The second pass is the first one again


def normed(*layers):
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 5), *layers, nn.Tanh(), nn.Linear(5, 3))


class Draws(nn.Module):
    """Noise from Python's and NumPy's generators."""

    def forward(self, inputs):
        return inputs * (1 + random.random()) + np.random.rand()  # noqa: NPY002


class Tracks(nn.Module):
    """Divides by a running maximum that each training forward moves, with buffers written and exchanged."""

    def __init__(self):
        super().__init__()
        self.register_buffer("largest", torch.ones(()))
        self.register_buffer("calls", torch.ones(()))

    def forward(self, inputs):
        if self.training:
            with torch.no_grad():
                self.largest.copy_(0.5 * self.largest + 0.5 * inputs.abs().max())
            self.calls = self.calls + 1
        return inputs / self.largest.clone() / self.calls


PARTS = {
    "dropout": lambda: [nn.Dropout(0.4)],
    "batch norm": lambda: [nn.BatchNorm1d(5)],
    "both": lambda: [nn.BatchNorm1d(5, momentum=None), nn.Dropout(0.4)],
    "spectral norm": lambda: [nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5))],
    "python and numpy": lambda: [Draws()],
    "buffers": lambda: [Tracks()],
}


@pytest.mark.parametrize("part", PARTS)
def test_chunks_are_run_twice_alike_and_counted_once(part):
    expected, made = pair(["ce", "pkt"], normed(*PARTS[part]()), toys.net(2))
    rng.seed_everything(3)
    out = chunked(expected, [0, 8, 16])
    out.loss.backward()
    after = rng.get_state()
    rng.seed_everything(3)
    got = made(**BATCH, micro_batch=8)
    before = {name: value.clone() for name, value in made.named_buffers()}
    kept = dict(made.named_buffers())
    got.loss.backward(retain_graph=True)
    first = {name: gradient.clone() for name, gradient in gradients(made).items()}
    assert rng.get_state()["python"] == after["python"]
    assert torch.equal(rng.get_state()["torch"], after["torch"])
    torch.testing.assert_close(got.loss, out.loss, rtol=0, atol=1e-13)
    alike(gradients(expected), first)
    alike(expected.named_buffers(), made.named_buffers())
    alike(before, made.named_buffers(), 0)
    assert all(kept[name] is buffer for name, buffer in made.named_buffers())
    got.loss.backward()
    alike({name: 2 * value for name, value in first.items()}, gradients(made))


def test_batch_norms_track_each_chunk_once():
    made, _ = pair(["ce"], normed(nn.BatchNorm1d(5)))
    made(**BATCH, micro_batch=10).loss.backward()
    assert int(made.student[1].num_batches_tracked) == 3
    still, other = pair(["ce", "pkt"], normed(nn.BatchNorm1d(5)), toys.net(2))
    for each in (still, other):
        each.student[1].eval()
    still(**BATCH).loss.backward()
    other(**BATCH, micro_batch=10).loss.backward()
    alike(gradients(still), gradients(other))
    assert int(other.student[1].num_batches_tracked) == 0


def test_modes_may_change_before_the_backward():
    one, two = pair(["ce"], normed(nn.BatchNorm1d(5), nn.Dropout(0.4)))
    for made in (one, two):
        torch.manual_seed(0)
        out = made(**BATCH, micro_batch=8)
        if made is two:
            made.eval()
        out.loss.backward()
    alike(gradients(one), gradients(two), 0)
    assert not any(module.training for module in two.student.modules())


class Again(Method):
    """Runs the batch's own inputs again and sees nothing else of it."""

    needs = Needs(teacher=False, inputs=True)

    def loss(self, signals):
        return {"loss": (signals.rerun(signals.inputs).one("student").pow(2).mean(0) - 1).pow(2).sum()}


@pytest.mark.parametrize("precision", ["float64", "bf16"])
def test_kept_inputs_are_run_again_in_chunks_with_norms_at_rest(precision):
    one, two = pair([Term(Again())], normed(nn.BatchNorm1d(5, momentum=0.0)))
    if precision == "bf16":
        one, two = one.float(), two.float()
    seen = []
    two.student[0].register_forward_hook(lambda m, a, out: seen.append((len(out), torch.is_grad_enabled())))
    for made, more in ((one, {}), (two, {"micro_batch": 8})):
        batch = {**BATCH, "inputs": BATCH["inputs"].to(next(made.parameters()).dtype)}
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = made(**batch, **more).loss
        loss.backward()
    assert gradients(one).keys() == gradients(two).keys()
    assert two.student[0].weight.grad.any()
    # The main forward's rows are in no loss: its chunks run once, those of the rerun twice.
    assert seen == [(8, False)] * 6 + [(8, True)] * 3
    alike(gradients(one), gradients(two), 1e-12 if precision == "float64" else 0.02)


class Few(Method):
    """Runs the first rows again, as many as fit in one pass."""

    needs = Needs(teacher=False, inputs=True)

    def loss(self, signals):
        return {"loss": signals.rerun({"main": signals.inputs["main"][:4]}).one("student").square().sum()}


def test_a_weight_cast_in_the_first_pass_is_not_used_where_gradient_is_wanted():  # by older torches
    one, two = (made.float() for made in pair([Term(Few())], normed()))
    batch = {**BATCH, "inputs": BATCH["inputs"].float()}
    for made, more in ((one, {}), (two, {"micro_batch": 8})):
        with torch.autocast("cpu", torch.bfloat16):
            loss = made(**batch, **more).loss
        loss.backward()
    assert "students.student.0.weight" in gradients(one)
    alike(gradients(one), gradients(two), 0.02)


def test_autocast_is_that_of_the_forward():
    one, two = (made.float() for made in pair(["ce", "pkt"], normed(), toys.net(2).eval()))
    batch = {**BATCH, "inputs": BATCH["inputs"].float()}
    kinds = set()
    two.student[2].register_forward_hook(lambda m, a, out: kinds.add(out.dtype))
    for made, more in ((one, {}), (two, {"micro_batch": 8})):
        with torch.autocast("cpu", torch.bfloat16):
            loss = made(**batch, **more).loss
        loss.backward()
    assert kinds == {torch.bfloat16}
    alike(gradients(one), gradients(two), 0.02)


def test_inputs_changed_in_place_are_whole_in_the_second_pass():
    class Hasty(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, inputs):
            return self.head(inputs.mul_(2).add_(1))

    one, two = pair(["ce"], Hasty())
    one(**{**BATCH, "inputs": BATCH["inputs"].clone()}).loss.backward()
    two(**BATCH, micro_batch=8).loss.backward()
    alike(gradients(one), gradients(two))
    assert torch.equal(BATCH["inputs"], POINTS[:24])


# What lives at once


class Counts(nn.Module):
    """Notes the rows that go through it, with gradient and without."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, inputs):
        self.seen.append((len(inputs), torch.is_grad_enabled()))
        return inputs


class Live:
    """Counts the bytes that autograd keeps, beside the given tensors."""

    def __init__(self):
        self.now = self.most = 0

    def __enter__(self):
        live = self

        class Held:
            def __init__(self, tensor):
                self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
                live.now += self.size
                live.most = max(live.most, live.now)

            def __del__(self):
                live.now -= self.size

        self.hooks = torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


def test_activations_of_one_chunk_live_at_once():
    def deep():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 64), *(part for _ in range(8) for part in (nn.Linear(64, 64), nn.Tanh())), nn.Linear(64, 3)
        )

    points, most = torch.randn(512, 6), {}
    for size in (512, 64, 32):
        made = cg.Distiller(None, deep(), ["ce"], example=points[:2])
        with Live() as live:
            made(points, torch.arange(512) % 3, micro_batch=size).loss.backward()
        most[size] = live.most
        assert live.now == 0
    weights = sum(p.numel() * 4 for p in deep().parameters())
    assert most[512] > 512 * 64 * 4 * 8
    assert most[64] < 0.25 * most[512]
    assert most[32] - weights < 0.6 * (most[64] - weights) + 512 * 3 * 4 * 4


def test_each_chunk_runs_once_without_gradient_and_once_with_it():
    made, _ = pair(["ce", "pkt"], normed(Counts()), nn.Sequential(Counts(), toys.net(2)))
    made.student[1].seen.clear()
    made.teacher.module[0].seen.clear()
    made(**BATCH, micro_batch=10).loss.backward()
    assert made.student[1].seen == [(8, False)] * 3 + [(8, True)] * 3
    assert made.teacher.module[0].seen == [(8, False)] * 3
    made.student[1].seen.clear()
    with torch.no_grad():
        made(**BATCH, micro_batch=7)
    assert made.student[1].seen == [(6, False)] * 4


# In `fit`


def loader(size=12):
    return cg.data.loader(data(), batch_size=size, seed=3)


TERMS = ("ce", "kd", Term("pkt", weight=10.0), "mimic")


@pytest.mark.parametrize("changes", [{}, {"gradient_clip": 0.1}, {"accumulate": 2}])
def test_fit_in_two_passes_is_fit(changes, tmp_path):
    results = {}
    for size in (None, 5):
        made = micro_plain(*TERMS)
        out = tmp_path / str(size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that accumulation enlarges no batch
            result = cg.fit(made, loader(), loader(), constant(out=out, log_every=1, micro_batch=size, **changes))
        results[size] = made.state_dict(), result.history, read_lines(out / "metrics.jsonl")
    alike(results[None][0], results[5][0], 1e-5)
    for mine, theirs in zip(results[None][2], results[5][2], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert theirs[key] == pytest.approx(value, rel=1e-4), key
    assert set(results[5][2][0]["gradient_norms"]) == {"ce", "kd", "pkt", "mimic"}


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision(precision, tolerance, tmp_path):
    rows = {}
    for size in (None, 5):
        options = constant(out=tmp_path / str(size), log_every=2, epochs=2, precision=precision, micro_batch=size)
        # Weights so small that fp16 does not overflow at its first scale.
        terms = [Term("ce", weight=1e-3), Term("pkt", weight=1e-2)]
        cg.fit(micro_plain(*terms), loader(), options=options)
        rows[size] = [row for row in read_lines(tmp_path / str(size) / "metrics.jsonl") if "loss" in row]
    for mine, theirs in zip(rows[None], rows[5], strict=True):
        assert mine.get("skipped", 0) == theirs.get("skipped", 0) == 0
        assert theirs["gradient_norm"] == pytest.approx(mine["gradient_norm"], rel=tolerance)
    assert rows[5][0]["gradient_norms"] == pytest.approx(rows[None][0]["gradient_norms"], rel=tolerance)


def test_a_step_that_overflows_is_skipped_all_the_same(tmp_path):
    loud, skipped = Term("ce", weight=300.0), {}
    for size in (None, 5):
        options = constant(out=tmp_path / str(size), log_every=1, epochs=4, precision="fp16", micro_batch=size)
        cg.fit(micro_plain(loud), loader(), options=options)
        skipped[size] = [row["skipped"] for row in read_lines(tmp_path / str(size) / "metrics.jsonl") if "loss" in row]
    assert skipped[None] == skipped[5]
    assert 0 < sum(skipped[5]) < len(skipped[5])


@pytest.mark.parametrize(("how", "what"), [("loss", "the loss of 'Breaks'"), ("gradient", "the gradient")])
def test_a_value_that_is_not_finite_stops_the_run(how, what):
    made = micro_plain("ce", Term(Breaks(3, how=how)))
    with pytest.raises(NonFiniteLossError, match=f"At step 3 {what} was not finite"):
        cg.fit(made, loader(), options=constant(epochs=3, micro_batch=5))
    assert all(torch.isfinite(p).all() for p in made.parameters())


class Apart(Method):
    """Compares two views of a student."""

    needs = Needs(views=("clean", "main"), teacher=False)

    def loss(self, signals):
        return {"loss": (signals.one("student") - signals.one("student", view="clean")).square().mean()}


def test_two_views_and_a_cached_teacher(tmp_path):
    torch.manual_seed(0)
    images = torch.randint(256, (20, 1, 6, 6), dtype=torch.uint8)
    dataset = ArrayDataset(images, torch.arange(20) % 2, classes=2, mean=[0.5], std=[0.25])
    batches = cg.data.loader(
        dataset, batch_size=10, augment=Augment(pad=1), views=("main", "clean"), view_cycle=2, seed=3
    )

    def flat(seed, *parts):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.Tanh(), *parts, nn.Linear(6, 2))

    states = {}
    for size in (None, 4):
        cache = cg.TeacherCache(flat(0), batches, tmp_path / "cache", dtype="float32")
        torch.manual_seed(2)
        terms = ["kd", Term("pkt", weight=10.0), Term(Apart())]
        made = cg.Distiller(cache, flat(1), terms, example=dataset.batch([0, 1]))
        cg.fit(made, batches, options=constant(epochs=3, micro_batch=size))
        states[size] = made.state_dict()
    alike(states[None], states[4], 1e-5)


def test_killed_and_resumed_is_never_killed(tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event.kind == "step" and event.step == 7:
            raise Stop

    whole, made = run("plain", tmp_path / "whole", micro_batch=5)
    with pytest.raises(Stop):
        run("plain", tmp_path / "run", micro_batch=5, callbacks=[stop])
    with pytest.raises(ValueError, match=r"its options.micro_batch is 5, this one's 6"):
        run("plain", tmp_path / "run", micro_batch=6, resume=True)
    with pytest.raises(ValueError, match=r"its options.micro_batch is 5, this one's None"):
        run("plain", tmp_path / "run", resume=True)
    resumed, again = run("plain", tmp_path / "run", micro_batch=5, resume=True)
    same_state(made, again)
    assert whole.history == resumed.history


def test_runs_from_before_micro_batches_go_on(tmp_path):
    whole, made = run("plain", tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    identity = json.loads(file.read_text())
    for younger in ("micro_batch", "channels_last", "compile"):
        del identity["options"][younger]
    file.write_text(json.dumps(identity))
    with pytest.raises(ValueError, match=r"its options.micro_batch is None, this one's 5"):
        run("plain", tmp_path / "run", micro_batch=5, resume=True)
    resumed, again = run("plain", tmp_path / "run", resume=True)
    same_state(made, again)
    assert whole.history == resumed.history


# Ranks


def test_two_ranks_are_one(tmp_path):
    on_ranks(micro_on_a_rank, tmp_path)
    for toy in toys.TOYS:
        result, alone = run(toy, dropout=False)
        ranks = [torch.load(tmp_path / f"{toy}-{rank}.pt") for rank in (0, 1)]
        alike(ranks[0]["state"], ranks[1]["state"], 0)
        alike(alone.state_dict(), ranks[0]["state"], 1e-5)
        for mine, theirs in zip(result.history, ranks[0]["history"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
    first, second = (torch.load(tmp_path / f"micro-{rank}.pt") for rank in (0, 1))
    alone = micro_plain("mimic")  # its ranks differed before
    before = alone.student[2].weight.clone()
    cg.fit(alone, loader(), options=constant(micro_batch=4, accumulate=2))
    alike(first, second, 0)
    alike(alone.state_dict(), first, 1e-5)
    assert torch.equal(before, alone.student[2].weight)  # no weight decay either


# Sentences


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4"])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="`FitOptions`: `micro_batch` must be an integer >= 1 or None, got"):
        cg.FitOptions(epochs=1, micro_batch=size)
    with pytest.raises(ValueError, match=r"`Distiller\.capture`: `micro_batch` must be an integer >= 1 or None, got"):
        micro_plain("ce")(*data().tensors, micro_batch=size)


def test_layers_without_a_row_a_sample():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(self.body(inputs.repeat(2, 1)))[: len(inputs)]

    made, _ = pair([Term("ce", student_layer="output"), Term(Spread(), student_layer="body")], Turned())
    made(**BATCH).loss.backward()
    with pytest.raises(ValueError, match=r"needs layers that give one row for each sample, got \[16, 4\] for 8"):
        made(**BATCH, micro_batch=10)


def test_layers_that_cut_padding_off():
    class Cuts(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            longest = int((inputs[:, :, 0] != 0).sum(1).max())
            return self.head(self.body(inputs[:, :longest])[:, 0])

    inputs, labels = torch.ones(8, 5, 6), torch.arange(8) % 3
    inputs[:4, 2:] = 0
    made = cg.Distiller(None, Cuts(), [Term("ce"), Term(Spread(), student_layer="body")], example=inputs)
    made(inputs, labels).loss.backward()
    with pytest.raises(ValueError, match=r"layer 'body' gives \[4, 2, 4\] for some samples and \[4, 5, 4\] for others"):
        made(inputs, labels, micro_batch=4)


def test_inputs_that_want_gradient():
    inputs = torch.ones(8, 6, requires_grad=True)
    made = cg.Distiller(None, nn.Linear(6, 3), ["ce"], example=inputs)
    made(inputs, torch.arange(8) % 3).loss.backward()
    assert inputs.grad is not None
    with pytest.raises(ValueError, match=r"`inputs` must be without gradient for micro_batch"):
        made(inputs, torch.arange(8) % 3, micro_batch=4)


def test_inputs_of_other_rows():
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.bags, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 3)

        def forward(self, words, starts):
            return self.head(self.bags(words, starts))

    inputs = torch.arange(16) % 9, torch.arange(0, 16, 2)
    made = cg.Distiller(None, Bags(), ["ce"], example=inputs)
    made(inputs, torch.arange(8) % 3).loss.backward()
    with pytest.raises(ValueError, match=r"of tensors with 16 and 8 rows it took rows 0 to 4 of the former"):
        made(inputs, torch.arange(8) % 3, micro_batch=4)


class Spread(Method):
    needs = Needs(teacher=False)

    def loss(self, signals):
        return {"loss": signals.one("student").square().mean()}


def test_inputs_without_tensors():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, count):
            return self.head(torch.ones(count, 6))

    made = cg.Distiller(None, Named(), ["ce"], example={"count": 2})
    made({"count": 4}, LABELS[:4])
    with pytest.raises(ValueError, match="`inputs` must be of tensors with a row a sample for micro_batch, got dict"):
        made({"count": 4}, LABELS[:4], micro_batch=2)

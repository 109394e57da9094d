"""Reading layers: values, gradients, sentences, and nothing left behind."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from congruence.models.layers import parse
from congruence.models.taps import Taps, call


class Net(nn.Module):
    """conv, batch norm, one in-place ReLU used twice, dropout, pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.never = nn.Linear(2, 2)
        self.fc = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv1(x)))
        x = self.relu(self.conv2(x))
        return self.fc(self.drop(x.mean((2, 3))))


def tapped(model: nn.Module, paths, example, *, training: bool = True, name: str = "student") -> Taps:
    taps = Taps(model, name=name)
    taps.probe(example, training=training)
    taps.require(paths)
    return taps


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_values_are_what_left_and_entered_each_layer(images: Tensor) -> None:
    model = Net().eval()
    paths = ["conv1", "bn", "input:relu#2", "relu#1", "relu#2", "input:fc", "fc", "input:conv1", "output", "", "input:"]
    taps = tapped(model, paths, images, training=False)
    output, values = taps.read(images)
    first = model.conv1(images)
    normed = model.bn(first)
    second = model.conv2(normed.relu())
    pooled = second.relu().mean((2, 3))
    expected = [first, normed, second, normed.relu(), second.relu(), pooled, model.fc(pooled), images, model.fc(pooled)]
    expected += [model.fc(pooled), images]
    assert list(values) == paths
    for path, value in zip(paths, expected, strict=True):
        assert torch.equal(values[path], value), path
        assert taps.shapes[path] == value.shape
    assert torch.equal(output, values["output"])
    assert taps.module("relu#2") is model.relu
    assert taps.module("input:fc") is model.fc
    assert taps.module("output") is model


def test_gradient_through_a_tap_before_an_inplace_relu(images: Tensor) -> None:
    model = Net().eval()
    taps = tapped(model, ["bn", "fc"], images, training=False)
    _, values = taps.read(images)
    (values["bn"].sin().sum() + values["fc"].square().sum()).backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    normed = model.bn(model.conv1(images))
    (normed.sin().sum() + model(images).square().sum()).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(got[name], p.grad, msg=name)
    assert set(got) == {n for n, p in model.named_parameters() if p.grad is not None}


def test_only_reads_a_part_and_knows_what_was_required(images: Tensor) -> None:
    taps = tapped(Net(), ["conv1", "fc"], images)
    assert list(taps.read(images, only={"fc"})[1]) == ["fc"]
    assert taps.read(images, only=())[1] == {}
    with pytest.raises(ValueError, match=r"student's layer 'conv2' was not asked for.*Did you mean 'conv1'"):
        taps.read(images, only=["conv2"])
    taps.require(["conv2"])
    assert list(taps.read(images)[1]) == ["conv1", "fc", "conv2"]


class Gated(nn.Module):
    """A convolution gives the classes; the last Linear to run opens its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.classes = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        opened = maps * self.gate(maps.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.classes(opened).mean((2, 3))


class Branches(nn.Module):
    """Adds up the logits of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x.square())


def test_defaults(images: Tensor) -> None:
    taps = Taps(Net(), name="student")
    with pytest.raises(RuntimeError, match="before `probe`"):
        taps.default("features")
    with pytest.raises(RuntimeError, match="before `require`"):
        taps.require(["fc"])
    taps.probe(images, training=True)
    assert (taps.head, taps.default("features"), taps.default("logits")) == ("fc", "input:fc", "fc")
    expected = (
        "The student has no default layer for 'maps': name some with student_layer=, of its stages "
        "'relu#2' [4, 5, 8, 8]."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        taps.default("maps")

    convolutional = Taps(nn.Sequential(nn.Conv2d(3, 7, 8), nn.Flatten()), name="teacher")
    convolutional.probe(images, training=False)
    assert convolutional.head is None
    assert convolutional.default("logits") == "output"
    with pytest.raises(ValueError, match=r"teacher runs no Linear layer to find 'features' by: .* teacher_layer="):
        convolutional.default("features")
    dense = Taps(nn.Conv2d(3, 7, 3), name="peer")
    dense.probe(images, training=False)
    with pytest.raises(ValueError, match="student_layer= or teacher_layer="):
        dense.default("logits")

    gated = Taps(Gated(), name="student")
    gated.probe(images, training=True)
    assert (gated.head, gated.default("logits")) == (None, "output")
    with pytest.raises(ValueError, match=r"for 'features', since its output is not that of its last Linear 'gate': na"):
        gated.default("features")
    two = Taps(Branches(), name="student")
    two.probe(torch.ones(2, 5), training=True)
    assert (two.default("features"), two.default("logits")) == ("input:second", "output")
    probable = Taps(nn.Sequential(nn.Linear(5, 3), nn.Softmax(1)), name="student")
    probable.probe(torch.ones(2, 5), training=True)
    assert probable.default("logits") == "0"

    linear = nn.Linear(5, 5)
    repeated = Taps(nn.Sequential(linear, linear), name="student")
    repeated.probe(torch.ones(2, 5), training=True)
    assert repeated.default("features") == "input:0#2"
    repeated.require([repeated.default("features"), "1#1"])  # under either of its names
    _, values = repeated.read(torch.ones(2, 5))
    assert torch.equal(values["input:0#2"], values["1#1"])


def test_a_stage_is_the_last_map_of_its_size(images: Tensor) -> None:
    relu = nn.ReLU()
    first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), relu)
    second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1))
    model = nn.Sequential(first, second, relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    taps = Taps(model, name="student")
    taps.probe(images, training=True)
    assert taps.stages == {"0": torch.Size([*images.shape[:1], 4, 8, 8]), "0.1#2": torch.Size([len(images), 6, 4, 4])}
    taps.require(taps.stages)
    assert taps.shapes == taps.stages
    flat = Taps(nn.Linear(3, 2), name="student")
    flat.probe(torch.ones(2, 3), training=True)
    assert flat.stages == {}
    with pytest.raises(ValueError, match=r"no default layer for 'maps': name one with student_layer=\.$"):
        flat.default("maps")


def test_a_dry_run_changes_nothing(images: Tensor) -> None:
    model = Net()
    model.bn.eval()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    modes = [m.training for m in model.modules()]
    buffers = {name: (b, b.clone()) for name, b in model.named_buffers()}
    state = torch.get_rng_state()
    tapped(model, ["fc", "bn"], images, training=True)
    assert [m.training for m in model.modules()] == modes
    for name, b in model.named_buffers():
        assert b is buffers[name][0]
        assert torch.equal(b, buffers[name][1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.conv1.weight.grad, torch.ones_like(model.conv1.weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "conv1.weight")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_buffer_that_is_replaced_is_put_back() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + 1
            return self.fc(x)

    model = Counter()
    before = model.seen
    tapped(model, ["fc"], torch.ones(1, 2))
    assert model.seen is before
    assert model.seen == 0


def test_no_hook_stays_even_when_the_forward_fails(images: Tensor) -> None:
    model = Net()
    taps = tapped(model, ["fc", "input:conv1"], images)
    with pytest.raises(RuntimeError):
        taps.read(torch.ones(1, 2, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    copied = copy.deepcopy(model)
    assert torch.equal(copied.fc.weight, pickle.loads(pickle.dumps(model)).fc.weight)
    again = copy.deepcopy(taps)
    assert again.model is not model
    assert again.read(images)[1]["fc"].shape == (4, 6)
    assert pickle.loads(pickle.dumps(taps)).read(images)[1]["fc"].shape == (4, 6)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("cnv1", r"The student has no layer 'cnv1'. Did you mean 'conv1'"),
        ("relu", r"'relu' runs 2 times in one forward: say which call to read, as in 'relu#1' to 'relu#2'"),
        ("relu#3", r"'relu#3' asks for call 3, but 'relu' runs 2 times"),
        ("fc#2", r"runs 1 time in"),
        ("never", r"'never' \(Linear\) does not run"),
        ("input:never", r"does not run"),
        ("relu#0", r"counted from 1"),
        ("fc[", r"is not a layer path: write 'PATH'"),
        ("output[logits]", r"'output\[logits\]' has no '\[logits\]': it is a tensor \[4, 6\]"),
    ],
)
def test_sentences(path: str, sentence: str, images: Tensor) -> None:
    taps = Taps(Net(), name="student")
    taps.probe(images, training=True)
    with pytest.raises(ValueError, match=sentence):
        taps.require(["fc", path])
    assert taps.read(images)[1] == {}


def test_a_failing_dry_run_is_one_sentence() -> None:
    taps = Taps(Net(), name="teacher")
    with pytest.raises(
        ValueError, match=r"The teacher's forward on the example \(\[2, 1, 8, 8\]\) failed with Runt.*chan"
    ):
        taps.probe([torch.ones(2, 1, 8, 8)], training=False)
    with pytest.raises(ValueError, match=r"`Taps`: `model` must be a torch.nn.Module, got int"):
        Taps(3, name="student")  # type: ignore[arg-type]


class Inner(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor | None = None):
        hidden = ids * 2
        return OrderedDict(last_hidden_state=hidden, layers=(ids, hidden + 1), note="text")


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Inner()
        self.output = nn.Linear(3, 2)
        self.fc = nn.Linear(2, 2)

    def forward(self, ids: Tensor, mask: Tensor):
        hidden = self.encoder(ids=ids, mask=mask)["last_hidden_state"]
        self.encoder(ids)
        return (self.fc(self.output(hidden)), hidden)


def test_selectors_mappings_and_keyword_inputs() -> None:
    batch = {"ids": torch.arange(6.0).view(2, 3), "mask": torch.ones(2, 3)}
    model = Text()
    paths = [
        "encoder#1[last_hidden_state]",
        "encoder[layers][1]#2",
        "input:encoder#1[mask]",
        "input:encoder#2",
        "output",
    ]
    taps = tapped(model, [*paths, "[0]", "input:[ids]"], batch)
    (logits, _), values = taps.read(batch)
    assert torch.equal(values[paths[0]], batch["ids"] * 2)
    assert torch.equal(values[paths[1]], batch["ids"] * 2 + 1)
    assert torch.equal(values[paths[2]], batch["mask"])
    assert torch.equal(values[paths[3]], batch["ids"])
    assert torch.equal(values["output"], model.output(batch["ids"] * 2))  # a layer of that name keeps it
    assert torch.equal(values["[0]"], logits)
    assert torch.equal(values["input:[ids]"], batch["ids"])
    for path, sentence in [
        (
            "encoder#1",
            r"is not a tensor but a OrderedDict with \[last_hidden_state\] \[2, 3\], \[layers\] tuple, \[note\] str",
        ),
        ("encoder#1[pooled]", r"has no '\[pooled\]'"),
        ("[5]", r"has no '\[5\]': it is a tuple with \[0\] \[2, 2\], \[1\] \[2, 3\]"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            taps.require([path])


def test_an_output_with_fields() -> None:
    class Fields(nn.Module):
        def forward(self, x: Tensor):
            return torch.max(x, 1)

    taps = tapped(nn.Sequential(Fields()), ["0[values]", "0[1]"], torch.ones(2, 3))
    values = taps.read(torch.tensor([[1.0, 5.0]]))[1]
    assert values["0[values]"].item() == 5
    assert values["0[1]"].item() == 1


def test_call() -> None:
    model = nn.Bilinear(2, 3, 1)
    a, b = torch.ones(4, 2), torch.ones(4, 3)
    assert torch.equal(call(model, (a, b)), call(model, {"input1": a, "input2": b}))
    assert torch.equal(call(nn.Identity(), a), a)


def test_an_inplace_change_that_the_dry_run_did_not_show() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.fc(x)
            return hidden if self.training else hidden.mul_(2)

    model = Late()
    taps = tapped(model, ["fc"], torch.ones(2, 3), training=True)
    model.eval()
    with pytest.raises(RuntimeError, match="student's layer 'fc' was changed in place later"):
        taps.read(torch.ones(2, 3))
    output, values = taps.read(torch.ones(2, 3))
    torch.testing.assert_close(output, values["fc"] * 2)


def test_a_layer_that_runs_otherwise_than_in_the_dry_run() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if len(x) < 3 else x

    taps = tapped(Sometimes(), ["fc"], torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="'fc' ran 0 times in this forward"):
        taps.read(torch.ones(3, 3))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
        self.fc = nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        return self.fc(x)


def test_checkpointing_without_reentrance_gives_the_same_gradient() -> None:
    x = torch.randn(5, 3)
    gradients = []
    torch.manual_seed(0)
    plain = Checkpointed(None)
    for reentrant in (None, False):
        model = copy.deepcopy(plain)
        model.reentrant = reentrant
        taps = tapped(model, ["block.0", "block.1", "fc"], x)
        _, values = taps.read(x)
        sum(value.square().sum() for value in values.values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch's own, in the no_grad read
def test_reentrant_checkpointing_is_refused_where_a_gradient_is_lost() -> None:
    model = Checkpointed(True)
    taps = tapped(model, ["block.1", "fc"], torch.ones(2, 3))
    with pytest.raises(RuntimeError, match=r"'block.1' carries no gradient.*use_reentrant=False"):
        taps.read(torch.ones(2, 3))
    assert taps.read(torch.ones(2, 3), only=["fc"])[1]["fc"].requires_grad
    with torch.no_grad():
        assert len(taps.read(torch.ones(2, 3))[1]) == 2
    model.requires_grad_(False)
    assert len(taps.read(torch.ones(2, 3, requires_grad=True))[1]) == 2


def test_a_frozen_part_of_a_student_may_be_read() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    _, values = tapped(model, ["0", "1"], torch.ones(2, 3)).read(torch.ones(2, 3))
    assert not values["0"].requires_grad
    assert values["1"].requires_grad


def test_paths_look_through_data_parallel_wrappers(images: Tensor, tmp_path) -> None:
    model = Net().eval()
    expected = model(images)
    parallel = nn.DataParallel(model)
    _, values = tapped(parallel, ["fc", "module.fc", "output"], images, training=False).read(images)
    assert all(torch.equal(value, expected) for value in values.values())

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        taps = tapped(wrapped, ["relu#2", "fc", "output", "input:fc"], images, training=False)
        output, values = taps.read(images)
        assert taps.head == "fc"
        assert torch.equal(output, expected)
        assert torch.equal(values["fc"], expected)
        values["input:fc"].sum().backward()
        assert model.conv1.weight.grad is not None
        assert taps.module("conv1") is model.conv1
    finally:
        torch.distributed.destroy_process_group()


def test_fsdp_is_refused() -> None:
    class FullyShardedDataParallel(nn.Linear):
        pass

    class Sharded(FullyShardedDataParallel):
        pass

    with pytest.raises(ValueError, match="The teacher is sharded by FullyShardedDataParallel"):
        Taps(nn.Sequential(Sharded(2, 2)), name="teacher")


def test_lazy_layers_are_refused_until_they_have_seen_data() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="The student has lazy layers"):
        Taps(model, name="student")
    model(torch.ones(2, 5))
    assert tapped(model, ["0"], torch.ones(2, 5)).shapes["0"] == (2, 3)


def test_compiled_models_give_their_output_and_refuse_the_rest(images: Tensor) -> None:
    model = Net().eval()
    inplace = copy.deepcopy(model)
    inplace.compile(backend="eager")
    for compiled in (torch.compile(model, backend="eager"), inplace):
        taps = tapped(compiled, ["output"], images, training=False)
        output, values = taps.read(images)
        assert torch.equal(output, values["output"])
        torch.testing.assert_close(output, model(images))
        assert taps.default("logits") == "output"
        with pytest.raises(ValueError, match="no 'features' to read, because the whole model is compiled"):
            taps.default("features")
        for path in ("fc", "_orig_mod.fc", "input:fc"):
            with pytest.raises(
                ValueError, match="because the whole model is compiled and a tap inside could be silently"
            ):
                taps.require([path])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from inside torch.compile
def test_compiled_parts_are_read_as_a_whole() -> None:
    model = Checkpointed(None)
    plain = copy.deepcopy(model)
    model.block = torch.compile(model.block, backend="eager")
    x = torch.randn(2, 3)
    model(x)  # compiled before the hooks come
    taps = tapped(model, ["block", "input:block", "fc"], x)
    _, values = taps.read(x)
    torch.testing.assert_close(values["block"], plain.block(plain.stem(x)))
    for path in ("block.0", "block._orig_mod.0"):
        with pytest.raises(ValueError, match=r"cannot be read because 'block' is compiled"):
            taps.require([path])
    plain.block.compile(backend="eager")
    other = Taps(plain, name="student")
    other.probe(x, training=True)
    for path in ("block", "block.0"):
        with pytest.raises(ValueError, match=r"'block' is compiled"):
            other.require([path])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_modules_are_closed() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    model = nn.Sequential(OrderedDict(trunk=scripted, fc=nn.Linear(4, 2)))
    taps = tapped(model, ["input:fc", "fc"], torch.ones(2, 3))
    assert taps.read(torch.ones(2, 3))[1]["input:fc"].shape == (2, 4)
    for path in ("trunk", "trunk.0"):
        with pytest.raises(ValueError, match="'trunk' is a ScriptModule"):
            taps.require([path])
    whole = Taps(scripted, name="teacher")
    whole.probe(torch.ones(2, 3), training=False)
    whole.require(["output"])
    with pytest.raises(ValueError, match="the whole model is a ScriptModule"):
        whole.require(["0"])


def test_a_hook_of_the_user_runs_before_ours(images: Tensor) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    handle = model[0].register_forward_hook(lambda module, args, output: output + 1)
    taps = tapped(model, ["0", "input:1"], torch.ones(2, 3))
    _, values = taps.read(torch.ones(2, 3))
    assert torch.equal(values["0"], values["input:1"])
    assert len(model[0]._forward_hooks) == 1
    handle.remove()


def test_parse_is_a_table() -> None:
    path = parse("input:a.b#2[0][name]")
    assert (path.side, path.layer, path.call, path.keys) == ("input", "a.b", 2, ("0", "name"))
    assert parse("a[x]#3").call == 3
    assert parse("").layer == ""


def test_a_saved_model_holds_no_hook(images: Tensor) -> None:
    model = Net()
    before = io.BytesIO()
    torch.save(model, before)
    tapped(model, ["fc"], images).read(images)
    after = io.BytesIO()
    model.bn.reset_running_stats()
    torch.save(model, after)
    assert len(after.getvalue()) == len(before.getvalue())

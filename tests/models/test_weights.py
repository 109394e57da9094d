"""Weights survive the disk exactly, and every file that does not fit says why in a sentence."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from congruence.models.weights import load_into, load_metadata, load_weights, save_weights, start_from


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.embedding(ids)))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_tied_weights_survive(tmp_path: Path) -> None:
    model = Tied()
    file = tmp_path / "deep" / "student.safetensors"
    save_weights(model.state_dict(), file, {"epoch": "3"})
    with safe_open(file, "pt") as opened:
        assert opened.metadata().keys() == {"format", "epoch", "sha256"}
    assert load_metadata(file) == {"format": "pt", "epoch": "3"}
    other = Tied()
    other.load_state_dict(load_file(file))  # plain and strict
    assert same(other.state_dict(), model.state_dict())
    third = Tied()
    load_into(third, load_weights(file), source=str(file))
    assert third.head.weight is third.embedding.weight
    assert same(third.state_dict(), model.state_dict())
    assert [p.name for p in file.parent.iterdir()] == ["student.safetensors"]


def test_a_tied_name_that_is_left_out_is_filled_in() -> None:
    model, other = Tied(), Tied()
    state = model.state_dict()
    del state["head.weight"]
    load_into(other, state, source="a file")
    assert torch.equal(other.head.weight, model.embedding.weight)


def test_tied_names_with_two_values_are_refused() -> None:
    state = {name: value.clone() for name, value in Tied().state_dict().items()}
    state["embedding.weight"] += 1
    with pytest.raises(ValueError, match=r"they differ between names that the model ties: 'embedding.weight'\.$"):
        load_into(Tied(), state, source="a file")


def test_tied_names_that_are_not_numbers_are_alike() -> None:
    state = Tied().state_dict()
    state |= {name: torch.full((7, 3), torch.nan) for name in ("embedding.weight", "head.weight")}
    model = Tied()
    load_into(model, state, source="the file")
    assert model.head.weight.isnan().all()


def test_views_strides_and_dtypes_survive(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(2, 3, 4)
    state = {
        "part": base[0],
        "turned": base.transpose(0, 2),
        "last": base.new_ones(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "half": base.half(),
        "count": torch.tensor(5),
        "none": torch.empty(0, 3),
    }
    save_weights(state, tmp_path / "a.safetensors")
    loaded = load_weights(tmp_path / "a.safetensors")
    assert same(loaded, state)
    assert all(loaded[name].dtype == state[name].dtype and loaded[name].is_contiguous() for name in state)


@pytest.mark.parametrize("key", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_torch_files_of_every_habit(tmp_path: Path, key: str | None, prefix: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save(state if key is None else {"epoch": 4, key: state, "optimizer": {}}, tmp_path / "weights.pth")
    loaded = load_weights(tmp_path / "weights.pth")
    assert same(loaded, dict(model.state_dict()))


def test_a_module_called_module_and_compiled_parts_still_load(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 3)})
    other = nn.ModuleDict({"module": nn.Linear(2, 3)})
    save_weights(model.state_dict(), tmp_path / "a.safetensors")
    load_into(other, load_weights(tmp_path / "a.safetensors"), source="a")
    assert torch.equal(other["module"].weight, model["module"].weight)
    part = nn.Sequential(torch.compile(nn.Linear(2, 3), backend="eager"))
    load_into(part, {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(3)}, source="a")
    assert torch.equal(part[0].weight, torch.ones(3, 2))
    whole = torch.compile(nn.Linear(2, 3), backend="eager")
    load_into(whole, {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, source="a")
    assert torch.equal(whole.weight, torch.ones(3, 2))


def test_broken_and_foreign_files(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_weights(nn.Linear(40, 40).state_dict(), good)
    torch.save(nn.Linear(40, 40).state_dict(), tmp_path / "good.pt")
    cases = {"absent.pt": r"There is no weights file '.*absent.pt'", ".": r"There is no weights file .* is a folder"}
    for name in ("good.safetensors", "good.pt"):
        content = (tmp_path / name).read_bytes()
        for cut in (0, 5, len(content) // 2, len(content) - 1):
            (tmp_path / f"{cut}{name}").write_bytes(content[:cut])
            cases[f"{cut}{name}"] = r"cannot be read: it is cut short or in another format"
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("hello, these are not weights" * 20)
        cases[name] = "cannot be read: it is "
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    cases["module.pt"] = "Python objects in it are never executed"
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    cases["list.pt"] = r"holds no state dict .* but list"
    torch.save({"epoch": 3, "loss": torch.ones(1)}, tmp_path / "no.pt")
    cases["no.pt"] = r"holds no state dict .* but keys 'epoch', 'loss'"
    for name, sentence in cases.items():
        with pytest.raises(ValueError, match=sentence) as caught:
            load_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["student.safetensors", "weights.pt"])
def test_a_flipped_bit_is_never_loaded(tmp_path: Path, name: str) -> None:
    state, path = {"weight": torch.randn(3, 7), "bias": torch.randn(7).half()}, tmp_path / name
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_weights(state, path, {"epoch": "3"})
    content, refused = path.read_bytes(), 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            loaded = load_weights(path)
        except ValueError:
            refused += 1
        else:
            assert same(loaded, state)
    assert refused > len(content) / 3  # the rest is padding, and what nobody reads


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(3)}, tmp_path / "weights.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_weights(tmp_path / "weights.pt")["weight"].tolist() == [1, 1, 1]


def test_what_does_not_fit_is_named() -> None:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(1, 2, 3))
    model.add_module("fc", nn.Linear(4, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {"conv.weight": torch.ones(2, 3, 3, 3), "conv.bias": torch.ones(2), "fc1.weight": torch.ones(5, 4)}
    with pytest.raises(ValueError) as caught:
        load_into(model, state, source="'teacher.pt'")
    assert str(caught.value) == (
        "The weights of 'teacher.pt' do not fit Sequential: they lack 'fc.weight', 'fc.bias'; they have 'fc1.weight' "
        "besides; they differ in shape: 'conv.weight' [2, 3, 3, 3] for [2, 1, 3, 3]. Did you mean 'fc.weight'?"
    )
    with pytest.raises(ValueError, match=r"lack 'conv.weight', 'conv.bias', 'fc.weight' and 1 more\."):
        load_into(model, {}, source="nothing")
    assert same(dict(model.state_dict()), before)


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`save_weights`: `state_dict` must be a mapping of tensors, got int at 'epoch'"
    ):
        save_weights({"epoch": 3}, tmp_path / "a.safetensors")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"`metadata` must be strings by string, got 'epoch': 3"):
        save_weights({}, tmp_path / "a.safetensors", {"epoch": 3})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def _network(classes: int, *, width: int = 4, embedding: int | None = None) -> nn.Sequential:
    middle = [] if embedding is None else [nn.Linear(width, embedding)]
    body = [nn.Conv2d(1, width, 1), nn.BatchNorm2d(width), nn.Flatten()]
    return nn.Sequential(*body, *middle, nn.Linear(embedding or width, classes))


def test_a_network_starts_from_one_of_other_classes() -> None:
    donor, model, whole = _network(10), _network(3), _network(10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_from(model, donor.state_dict(), source="the donor") == ("3.weight", "3.bias")
    body = [name for name in before if not name.startswith("3.")]
    assert all(torch.equal(model.state_dict()[name], donor.state_dict()[name]) for name in body)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in ("3.weight", "3.bias"))
    assert start_from(whole, donor.state_dict(), source="the donor") == ()
    assert same(dict(whole.state_dict()), dict(donor.state_dict()))


def test_a_head_that_the_file_lacks_starts_anew() -> None:
    donor = {name: value for name, value in _network(10).state_dict().items() if not name.startswith("3.")}
    assert start_from(_network(10), donor, source="the donor") == ("3.weight", "3.bias")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda state: state.pop("0.weight"), "lack '0.weight'"),
        (lambda state: state.update({"9.weight": torch.zeros(1)}), "have '9.weight' besides"),
        (lambda state: state.update({"1.weight": torch.zeros(5)}), "differ in shape: '1.weight'"),
    ],
)
def test_only_linear_layers_may_start_anew(harm: Callable[[dict[str, Tensor]], object], sentence: str) -> None:
    state = dict(_network(10).state_dict())
    harm(state)
    with pytest.raises(ValueError, match=f"^The weights of the donor do not fit Sequential: .*{sentence}"):
        start_from(_network(3), state, source="the donor")


def state(*ones: int) -> dict[str, Tensor]:
    return {"weight": torch.ones(*ones)}


def options() -> dict[str, object]:
    """What training scripts leave beside the weights."""
    numbers = {"best": np.float64(0.5), "epoch": np.int64(3), "half": np.float16(1.0), "ok": np.bool_(True)}
    return {"args": argparse.Namespace(lr=0.1, sizes=[1, 2]), **numbers, "optimizer": {"state": {"w": state(1)}}}


@pytest.mark.parametrize(
    "key", ["state_dict", "state_dict_ema", "student", "params", "params_ema", "generator_of_mine", "model.state_dict"]
)
def test_options_and_numbers_of_numpy_beside_the_weights_under_any_key(tmp_path, caplog, key) -> None:
    inner: object = state(2)
    for part in reversed(key.split(".")):
        inner = {part: inner}
    torch.save({**options(), **inner}, tmp_path / "a.pth")
    with caplog.at_level("INFO", logger="congruence"):
        assert same(load_weights(tmp_path / "a.pth"), state(2))
    assert f"under its key '{key}'" in caplog.text


def test_a_usual_name_comes_before_others_and_several_usual_ones_ask(tmp_path: Path) -> None:
    torch.save({"state_dict": state(1), "criterion": {"centre": torch.ones(3)}}, tmp_path / "a.pth")
    assert same(load_weights(tmp_path / "a.pth"), state(1))
    torch.save({"student": state(2), "teacher": state(3)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"several state dicts: say which, by one of 'b.pth#student', 'b.pth#teacher'"):
        load_weights(tmp_path / "b.pth")
    assert same(load_weights(f"{tmp_path}/b.pth#teacher"), state(3))
    with pytest.raises(ValueError, match=r"has no key 'ema': it has 'student', 'teacher'"):
        load_weights(f"{tmp_path}/b.pth#ema")


def test_no_other_object_is_made(tmp_path: Path) -> None:
    for name, value in {"fractions.Fraction": Fraction(1, 2), "print": print}.items():
        torch.save({"state_dict": state(1), "other": value}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=rf"are never executed \('{name}'\); .*save its state dict alone"):
            load_weights(tmp_path / "a.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()  # nothing stays allowed for others


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    written, weights = set(), Tied().state_dict() | state(1)
    for _ in range(8):
        save_weights(weights, tmp_path / "a.safetensors", {"model": '{"é": [1]}', "epoch": "3"})
        written.add((tmp_path / "a.safetensors").read_bytes())
    assert len(written) == 1
    assert load_metadata(tmp_path / "a.safetensors") == {"epoch": "3", "format": "pt", "model": '{"é": [1]}'}
    assert load_file(tmp_path / "a.safetensors").keys() == load_weights(tmp_path / "a.safetensors").keys()
    assert load_metadata(tmp_path / "absent.safetensors") == {}

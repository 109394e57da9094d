"""What a model costs: counts from their definitions, times that take turns, and a model that is left as it was."""

import copy
import pickle
import time
import warnings

import pytest
import torch
from torch import nn

from congruence import Inputs
from congruence.evaluation import cost, costs
from congruence.models import OnnxModel, build

QUICK = {"batches": (1, 3), "calls": 2}


def test_a_convolution_and_a_linear_are_counted_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(8, 10))
    found = cost(model, torch.randn(2, 3, 6, 6), **QUICK)
    assert list(found) == ["parameters", "multiply_adds", "latency_1_ms", "latency_3_ms", "peak_memory_mb"]
    assert found["parameters"] == 3 * 8 * 9 + 8 + 8 * 10 + 10
    assert found.left_out == {}
    assert found["multiply_adds"] == 8 * 3 * 9 * 36 + 8 * 10
    assert 0 < found["latency_1_ms"] < 1000
    assert found.left_out == {}
    assert pickle.loads(pickle.dumps(found)) == found


def test_by_default_the_batches_are_of_1_and_64():
    assert [key for key in cost(nn.Linear(4, 2), torch.ones(1, 4), calls=1) if "latency" in key] == [
        "latency_1_ms",
        "latency_64_ms",
    ]


@pytest.mark.parametrize("kind", ["layer", "attention"])
def test_attention_is_counted_whichever_way_torch_runs_it(kind):
    tokens, width, hidden = 5, 8, 16
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)  # in evaluation one fused operation
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    if kind == "layer":
        found = cost(layer, torch.randn(1, tokens, width), **QUICK)
        assert found["multiply_adds"] == attention + 2 * tokens * width * hidden
    else:

        class Direct(nn.Module):
            def forward(self, x):
                return nn.functional.scaled_dot_product_attention(x, x, x)

        found = cost(Direct(), torch.randn(1, 2, tokens, 4), **QUICK)
        assert found["multiply_adds"] == 2 * tokens**2 * width
    assert torch.backends.mha.get_fastpath_enabled()


def test_recurrent_layers_are_counted():
    found = cost(nn.LSTM(3, 4, batch_first=True), torch.randn(2, 6, 3), **QUICK)
    assert found["multiply_adds"] == 6 * (4 * 4) * (3 + 4)
    found = cost(nn.GRU(3, 4, batch_first=True), torch.randn(2, 6, 3), **QUICK)
    assert found["multiply_adds"] == 6 * (3 * 4) * (3 + 4)


def test_products_with_a_vector_are_counted():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(7))

        def forward(self, x):
            return x @ self.weight

    assert cost(Scores(), torch.randn(2, 7), **QUICK)["multiply_adds"] == 7


def test_an_operation_without_a_formula_leaves_the_count_out_with_its_name():
    @torch.library.custom_op("cost_of_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    class Model(nn.Module):
        def forward(self, x):
            return twice(x)

    found = cost(Model(), torch.ones(2, 3), **QUICK)
    assert found["multiply_adds"] is None
    assert "cost_of_tests.twice" in found.left_out["multiply_adds"]
    assert found["latency_1_ms"] > 0


def test_memory_is_what_lives_at_once_beyond_weights_and_inputs():
    wide = nn.Sequential(nn.Linear(4, 1000), nn.Linear(1000, 500), nn.Linear(500, 10))
    found = cost(wide, torch.ones(1, 4), batches=(1, 64), calls=1)
    assert found["peak_memory_mb"] == pytest.approx(64 * (1000 + 500) * 4 / 1e6)
    in_place = nn.Sequential(nn.Linear(4, 1000), nn.ReLU(inplace=True), nn.Flatten())
    found = cost(in_place, torch.ones(1, 4), batches=(1, 64), calls=1)
    assert found["peak_memory_mb"] == pytest.approx(64 * 1000 * 4 / 1e6)


def test_nothing_of_the_model_nor_of_the_generators_is_changed():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.fc = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)
            self.register_buffer("calls", torch.zeros(()))
            self.seen = 0

        def forward(self, x):
            self.calls += 1
            self.seen += 1
            return self.fc(self.drop(self.norm(x))) + torch.rand(())

    model = Counting().train()
    model.drop.eval()
    before, inputs = copy.deepcopy(model.state_dict()), torch.randn(5, 4)
    given, state = inputs.clone(), torch.get_rng_state()
    cost(model, inputs, **QUICK)
    assert [part.training for part in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.seen == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inputs, given)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_models_take_turns():
    order = []

    class Noting(nn.Module):
        def __init__(self, name, seconds):
            super().__init__()
            self.name, self.seconds = name, seconds

        def forward(self, x):
            order.append((self.name, len(x)))
            time.sleep(self.seconds)
            return x

    models = {"teacher": Noting("teacher", 0.006), "small": Noting("small", 0.001)}
    found = costs(models, torch.ones(2, 3), batches=(3,), calls=4)
    turns = [name for name, count in order if count == 3][-8:]
    assert sorted(turns[:2]) == sorted(turns[2:4]) == ["small", "teacher"]
    assert found["teacher"]["latency_3_ms"] >= 6 > found["small"]["latency_3_ms"] >= 1
    assert list(found) == ["teacher", "small"]


def test_each_model_takes_its_own_inputs():
    seen = {}

    class Noting(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, ids, mask=None):
            seen.setdefault(self.name, set()).add(tuple(ids.shape))
            return ids * mask

    inputs = Inputs(
        teacher={"ids": torch.ones(2, 5), "mask": torch.ones(2, 5)}, student=(torch.ones(2, 3), torch.ones(2, 3))
    )
    costs({"teacher": Noting("teacher"), "small": Noting("small")}, inputs, **QUICK)
    assert seen == {"teacher": {(1, 5), (3, 5)}, "small": {(1, 3), (3, 3)}}
    assert cost(nn.Linear(3, 1), Inputs(student=torch.ones(2, 3)), **QUICK)["parameters"] == 4


def test_an_onnx_file_has_times_alone(tmp_path, monkeypatch):
    class Outside(OnnxModel):
        def __init__(self):
            nn.Module.__init__(self)
            self.path = tmp_path / "a.onnx"

        def forward(self, x):
            return torch.from_numpy(x.numpy().sum(1))

    found = cost(Outside(), torch.ones(2, 3), **QUICK)
    assert [key for key, value in found.items() if value is None] == ["parameters", "multiply_adds", "peak_memory_mb"]
    assert all("onnxruntime" in found.left_out[key] for key in ("parameters", "multiply_adds", "peak_memory_mb"))


def test_a_program_of_one_batch_size_is_measured_at_that():
    class Fixed(nn.Module):
        def forward(self, x):
            if len(x) != 3:
                raise RuntimeError("the batch is 3")
            return x + 1

    found = cost(Fixed(), torch.ones(1, 2), **QUICK)
    assert found["latency_3_ms"] > 0
    assert found["latency_1_ms"] is None
    assert "the batch is 3" in found.left_out["latency_1_ms"]
    assert found["multiply_adds"] is None
    assert found["peak_memory_mb"] > 0
    with pytest.raises(ValueError, match=r"teacher's forward on \[5, 2\] failed.*the batch is 3"):
        costs({"teacher": Fixed()}, torch.ones(1, 2), batches=(5,))


def test_a_script_and_a_model_in_half_precision_are_measured():
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch advises against its own scripts
        script = torch.jit.trace(plain, torch.ones(2, 4))
    assert cost(script, torch.ones(2, 4), **QUICK)["multiply_adds"] == 4 * 6 + 6 * 2
    assert cost(nn.Linear(4, 6).bfloat16(), torch.ones(2, 4), **QUICK)["multiply_adds"] == 24


def test_a_network_of_the_zoo_costs_what_is_known_of_it():
    found = cost(build("resnet20", classes=10), torch.randn(1, 3, 32, 32), batches=(1,), calls=1)
    assert 40e6 < found["multiply_adds"] < 42e6  # 41 million


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: cost("resnet20", torch.ones(1)), "`cost`: `model` must be a torch module, got str"),
        (lambda: costs({}, torch.ones(1)), "`costs`: `models` must be modules by name"),
        (lambda: cost(nn.Linear(1, 1), "text"), "`inputs` must be a tensor, tuple or mapping with a sample, got str"),
        (lambda: cost(nn.Linear(1, 1), torch.ones(0, 1)), "with a sample, got "),
        (lambda: cost(nn.Linear(1, 1), torch.ones(1, 1), batches=(0,)), "`batches` must be whole numbers >= 1"),
        (lambda: cost(nn.Linear(1, 1), torch.ones(1, 1), batches=()), "`batches` must be whole numbers >= 1"),
        (lambda: cost(nn.Linear(1, 1), torch.ones(1, 1), calls=0), "`calls` must be an integer >= 1"),
        (lambda: cost(nn.Linear(1, 1), torch.ones(1, 7)), r"student's forward on \[1, 7\] failed"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

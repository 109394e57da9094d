"""A student with adapters learns from its own base: the frozen weights are there once, and the teacher never moves."""

import pytest
import torch
from _harness.encoders import THIRD_PARTY, bert, imported, texts

import congruence as cg
from congruence.models.parameters import common_parameters

pytestmark = [pytest.mark.filterwarnings(each) for each in THIRD_PARTY]
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}


def adapted(**more):
    """A classifier with adapters: all but these and its head is frozen; dropout makes the modes tell."""
    peft = imported("peft")
    torch.manual_seed(1)
    base = bert("BertForSequenceClassification", num_labels=3, **DROPOUT)
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], lora_dropout=0.2, **more)
    return peft.get_peft_model(base, config)


def switched_off(student, inputs):
    """What peft itself says of the base, in evaluation mode."""
    modes = {module: module.training for module in student.modules()}
    student.eval()
    with student.disable_adapter(), torch.no_grad():
        logits = student(**inputs).logits
    for module, mode in modes.items():
        module.training = mode
    return logits


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["classifier"]}, {"bias": "lora_only"}])
def test_the_teacher_is_the_base_at_every_step_while_the_student_trains(more):
    student = adapted(**more)
    teacher = cg.models.without_adapters(student)
    inputs, labels = texts(6), torch.arange(6) % 3
    base = switched_off(student, inputs)
    distiller = cg.Distiller(teacher, student, [cg.Term("kd", weight=1.0), "ce"], example=inputs)
    distiller.train()
    optimizer = torch.optim.AdamW(distiller.parameter_groups(), lr=0.05)
    for _ in range(3):
        with torch.no_grad():
            torch.testing.assert_close(teacher(**inputs).logits, base, atol=0, rtol=0)
        out = distiller(inputs, labels)
        torch.testing.assert_close(out.teacher.logits, base, atol=0, rtol=0)
        assert student.training
        assert all(module.training for module in student.modules())  # its dropout is its own
        assert not any(module.training for module in teacher.modules())
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = student.eval()(**inputs).logits
    assert (moved - base).abs().max() > 1e-4
    if "bias" not in more:  # peft switches its adapters off, not a bias that was trained
        torch.testing.assert_close(switched_off(student, inputs), base, atol=0, rtol=0)


def test_frozen_weights_take_no_memory_twice():
    student = adapted()
    teacher = cg.models.without_adapters(student)
    assert type(teacher).__name__ == "BertForSequenceClassification"
    common = common_parameters(teacher, student)
    assert set(common) == {name for name, _ in teacher.named_parameters()}
    assert not set(teacher.modules()) & set(student.modules())
    assert not [name for name, _ in teacher.named_modules() if "lora" in name]


def test_a_run_saves_the_adapters_alone_and_the_student_whole(tmp_path):
    peft, student = imported("peft"), adapted()
    teacher = cg.models.without_adapters(student)
    inputs, labels = texts(16), torch.arange(16) % 3
    data = [({name: tensor[i] for name, tensor in inputs.items()}, labels[i]) for i in range(16)]
    done = cg.distill(teacher, student, data, "kd", epochs=1, batch_size=8, out=tmp_path / "run", device="cpu")
    folder = tmp_path / "run" / "student-hf"
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    again = peft.PeftModel.from_pretrained(
        bert("BertForSequenceClassification", num_labels=3, **DROPOUT), folder
    ).eval()
    torch.testing.assert_close(again(**inputs).logits, done.student(**inputs).logits)
    whole = cg.load_student(tmp_path / "run", adapted)
    torch.testing.assert_close(whole(**inputs).logits, done.student(**inputs).logits)


def test_a_shared_weight_that_trains_later_stops_the_run():
    student = adapted()
    distiller = cg.Distiller(cg.models.without_adapters(student), student, ["kd"], example=texts())
    student.get_base_model().bert.embeddings.word_embeddings.weight.requires_grad_()
    with pytest.raises(RuntimeError, match=r"shares its parameter 'bert.embeddings.word_embeddings.weight' with the"):
        distiller(texts())


def test_what_would_move_the_teacher_is_refused():
    body = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.5))
    teacher = torch.nn.Sequential(body, torch.nn.Linear(6, 3))
    student = torch.nn.Sequential(body, torch.nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"shares parameters with a student, .*without_adapters"):
        cg.Distiller(teacher, student, ["kd"], example=torch.randn(2, 4))
    body.requires_grad_(False)
    with pytest.raises(ValueError, match=r"shares layers with a student, .* evaluation mode for the one"):
        cg.Distiller(teacher, student, ["kd"], example=torch.randn(2, 4))
    own = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.5))
    own[0].weight, own[0].bias = body[0].weight, body[0].bias
    distiller = cg.Distiller(
        teacher, torch.nn.Sequential(own, torch.nn.Linear(6, 3)), ["kd"], example=torch.randn(2, 4)
    )
    assert distiller(torch.randn(2, 4)).loss > 0


def test_a_model_without_adapters_and_one_that_took_them_in_are_refused():
    with pytest.raises(ValueError, match=r"`model` must be a model with adapters of peft, got BertModel without"):
        cg.models.without_adapters(bert())
    student = adapted()
    student.merge_adapter()
    with pytest.raises(ValueError, match=r"merged into the weights, .* unmerge_adapter"):
        cg.models.without_adapters(student)

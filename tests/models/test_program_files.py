"""TorchScript and exported programs in files: read where they are trusted, with their layers where these can be had."""

import warnings

import pytest
import torch
from torch import nn

from congruence import Distiller, Term, compare
from congruence.models import Teacher
from congruence.models.program_files import load_exported, load_script

X = torch.linspace(-1, 1, 24).reshape(6, 4)


class Net(nn.Module):
    def __init__(self, both=False):
        super().__init__()
        torch.manual_seed(3)
        self.body, self.fc, self.both = (
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()),
            nn.Linear(5, 3),
            both,
        )

    def forward(self, x):
        hidden = self.body(x)
        return {"embedding": hidden, "logits": self.fc(hidden)} if self.both else self.fc(hidden)


def student():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def exported(folder, model, name="net.pt2", dynamic=True):
    shapes = {"x": {0: torch.export.Dim("batch", min=2)}} if dynamic else None
    torch.export.save(torch.export.export(model, (X[:2],), dynamic_shapes=shapes), folder / name)
    return str(folder / name)


def scripted(folder, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, X, strict=False), str(folder / "net.pt"))
    return str(folder / "net.pt")


def losses(teacher, terms):
    return {k: float(v.detach()) for k, v in Distiller(teacher, student(), terms, example=X[:2])(X).terms.items()}


def test_an_exported_program_teaches_as_the_model_it_was_made_of(tmp_path):
    expected = losses(Net().eval(), ["kd", "pkt"])
    teacher = load_exported(exported(tmp_path, Net().eval()), trust=True)
    made = Distiller(teacher, student(), ["kd", "pkt", Term("pkt", name="deep", teacher_layer="body.0")], example=X[:2])
    assert "teacher features 'input:fc' [2, 5]" in made.describe_layers()["pkt"]
    assert "'body.0' [2, 5]" in made.describe_layers()["deep"]
    assert losses(teacher, ["kd", "pkt"]) == pytest.approx(expected, rel=1e-6)
    made.train()
    assert {name: float(made(X).terms[name].detach()) for name in expected} == pytest.approx(expected, rel=1e-6)


def test_a_copy_in_bfloat16_or_folded_is_made_of_no_graph(tmp_path, caplog):
    teacher = Teacher(load_exported(exported(tmp_path, Net().eval()), trust=True))
    teacher.taps.probe(X[:2], training=False)
    with caplog.at_level("INFO", logger="congruence"):
        teacher.prepare()
    assert teacher.prepared is None
    assert not [record for record in caplog.records if record.name == "congruence"]


def test_exported_programs_have_the_fingerprint_of_their_content(tmp_path):
    def fingerprint(model, name):
        return Teacher(load_exported(exported(tmp_path, model.eval(), name), trust=True)).fingerprint()

    other = Net()
    with torch.no_grad():
        other.fc.weight[0, 0] += 1
    of_one, again, of_other = (fingerprint(m, f"{n}.pt2") for n, m in enumerate((Net(), Net(), other)))
    assert not of_one.unreadable
    assert of_one == again
    assert (of_one.content != of_other.content, of_one.structure == of_other.structure) == (True, True)
    bent = Net()
    bent.body[2] = nn.Tanh()
    assert fingerprint(bent, "bent.pt2").structure != of_one.structure


def test_exported_programs_that_cannot_serve(tmp_path):
    with pytest.raises(ValueError, match="exported or traced in training mode"):
        Teacher(load_exported(exported(tmp_path, Net().train()), trust=True))
    module = load_exported(exported(tmp_path, Net().eval()), trust=True)
    with pytest.raises(ValueError, match="`student` must be a module that can be trained, got an exported program"):
        Distiller(None, module, ["ce"])
    fixed = load_exported(exported(tmp_path, Net().eval(), "fixed.pt2", dynamic=False), trust=True)
    made = Distiller(fixed, student(), ["kd"], example=X[:2])
    with pytest.raises(
        ValueError, match=r"exported program and refuses a batch of 6 .*: export it with dynamic_shapes"
    ):
        made(X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_gives_the_outputs_that_say_what_they_are(tmp_path):
    both = load_script(scripted(tmp_path, Net(both=True).eval()), trust=True)
    made = Distiller(both, student(), ["kd", "pkt"], example=X[:2])
    assert "teacher features 'output[embedding]' [2, 5]" in made.describe_layers()["pkt"]
    assert losses(both, ["kd", "pkt"]) == pytest.approx(losses(Net().eval(), ["kd", "pkt"]), rel=1e-5)
    alone = load_script(scripted(tmp_path, Net().eval()), trust=True)
    assert losses(alone, ["kd"]) == pytest.approx(losses(Net().eval(), ["kd"]), rel=1e-5)
    with pytest.raises(
        ValueError, match=r"no 'features' to read, because the whole model is a ScriptModule: .*'output\["
    ):
        losses(alone, ["pkt"])
    assert "pkt" in losses(alone, [Term("pkt", teacher_layer="output")])


class Pair(Net):
    def forward(self, x):
        return tuple(super().forward(x).values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parts_without_names_are_listed(tmp_path):
    pair = load_script(scripted(tmp_path, Pair(both=True).eval()), trust=True)
    with pytest.raises(ValueError, match=r"'output\[0\]' \[2, 5\], 'output\[1\]' \[2, 3\]"):
        losses(pair, ["pkt"])
    named = [Term("pkt", teacher_layer="output[0]"), Term("kd", teacher_layer="output[1]")]
    assert losses(pair, named) == pytest.approx(losses(Net().eval(), ["pkt", "kd"]), rel=1e-5)


def test_a_graph_that_is_no_file_hides_its_layers_too():
    shapes = {"x": {0: torch.export.Dim("batch", min=2)}}
    for inside in (False, True):
        graph = torch.export.export(Net(both=inside).eval(), (X[:2],), dynamic_shapes=shapes).module()
        with pytest.raises(ValueError, match="because the whole model is an exported graph"):
            losses(graph, [Term("pkt", teacher_layer="fc")])
        if inside:
            assert "pkt" in losses(graph, ["pkt"])
        else:
            with pytest.raises(ValueError, match="no 'features' to read, because the whole model is an exported graph"):
                losses(graph, ["pkt"])


def test_files_that_are_not_what_they_should_be(tmp_path):
    for load, kind in ((load_script, "jit"), (load_exported, "export")):
        with pytest.raises(
            ValueError, match=f"The file of '{kind}:x.pt' can run code: allow it with trust=True, or --tr"
        ):
            load("x.pt", trust=False)
        with pytest.raises(ValueError, match=r"There is no file '.*absent\.pt'"):
            load(str(tmp_path / "absent.pt"), trust=True)
        (tmp_path / "damaged.pt2").write_bytes(b"12345")
        with pytest.raises(ValueError, match=r"The file '.*damaged\.pt2' is not .*, or is damaged"):
            load(str(tmp_path / "damaged.pt2"), trust=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_comparison_has_the_output_in_the_embedding_s_place_and_says_so_once(tmp_path, caplog):
    loader, plain = [(X, torch.arange(6) % 3)], Net().eval()
    alone = load_script(scripted(tmp_path, plain), trust=True)
    reports = [compare(alone, student(), loader) for _ in range(2)]
    (told,) = [record.getMessage() for record in caplog.records if record.name == "congruence"]
    assert told == (
        "The teacher's embedding cannot be read, because the whole model is a ScriptModule: its 'output' is measured "
        "instead."
    )
    expected = compare(plain, student(), loader, teacher_layer="output")
    assert reports[0].gpcl == pytest.approx(expected.gpcl)
    assert reports[0].agreement == expected.agreement
    both = load_script(scripted(tmp_path, Net(both=True).eval()), trust=True)
    assert compare(both, student(), loader).gpcl == pytest.approx(compare(plain, student(), loader).gpcl)
    assert len([record for record in caplog.records if record.name == "congruence"]) == 1

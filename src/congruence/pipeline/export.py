"""`export`: writes a run's student, or any module, in a format that works without this library."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from congruence import data as datasets
from congruence.core import check
from congruence.core.files import writable, write_json
from congruence.core.inputs import STUDENT
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.model_facts import ModelFacts, remembered
from congruence.evaluation.exporting import formats
from congruence.evaluation.exporting.card import CardFacts, write_card
from congruence.evaluation.exporting.graph import Graph, plain_float32, two_rows
from congruence.evaluation.exporting.int8 import quantise
from congruence.evaluation.exporting.sameness import SIZES, TOLERANCE, Sameness, Samples, compare_runs
from congruence.models.adapters import load_native, save_native
from congruence.models.inputs import ImageInput
from congruence.models.layers import unwrap
from congruence.models.parameters import count_parameters
from congruence.models.weights import load_weights, save_weights
from congruence.pipeline.exported_run import card_of, projection_of, student_of
from congruence.pipeline.taken import Taker, as_taken

LOG = logging.getLogger("congruence")
FACTS, CARD = "model.json", "README.md"


@dataclass(frozen=True)
class Exported:
    """The result of `export`.


    Args:
        folder: the folder with all files.
        to: the format.
        files: names of the files in the folder, the model's file first.
        outputs: names of the exported graph's outputs, in order; empty if only weights were exported.
        check: the comparison of the file with the model; None where the format cannot be run, or no samples are known.
        int8: the comparison of the int8 file with the model, None without one.
    """

    folder: Path
    to: str
    files: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    check: Sameness | None = None
    int8: Sameness | None = None

    @property
    def file(self) -> Path:
        """The model's own file."""
        return self.folder / self.files[0]


@dataclass(frozen=True)
class _Source:
    """A model, and what is known of it."""

    model: nn.Module
    facts: ModelFacts
    samples: Samples | None
    train: Samples | None = None
    validation: Samples | None = None
    interpolation: str = "bilinear"
    made_by: Any = None
    card: CardFacts = field(default_factory=CardFacts)
    projection: nn.Module | None = None
    layer: str | None = None


def export(
    model_or_run: nn.Module | str | Path,
    out: str | Path | None = None,
    *,
    to: str = "onnx",
    example: Any = None,
    data: Any = None,
    features: bool = False,
    layer: str | None = None,
    projection: nn.Module | str | None = None,
    int8: bool = False,
    name: str | None = None,
    last: bool = False,
    factory: Callable[[], nn.Module] | None = None,
    trust: bool = False,
    license: str | None = None,
    teacher_license: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model in another format, compare the file with the model, and describe it in model.json and README.md.

    "onnx" writes one file student.onnx with the weights inside, "torch-export" a student.pt2 of `torch.export`. Both
    take batches of any size and are compared with the model on real samples, in batches of 1, 2, 7 and 64 and then on
    all samples (at most 10,000): if a number differs by more than 1e-4 (times the largest number of its output, if that
    exceeds 1), no file is kept. "safetensors" writes only the weights; "hf", "st" and "timm" write a folder from which
    the library of that name loads its own model. transformers and sentence-transformers do so here, where samples are
    known, and what they loaded is compared in the same way.
    The graph takes a model's inputs by position (a mapping's entries in order, in ONNX under their names), and returns
    "logits"; with `features`, also the embedding, "features".

    Args:
        model_or_run: a module, or a run's folder, whose best student is exported.
        out: the folder to create; for a run, by default "export-FORMAT" in its folder.
        to: the format.
        example: a batch of inputs (a tensor, a tuple, or a mapping by keyword). A module needs this or `data`.
        data: the data to compare on (its test part): `Splits`, a dataset of congruence.data, or an argument for
            `congruence.data.load`. A run from a configuration uses its own data by default. `int8` needs `Splits`.
        features: whether to also export the embedding.
        layer: the layer that gives the embedding; None for the input of the last Linear.
        projection: a map applied to the embedding (this implies `features`): a module or, for a run, the name of a term
            whose trained map to the teacher's width is read from the run's checkpoint.
        int8: whether to also write an int8 file with onnxruntime: calibrated on training images (static), or for texts
            with int8 weights only (dynamic). It is compared with the model on the validation data; differences are
            reported, and never raise.
        name: which student, if the run had several.
        last: take the last epoch's weights instead of the best one's.
        factory: makes the student's architecture, see `load_student`.
        trust: whether a factory that the run names may be imported.
        license: the exported model's licence, for its card.
        teacher_license: the teacher's licence, for the card.
        overwrite: whether to replace an existing export in the folder.

    Returns:
        Exported: the files, and the results of the comparisons.

    Raises:
        ValueError: for arguments that cannot work.

    Example:
        >>> import tempfile, torch, congruence as cg
        >>> model = torch.nn.Linear(4, 2)
        >>> done = cg.export(model, tempfile.mkdtemp(), to="torch-export", example=torch.randn(8, 4))
        >>> done.files, done.outputs, done.check.agreement
        (('student.pt2', 'model.json', 'README.md'), ('logits',), 1.0)
    """
    formats.check_format(to)
    if int8 and to != "onnx":
        check.fail("export", "int8", "left out unless to='onnx'", int8)
    if (features or layer is not None or projection is not None) and to not in formats.TRACED:
        check.fail("export", "to", f"one of {', '.join(formats.TRACED)} with features", repr(to))
    asked: dict[str, Any] = {"example": example, "data": data, "layer": layer, "projection": projection}
    if isinstance(model_or_run, nn.Module):
        source = _of_model(model_or_run, **asked)
        if out is None:
            check.fail("export", "out", "a folder, for a module", out)
    elif isinstance(model_or_run, str | Path):
        source = _of_run(model_or_run, name=name, last=last, factory=factory, trust=trust, **asked)
        out = Path(model_or_run) / f"export-{to}" if out is None else out
    else:
        check.fail("export", "model_or_run", "a torch module or a run's folder", type(model_or_run).__name__)
    formats.check_format(to, unwrap(source.model))
    card = replace(source.card, license=license, teacher_license=teacher_license)
    with_features = features or source.layer is not None or source.projection is not None
    return _written(replace(source, card=card), Path(out), to, features=with_features, int8=int8, overwrite=overwrite)


# What is exported


def _of_model(model: nn.Module, *, example: Any, data: Any, layer: str | None, projection: Any) -> _Source:
    if isinstance(projection, str):
        check.fail("export", "projection", "a module, unless a run is exported", repr(projection))
    splits = _splits(data)
    if splits is not None:
        splits = as_taken(splits, {STUDENT: Taker(model)}, {}, told=False)
    known = remembered(model)
    facts = known[0] if known is not None else ModelFacts() if splits is None else ModelFacts.of(splits.train)
    samples = _samples(splits, example)
    return _with_data(_Source(model, facts, samples, projection=projection, layer=layer), splits)


def _of_run(run: str | Path, *, example: Any, data: Any, layer: str | None, projection: Any, **more: Any) -> _Source:
    of_run = student_of(run, given=_splits(data), **more)
    known = remembered(of_run.model)
    facts = ModelFacts() if known is None else known[0]
    if isinstance(projection, str):
        projection, read = projection_of(of_run, projection)
        layer = layer or read
    samples = _samples(of_run.splits, example)
    if samples is None and facts.shape is not None:
        noise = torch.randn(sum(SIZES), *facts.shape, generator=torch.Generator().manual_seed(0))
        LOG.warning("The run does not say its data: the file is compared on random inputs (give data=, --data).")
        samples = Samples.of_batch("random inputs", noise)
    source = _Source(of_run.model, facts, samples, made_by=dict(of_run.described) or None, card=card_of(of_run))
    return _with_data(replace(source, projection=projection, layer=layer), of_run.splits)


def _splits(data: Any) -> datasets.Splits | None:
    if data is None or isinstance(data, datasets.Splits):
        return data
    if isinstance(data, str | Path):
        return datasets.load(data)
    if isinstance(data, BatchDataset):
        return datasets.Splits(data, data.subset([]), data)
    return check.fail("export", "data", "Splits, a dataset of congruence.data, or its name", type(data).__name__)


def _samples(splits: datasets.Splits | None, example: Any) -> Samples | None:
    if splits is not None and len(splits.test):
        return Samples.of_dataset("the test data", splits.test)
    return None if example is None else Samples.of_batch("the example", example)


def _with_data(source: _Source, splits: datasets.Splits | None) -> _Source:
    if splits is None:
        return source
    taken = splits.train.model_input()
    part, what = (
        (splits.validation, "the validation data") if len(splits.validation) else (splits.test, "the test data")
    )
    return replace(
        source,
        train=Samples.of_dataset("the training data", splits.train),
        validation=Samples.of_dataset(what, part),
        interpolation=taken.interpolation if isinstance(taken, ImageInput) else source.interpolation,
    )


# What is written


def _written(source: _Source, folder: Path, to: str, *, features: bool, int8: bool, overwrite: bool) -> Exported:
    """Write an export beside the folder, and put it in its place when all has gone well."""
    before = _claimed(folder, overwrite=overwrite)
    part = writable(folder.absolute().parent) / f".{folder.absolute().name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        if to in formats.TRACED:
            done, facts = _traced(source, part, to, features=features, int8=int8)
        else:
            done, facts = _weights(source, part, to)
        done = replace(done, folder=folder, files=(*done.files, FACTS, CARD))
        told = {
            **source.facts.to_dict(),
            **({"interpolation": source.interpolation} if source.facts.mean is not None else {}),
            "parameters": count_parameters(source.model),
            "export": {"to": to, "files": list(done.files), "torch": torch.__version__, "made_by": source.made_by}
            | facts,
        }
        write_json(part / FACTS, told)
        write_card(part / CARD, source.card, told)
        folder.mkdir(parents=True, exist_ok=True)
        for name in before:
            _remove(folder / name)
        for path in sorted(part.iterdir()):
            _remove(folder / path.name)
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def _claimed(folder: Path, *, overwrite: bool) -> list[str]:
    """Return the files of an export that is in a folder and may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The folder '{folder}' cannot be made: a file of that name is in its place.")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not there:
        return []
    few = ", ".join(there[:4]) + (" …" if len(there) > 4 else "")
    if not overwrite:
        raise ValueError(
            f"The folder '{folder}' holds files already ({few}): choose another (out=, --out), or replace the export "
            "in it (overwrite=True, --overwrite)."
        )
    try:
        files = json.loads((folder / FACTS).read_text(encoding="utf8"))["export"]["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"The folder '{folder}' holds files that are no export ({few}): choose another.") from None
    return [name for name in files if isinstance(name, str) and Path(name).name == name != ".."]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _traced(source: _Source, part: Path, to: str, *, features: bool, int8: bool) -> tuple[Exported, dict[str, Any]]:
    """Write and compare a graph; return what model.json says of it."""
    samples = source.samples
    if samples is None or not samples.count:
        raise ValueError("What the model takes is not known: give a batch of inputs (example=), or data= (--data).")
    model = plain_float32(source.model)
    example = two_rows(samples.take(torch.arange(min(2, samples.count))))
    graph = Graph(model, example, features=features, layer=source.layer, projection=source.projection)
    path = part / formats.TRACED[to]
    write, run = {
        "onnx": (formats.write_onnx, formats.run_onnx),
        "torch-export": (formats.write_program, formats.run_program),
    }[to]
    write(graph, example, path)
    found = _required(*compare_runs(graph.outputs, run(path, graph), samples))
    done = Exported(part, to, (path.name,), tuple(graph.paths), found)
    named = dict(zip(graph.inputs, graph.arguments(example), strict=True))
    facts: dict[str, Any] = {
        "precision": "float32",
        "inputs": formats.described(named),
        "outputs": formats.described(graph.outputs(example)),
        "layers": graph.layers,
        "check": asdict(found),
    }
    if to == "onnx":
        facts["opset"] = formats.OPSET
    if source.projection is not None:
        facts["projected"] = True
    if not int8:
        return done, facts
    how = quantise(path, part / formats.INT8, graph, source.train)
    measured = source.validation or samples
    lost, _ = compare_runs(graph.outputs, formats.run_onnx(part / formats.INT8, graph), measured)
    lost = replace(lost, how=how)
    facts["int8"] = asdict(lost)
    return replace(done, files=(path.name, formats.INT8), int8=lost), facts


def _weights(source: _Source, part: Path, to: str) -> tuple[Exported, dict[str, Any]]:
    """Write a model's weights, or the folder of its library."""
    model = unwrap(source.model)
    precision = next((str(p.dtype).removeprefix("torch.") for p in model.parameters()), "float32")
    if to == "safetensors":
        path = part / "student.safetensors"
        save_weights(model.state_dict(), path, {"model": json.dumps(source.facts.to_dict())})
        read, state = load_weights(path), model.state_dict()
        if any(
            not torch.equal(read[key], value.cpu()) and not bool(value.isnan().any()) for key, value in state.items()
        ):
            raise ValueError(f"The weights in '{path.name}' are not those that were written: is the disk full?")
        files: tuple[str, ...] = (path.name,)
    else:
        save_native(model, part)
        files = tuple(sorted((p.name for p in part.iterdir()), key=lambda name: ("safetensors" not in name, name)))
        found = _loaded_back(model, part, source.samples)
        if found is not None:
            return Exported(part, to, files, check=found), {"precision": precision, "check": asdict(found)}
    return Exported(part, to, files), {"precision": precision}


def _loaded_back(model: nn.Module, folder: Path, samples: Samples | None) -> Sameness | None:
    """Compare what a model's library loads from its folder with the model; None without samples or outputs to see."""
    again = load_native(model, folder)
    if again is None or samples is None or not samples.count:
        return None
    example = two_rows(samples.take(torch.arange(min(2, samples.count))))
    try:
        graphs = [Graph(plain_float32(each), example) for each in (model, again)]
    except ValueError:  # what it gives is no tensor that a graph could have
        return None
    return _required(*compare_runs(graphs[0].outputs, graphs[1].outputs, samples))


def _required(found: Sameness, alike: bool) -> Sameness:
    if not alike:
        apart = ", ".join(f"{value:.3g} in {name}" for name, value in found.largest_difference.items())
        raise ValueError(
            f"The exported file does not give the model's outputs: on {found.samples} samples of {found.on} the "
            f"numbers are apart by up to {apart}, and {TOLERANCE:g} is allowed. It was removed."
        )
    return found

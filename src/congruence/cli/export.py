"""`congruence export`: write a run's student in a format that works without this library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from congruence.cli.options import Trust
from congruence.cli.say import say

if TYPE_CHECKING:
    from congruence.pipeline.export import Exported


def export(
    run: Annotated[str, typer.Argument(help="A run's folder.", metavar="RUN")],
    to: Annotated[
        str, typer.Option("--to", help="The format: onnx, torch-export, safetensors, hf, st or timm.")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write; export-FORMAT in the run's folder by default.", show_default=False),
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Also export the embedding: outputs logits, features.")
    ] = False,
    with_projection: Annotated[
        str | None,
        typer.Option(
            "--with-projection",
            help="Export the embedding projected to the teacher's width by the map that this term trained.",
            metavar="TERM",
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="The layer that gives the embedding; by default the input of the last Linear.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write an int8 file, and print what it loses on the validation data.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Data on which to check the export, a name or a folder; by default the run's.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="Which student, if the run had several.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Take the last epoch's weights, not the best one's.")] = False,
    license_: Annotated[str | None, typer.Option("--license", help="The model's licence, for its card.")] = None,
    teacher_license: Annotated[
        str | None, typer.Option("--teacher-license", help="The teacher's licence, for the card.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing export in the folder.")] = False,
    trust: Trust = False,
) -> None:
    """Write a run's best student as ONNX or in another format, check it against the model, and add a model card."""
    from congruence.pipeline.export import export as write

    done = write(
        run,
        out,
        to=to,
        data=data,
        features=features,
        layer=layer,
        projection=with_projection,
        int8=int8,
        name=student,
        last=last,
        trust=trust,
        license=license_,
        teacher_license=teacher_license,
        overwrite=overwrite,
    )
    for line in _told(done):
        say(line)
    if license_ is None or teacher_license is None:
        say("The card is missing licences: look them up before sharing (--license, --teacher-license).")


def _told(done: Exported) -> list[str]:
    """Print what was written and how it compares."""
    from dataclasses import asdict

    from congruence.evaluation.exporting.card import told_of

    gives = f", which gives {', '.join(done.outputs)}" if done.outputs else ""
    size = done.file.stat().st_size
    lines = [f"{done.to}: {done.file} ({size / 1e6:.2f} MB){gives}"]
    if done.check is not None:
        lines.append(f"beside the model: {told_of(asdict(done.check))}")
    if done.int8 is not None:
        path = done.folder / done.files[1]
        lines.append(f"int8: {path} ({path.stat().st_size / 1e6:.2f} MB)")
        lines.append(f"beside the model: {told_of(asdict(done.int8))}")
    lines.append(f"also: {', '.join(done.files[2 if done.int8 is not None else 1 :])}")
    return lines

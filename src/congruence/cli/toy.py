"""`congruence toy`: pictures of what the perception coherence loss does to points, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from congruence.cli.say import say


def toy(
    name: Annotated[str, typer.Argument(help="two-moons, clusters, ten-clusters or clusters3d.", metavar="NAME")],
    batch: Annotated[int, typer.Option(help="Points in a batch; the paper shows 3, 7, 15 and 64.")] = 64,
    epochs: Annotated[int, typer.Option(help="Passes over the points.")] = 800,
    seed: Annotated[int, typer.Option(help="Seed of the points, their initial positions and their order.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")] = Path("runs/toy"),
) -> None:
    """Minimise the perception coherence loss over random points; write a PNG and an animation of it."""
    from congruence.core.files import writable
    from congruence.data.datasets.toys import toy as points_of
    from congruence.evaluation.pictures import require_plots, write_gif, write_png
    from congruence.evaluation.toys import transfer

    require_plots()
    points = points_of(name, seed=seed)
    writable(out)
    with typer.progressbar(length=epochs, label=name) as bar:
        run = transfer(points, batch=batch, epochs=epochs, seed=seed, report=lambda _: bar.update(1))
    stem = f"{name}-batch{batch}"
    say(f"GPCL before {run.before:.4f}, after {run.after:.4f}")
    say(f"{write_png(run, out / f'{stem}.png')}")
    say(f"{write_gif(run, out / f'{stem}.gif')}")

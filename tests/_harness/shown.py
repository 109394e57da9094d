"""What pages of results are made of in tests: a page with every part, and hostile names in all of them."""

from __future__ import annotations

import torch
from torch import nn

import congruence as cg
from congruence.data import ArrayDataset, Splits, TextDataset, TextInput
from congruence.report.as_html import Page
from congruence.report.filled import draw
from congruence.report.flat import Layouts
from congruence.report.rebuilt import Models
from congruence.report.results_table import of_plan

HOSTILE = "</script><script>window.hurt=1</script>"
NAMES = (HOSTILE, "<img src=x onerror=window.hurt=2>", "__proto__", "\"'&{{ 7*7 }}%{x}")


def samples(count=80, classes=NAMES):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % len(classes)
    centres = torch.randint(40, 215, (len(classes), 1, 6, 6), generator=generator)
    noise = torch.randint(-35, 36, (count, 1, 6, 6), generator=generator)
    pixels = (centres[labels] + noise).to(torch.uint8)
    return ArrayDataset(pixels, labels, classes=len(classes), mean=[0.5], std=[0.25], class_names=classes)


def net(width, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.Tanh(), nn.Linear(width, len(NAMES))).eval()


def models(students=("small", HOSTILE), **more):
    data = samples()
    nets = {name: net(8, seed=place + 1) for place, name in enumerate(students)}
    return Models(nets, net(24), Splits(data, data.subset(range(8)), data), **more)


def comparison(made):
    loader = cg.data.loader(made.splits.test, batch_size=40, shuffle=False)
    return cg.compare(made.teacher, dict(made.students), loader).to_dict()


def row(method, seed, accuracy, parameters):
    return {"method": method, "variant": "", "seed": seed, "accuracy_best": accuracy, "parameters": parameters}


def _letters(texts):
    return {"input": torch.tensor([[len(text), ord(text[-1])] for text in texts]) / 50}


def unlabelled():
    """A page of texts without labels."""
    texts = [f"{word} {number}" for number in range(20) for word in (HOSTILE, "plain")]
    data = TextDataset(texts, None, inputs=TextInput(_letters, max_length=2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 3)).eval() for width in (4, 8)]
    made = Page("Texts")
    draw(made, Models({"student": nets[0]}, nets[1], Splits(data, data.subset(range(4)), data)), Layouts())
    return made


def page():
    """A page with every part: two methods over two seeds, curves of eight runs, two students."""
    rows = [row(m, s, a + 0.01 * s, p) for m, a, p in (("ce", 0.5, 900), (HOSTILE, 0.8, 1200)) for s in (0, 1)]
    made = Page(f"All of it {HOSTILE}", told=[f"A sentence with {HOSTILE}."], notes=["A note."])
    made.tables.append(of_plan(rows, [{"name": "teacher", "accuracy_best": 0.9, "parameters": 9000}], "ce"))
    points = [{"name": r["method"], "x": r["parameters"], "y": r["accuracy_best"], "sd": 0.1} for r in rows[::2]]
    points = [{**point, "kind": "student", "front": True} for point in points]
    made.costs.extend({"x": cost, "y": "accuracy (%)", "points": points} for cost in ("parameters", HOSTILE))
    line = [[0, 2.0], [10, 1.0], [20, float("nan")]]
    made.curves.update({f"{HOSTILE}, seed {k}": {"losses": {"loss": line, HOSTILE: line}} for k in range(8)})
    made.curves["kd"] = {"losses": {"loss": line}, "gradient shares": {"ce": [[0, 0.25]]}}
    draw(made, models(), Layouts())
    made.made.append({"name": HOSTILE, "facts": {"folder": HOSTILE}, "config": f'name = "{HOSTILE}"'})
    made.versions["torch"] = "2"
    made.commands.append(f"congruence report {HOSTILE}")
    return made

"""Three of the papers' tables on all of CIFAR-10, in prepared calls for a GPU that is lent for minutes.

    python benchmarks/gpu_tables.py pack --root DIR --to build/gpu         # here: two files below 64 MiB
    python benchmarks/gpu_tables.py run perception-coherence-1 --data build/gpu --out DIR --minutes 7
    python benchmarks/gpu_tables.py keep DIR                               # here: results/PLAN-gpu/, docs/results.md

In the order of their worth: perception-coherence-1, kd2m-1 (its CIFAR-10 column), intra-class-3. Rows, networks, terms
and courses are those of plans/paper; all 50,000 images are trained on, so the last epoch is measured. `run` ends in
time, writes a line for each finished cell, and goes on from the lines and the teachers in its folder. It needs torch,
NumPy and, for exact transport, SciPy: neither pydantic nor POT. `--rehearse` is the same with few images and steps.

Images are uint8 on the device, models are in channels-last order and in bfloat16, steps are CUDA graphs; the seeds of a
row are trained side by side on streams of their own, and what a common teacher says of eight views is remembered.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import platform
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gpu_images
import numpy as np
import torch
from gpu_course import VIEWS, Course, memorable, remember, run
from record import ROOT, commit
from torch import Tensor, nn

from congruence import metrics, models
from congruence.config import load as reading
from congruence.config.shipped import shipped

TABLES: dict[str, tuple[str, ...]] = {
    "perception-coherence-1": ("paper",),
    "kd2m-1": ("cifar10",),
    "intra-class-3": ("resnet", "wrn", "vgg", "resnet-mobilenet", "wrn-shuffle", "vgg-mobilenet"),
}
APART = {"mlld"}  # whose strong views are made on the host
PER_FILE = 30_000
TOP = 100


def cells(table: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (method, variant, configuration as plain tables) of each row of a table's plan."""
    plan = tomllib.loads(shipped("plans", f"paper/{table}").read_text(encoding="utf8"))
    found = []
    for variant in TABLES[table]:
        for method, recipe in plan["methods"].items():
            if method in APART:
                continue
            own = plan.get("overrides", {})
            settings = [*plan.get("set", []), *plan["variants"][variant]]
            settings += [*own.get(method, []), *own.get(f"{method}-{variant}", [])]
            values = reading._read(shipped("recipes", recipe), (), {})
            if wrong := reading._override(values, settings, {}):
                raise ValueError(wrong[0])
            found.append((method, variant, values))
    return found


def smaller(values: dict[str, Any]) -> None:
    """Make a rehearsal of a configuration: one epoch of small batches, narrow models."""
    narrow = {"resnet18": 8, "resnet34": 8, "resnet50": 8, "mobilenetv2": 0.1}
    for stage in values["stages"].values():
        stage["train"] |= {"epochs": 1, "batch_size": 8}
        model = stage["student"]
        if model["model"] in narrow:
            model["options"] = {**model.get("options", {}), "width": narrow[model["model"]]}


class Bench:
    """The images, the teachers that are there, and where the lines go."""

    def __init__(self, data: Path | None, out: Path, *, rehearse: bool) -> None:
        self.out, self.rehearse = out, rehearse
        out.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        parts = made_up() if data is None else gpu_images.read(data)
        of = gpu_images.moments(parts["train"][0])
        self.train, self.test = (gpu_images.Images(*parts[name], of, self.device) for name in ("train", "test"))
        self.tables = torch.cat([gpu_images.shifts(len(self.train), view, self.device) for view in range(VIEWS)])
        self.models: dict[str, nn.Module] = {}
        self.started = time.monotonic()

    def teacher(self, values: Mapping[str, Any], name: str) -> nn.Module:
        """Return the student of an earlier stage, trained unless it is in the folder, in float16 as stored."""
        stages = list(values["stages"])
        known = {each: values["stages"][each] for each in stages[: stages.index(name) + 1]}
        key = hashlib.sha256(json.dumps([known, self.rehearse], sort_keys=True).encode()).hexdigest()[:12]
        if key in self.models:
            return self.models[key]
        path, stage = self.out / f"teacher-{key}.pt", values["stages"][name]
        if not path.exists():
            begin = time.monotonic()
            start = stage["student"].get("start_stage")
            weights = None if start is None else self.teacher(values, start).state_dict()
            taught = self.teacher(values, stage["teacher"]) if "teacher" in stage else None
            course = Course(stage, taught, self.train, stage["train"].get("seed", 0), start=weights)
            run([course], stage["train"]["epochs"])
            halves = {
                k: v.half().cpu() if v.is_floating_point() else v.cpu() for k, v in course.student.state_dict().items()
            }
            torch.save(halves, path)
            print(f"  {name} {key}: {time.monotonic() - begin:.0f} s", flush=True)
        options = stage["student"].get("options", {})
        model = models.build(stage["student"]["model"], classes=10, **options).to(self.device)
        model.load_state_dict(torch.load(path, weights_only=True))
        self.models[key] = model.to(memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
        return self.models[key]

    def row(self, values: Mapping[str, Any], seeds: list[int]) -> list[dict[str, Any]]:
        """Train the seeds of a row side by side; return their numbers."""
        stage = values["stages"]["student"]
        teacher = self.teacher(values, stage["teacher"])
        layers, taught, tables = memorable(stage["terms"]), teacher, None
        if layers is not None and all(hasattr(teacher, part) for part in ("embed", "fc")):
            taught, tables = remember(teacher, self.train, self.tables, layers), self.tables
        begin = time.monotonic()
        courses = [Course(stage, taught, self.train, seed, tables=tables) for seed in seeds]
        run(courses, stage["train"]["epochs"])
        seconds = (time.monotonic() - begin) / len(seeds)
        classifies = any(term["key"] in ("ce", "kd") for term in stage["terms"])
        of_teacher, protocol = self.seen(teacher, self.test), values.get("protocol")
        return [
            numbers if "failed" in numbers else numbers | {"seconds": round(seconds, 1)}
            for course in courses
            for numbers in [self.numbers(course.student, of_teacher, protocol, classifies=classifies)]
        ]

    @torch.no_grad()
    def seen(self, model: nn.Module, images: gpu_images.Images) -> tuple[Tensor, Tensor]:
        """Return (features, logits) of all images, as they are."""
        model.eval()
        features: list[Tensor] = []
        hook = model.fc.register_forward_pre_hook(lambda _, given: features.append(given[0].float()))
        rows = torch.arange(len(images), device=self.device)
        logits = [model(images.batch(some)).float() for some in rows.split(1000)]
        hook.remove()
        return torch.cat(features), torch.cat(logits)

    def numbers(
        self,
        model: nn.Module,
        teacher: tuple[Tensor, Tensor] | None,
        protocol: Mapping[str, Any] | None,
        *,
        classifies: bool = True,
    ) -> dict[str, Any]:
        """Return a model's numbers by their keys in a plan's rows."""
        features, logits = self.seen(model, self.test)
        if not bool(features.isfinite().all()):
            return {"failed": "its features are not finite: the loss overflowed"}
        accuracy = (logits.argmax(1) == self.test.labels).double().mean().item() if classifies else None
        found: dict[str, Any] = {"accuracy_best": accuracy, "accuracy_last": accuracy}
        if teacher is not None:
            found["gpcl"] = metrics.global_perception_coherence(features, teacher[0])
        if protocol is not None and protocol["kind"] == "retrieval":
            sides = features, self.test.labels, self.seen(model, self.train)[0], self.train.labels
            top = min(TOP, len(self.train))
            found |= {
                "retrieval_map": metrics.retrieval_map(*sides),
                "retrieval_map_published": metrics.retrieval_map(*sides, interpolation="passalis"),
                f"retrieval_top_{TOP}": metrics.precision_at_k(*sides, k=top),
                f"retrieval_top_{TOP}_published": metrics.interpolated_precision_at_k(*sides, k=top),
            }
        return found | {"parameters": sum(each.numel() for each in model.parameters())}


def made_up() -> dict[str, tuple[Any, Any]]:
    """Return few images of noise in the place of CIFAR-10."""
    draw = np.random.default_rng(0)
    counts = {"train": 40, "test": 20}
    return {
        name: (draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count) % 10)
        for name, count in counts.items()
    }


def exact_transport() -> None:
    """Where POT is missing, find the plans between equally many samples by SciPy's assignment: the same optimum."""
    with contextlib.suppress(ImportError):
        importlib.import_module("ot")
        return
    from scipy.optimize import linear_sum_assignment

    def emd(left: Any, right: Any, cost: Any, **_: Any) -> tuple[Any, dict[str, Any]]:
        if len(left) != len(right):
            raise ValueError(f"Without POT both sides need equally many samples, got {len(left)} and {len(right)}.")
        plan = np.zeros_like(cost)
        plan[linear_sum_assignment(cost)] = 1 / len(left)
        return plan, {"u": np.zeros(len(left)), "v": np.zeros(len(right))}

    module = types.ModuleType("ot")
    module.emd = emd
    sys.modules["ot"] = module


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, none where it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []


def run_table(told: argparse.Namespace) -> None:
    """Train what is missing of a table, for at most so many minutes."""
    table, out, minutes, seeds, rehearse = told.table, told.out, told.minutes, told.seeds, told.rehearse
    exact_transport()
    bench, results = Bench(told.data, out, rehearse=rehearse), out / f"{table}.jsonl"
    done = {(line["method"], line["variant"], line["seed"]) for line in lines(results)}
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.processor() or "CPU"
    about = {"table": table, "device": name, "torch": torch.__version__, "python": platform.python_version()}
    about |= {"commit": commit(), "rehearsal": rehearse, "holds_out": False}
    (out / f"{table}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")
    longest = 0.0
    for method, variant, values in cells(table):
        missing = [seed for seed in seeds if (method, variant, seed) not in done]
        left = 60 * minutes - (time.monotonic() - bench.started)
        if not missing or (told.rows and method not in told.rows):
            continue
        if left < 1.2 * longest:
            print(f"{left:.0f} s are left and a row takes {longest:.0f}: call again.")
            return
        if rehearse:
            smaller(values)
        begin = time.monotonic()
        teacher = bench.teacher(values, values["stages"]["student"]["teacher"])
        trained = time.monotonic()
        if not any(each["variant"] == variant for each in lines(out / f"{table}-teachers.jsonl")):
            of = bench.numbers(teacher, None, values.get("protocol"))
            add(out / f"{table}-teachers.jsonl", {"name": f"teacher, {method}-{variant}", "variant": variant, **of})
        rows = bench.row(values, missing)
        for seed, numbers in zip(missing, rows, strict=True):
            named = {"method": method, "variant": variant, "seed": seed}
            add(results, {**named, **({} if "failed" in numbers else {"factor": 1.0}), **numbers})
        longest = max(longest, time.monotonic() - trained)
        print(f"{method} {variant}: {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{table} is complete.")


def add(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line to a file at once, so that a call that is cut off leaves what it finished."""
    with path.open("a", encoding="utf8") as file:
        file.write(json.dumps(line) + "\n")


def keep(out: Path) -> None:
    """Store the lines of finished calls under results/, and write docs/results.md."""
    for table in TABLES:
        found = lines(out / f"{table}.jsonl")
        if not found:
            continue
        about = json.loads((out / f"{table}.json").read_text(encoding="utf8"))
        if about["rehearsal"]:
            raise ValueError(f"'{out}' holds a rehearsal of {table}: its numbers mean nothing.")
        folder = ROOT / "results" / f"paper-{table}"
        folder.mkdir(parents=True, exist_ok=True)
        command = f"python benchmarks/gpu_tables.py run {table}"
        origin = {**about, "command": command, "processor": about["device"]}
        (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf8")
        for name, kept in (("results", found), ("teachers", lines(out / f"{table}-teachers.jsonl"))):
            text = "".join(json.dumps(line) + "\n" for line in kept)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf8")
    subprocess.run([sys.executable, str(ROOT / "docs" / "update_results.py")], check=True)


def pack(root: str | None, to: Path) -> None:
    """Write CIFAR-10 as files that can be carried."""
    from congruence.data import load

    splits = load("cifar10", root=root, validation=0)
    parts = {
        name: (getattr(splits, name).images.numpy(), getattr(splits, name).labels.numpy()) for name in ("train", "test")
    }
    for path in gpu_images.write(to, parts, PER_FILE):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("--root")
    packing.add_argument("--to", type=Path, default=Path("build/gpu"))
    running = verbs.add_parser("run")
    running.add_argument("table", choices=TABLES)
    running.add_argument("--data", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--minutes", type=float, default=6.5)
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    running.add_argument("--rows", nargs="+", help="methods of the table; all by default")
    running.add_argument("--rehearse", action="store_true", help="few made-up images and steps; writes the same files")
    verbs.add_parser("keep").add_argument("out", type=Path)
    told = parser.parse_args()
    if told.verb == "pack":
        pack(told.root, told.to)
    elif told.verb == "keep":
        keep(told.out)
    elif not told.rehearse and told.data is None:
        sys.exit("--data is missing: the folder that `pack` wrote.")
    else:
        run_table(told)


if __name__ == "__main__":
    main()

"""The same pair trained in the loops of RepDistiller, mdistiller and torchdistill and in ours: time, memory, accuracy.

python benchmarks/peers.py check|time|cold|accuracy --peers FOLDER [options]
python benchmarks/peers.py write

FOLDER holds their checkouts by name; none is part of this repository. Every stage keeps its figures in --out, run by
run, and can be called again for some pairs and methods; `write` puts together what is there. All loops train networks
of our zoo from the same weights on the same images of CIFAR-10, each in a process of its own on one thread; the
processes take turns, an epoch each. `check` says whether the pairs are the same and runs repeat.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from peer_turns import Ran, interleaved
from peer_worker import METHOD_WEIGHT, OURS, TEACHER, Job
from record import commit, figure, write
from scipy.stats import t as student_t

import congruence as cg

SOURCES = {
    "RepDistiller": "https://github.com/HobbitLong/RepDistiller",
    "mdistiller": "https://github.com/megvii-research/mdistiller",
    "torchdistill": "https://github.com/yoshitomo-matsubara/torchdistill",
}
STUDENTS, METHODS, STAGES = ("resnet8", "cnn3"), tuple(METHOD_WEIGHT), ("time", "cold", "accuracy")
EXACT, VIEWS_2 = "ours, exact", "ours, cached V=2"
LIVE_BAR, BARRED = 1.6, ("kd", "rkd", "pkt")  # of RepDistiller's loop, on these methods
COLD_BARS = {(12, 2): {"resnet8": 2.5, "cnn3": 3.5}, (40, 8): {"resnet8": 2.2, "cnn3": 3.0}}  # by (epochs, views)
ESTIMATED = ", estimated"
QUICK = 3  # cached epochs after the V first ones, of which `cold --quick` takes the median for all others
CERTAIN = 0.95  # of the lower end of a mean of paired differences, one-sided
DEFINITION = (
    "theirs / ours; live: median over rounds (an epoch each, taking turns) of processor seconds, milliseconds a step "
    "beside; from a cold start: processor seconds of a whole run, theirs with a live teacher, ours with one whose "
    "answers are stored for V views, the storing counted; accuracy: ours / theirs on the test images, means over seeds "
    f"in per cent beside, and ours is lower with {100 * CERTAIN:.0f} % certainty below `least` (paired differences); "
    "megabytes: the most that a process holds in training, less what it held before"
)


class Bench:
    """What the stages share: the peers that are there, and the jobs of a setting."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out
        folder: Path | None = arguments.peers
        there = {name: folder / name for name in SOURCES if folder is not None and (folder / name).is_dir()}
        self.folders = {name: path.resolve() for name, path in there.items() if name in arguments.loops}
        self.commits = {name: pinned(path) for name, path in self.folders.items()}
        self.exact = exact_options()

    def job(self, loop: str, student: str, method: str, epochs: int, **more: Any) -> Job:
        """A job of this setting."""
        a = self.arguments
        values = {"seed": 0, **more, "lr": a.lr, "folder": str(self.folders.get(loop, ""))}
        return Job(
            loop, student, method, images=a.images, epochs=epochs, batch=a.batch, teacher=self.teacher(), **values
        )

    def teacher(self) -> str:
        """The teacher's weights, trained in our loop where they are not there."""
        a = self.arguments
        path = (self.out / f"teacher-{a.images}-{a.teacher_epochs}.pt").resolve()
        if not path.is_file():
            self.out.mkdir(parents=True, exist_ok=True)
            print(f"training the teacher: {TEACHER}, {a.teacher_epochs} epochs", flush=True)
            at = (2 * a.teacher_epochs // 3, 7 * a.teacher_epochs // 8)
            values = {"images": a.images, "epochs": a.teacher_epochs, "batch": a.batch, "milestones": at}
            ran = interleaved({"teacher": Job(OURS, TEACHER, "ce", 0, teacher=str(path), accuracy=True, **values)})
            print(f"the teacher's accuracy: {ran['teacher'].end['accuracy']:.2f} %", flush=True)
        return str(path)

    def steps(self) -> int:
        """Of an epoch."""
        return math.ceil(self.arguments.images / self.arguments.batch)

    def once(self, cell: tuple[str, str, int], run: Callable[[], dict[str, float]], **setting: Any) -> dict[str, float]:
        """The accuracies of a seed, run unless a line of it in this setting is kept: a stage that is killed goes on."""
        path = self.out / "accuracy-seeds.jsonl"
        a = self.arguments
        part = {name: getattr(a, name) for name in ("images", "batch", "lr", "teacher_epochs")} | setting
        key = {"cell": list(cell), **part, "peers": self.commits}
        for line in path.read_text(encoding="utf8").splitlines() if path.is_file() else ():
            row = json.loads(line)
            if {name: row.get(name) for name in key} == key:
                return dict(row["accuracies"])
        found = run()
        with path.open("a", encoding="utf8") as file:
            file.write(json.dumps({**key, "commit": commit(), "accuracies": found}) + "\n")
        return found

    def keep(self, stage: str, figures: Sequence[dict[str, Any]], **setting: Any) -> None:
        """Add figures to those of a stage; a file of another setting is put aside."""
        a = self.arguments
        part = {name: getattr(a, name) for name in ("images", "batch", "lr", "teacher_epochs")} | setting
        path = self.out / f"{stage}.json"
        before = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
        if before and {key: before.get(key) for key in part} != part:
            path.replace(path.with_suffix(".before.json"))
            print(f"'{path.name}' was of another setting: it is '{path.stem}.before.json' now.", flush=True)
            before = {}
        rows = {each["name"]: each for each in before.get("figures", [])} | {each["name"]: each for each in figures}
        commits = sorted({*before.get("commits", []), commit()})
        pins = {**before.get("peers", {}), **self.commits}
        origin = {"commits": commits, "date": time.strftime("%Y-%m-%d", time.gmtime()), "peers": pins}
        whole = {**part, **origin, "figures": list(rows.values())}
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf8")
        for each in figures:
            print(json.dumps(each), flush=True)


def exact_options() -> dict[str, Any]:
    """The options under which `fit` computes as plain torch would; none where these are its defaults."""
    wanted = {"teacher_speed": "exact", "channels_last": False}
    defaults = {each.name: each.default for each in dataclasses.fields(cg.FitOptions)}
    return {name: value for name, value in wanted.items() if name in defaults and defaults[name] != value}


def pinned(folder: Path) -> str:
    """The commit of a checkout."""
    words = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip()[:12] if done.returncode == 0 else "unknown"


def live(bench: Bench) -> None:
    """The time and the memory of an epoch with a live teacher."""
    a = bench.arguments
    for student in a.students:
        for method in a.methods:
            jobs = {name: bench.job(name, student, method, a.rounds + 1) for name in (*bench.folders, OURS)}
            if bench.exact:
                jobs[EXACT] = bench.job(OURS, student, method, a.rounds + 1, options=bench.exact)
            ran = interleaved(jobs)
            figures = []
            for name in bench.folders:
                for ours in (OURS, EXACT) if bench.exact and name == next(iter(bench.folders)) else (OURS,):
                    barred = ours == OURS and name == "RepDistiller" and method in BARRED
                    named = f"{student}, {method}: {name} / {ours}, live"
                    figures.append(beside(named, ran[name], ran[ours], bench.steps(), LIVE_BAR if barred else None))
            bench.keep("time", figures, rounds=a.rounds)


def beside(name: str, theirs: Ran, ours: Ran, steps: int, least: float | None) -> dict[str, Any]:
    """A figure of two runs; the first round, in which all is made ready, is left out."""
    ratios = [first / second for first, second in zip(theirs.seconds[1:], ours.seconds[1:], strict=True)]
    numbers = {
        side: round(1000 * statistics.median(ran.seconds[1:]) / steps, 2)
        for side, ran in (("theirs", theirs), ("ours", ours))
    }
    return figure(name, statistics.median(ratios), least=least, **numbers, **memory(theirs, ours))


def memory(theirs: Ran, ours: Ran) -> dict[str, float]:
    """What both hold at most."""
    return {
        "theirs_megabytes": round(theirs.end["megabytes"], 1),
        "ours_megabytes": round(ours.end["megabytes"], 1),
    }


def cold(bench: Bench) -> None:
    """The time of a whole run whose teacher's answers are stored while or before it trains."""
    a = bench.arguments
    peer = next(iter(bench.folders))
    for student in a.students:
        for method in [each for each in a.methods if each in BARRED]:
            for (epochs, views), bars in COLD_BARS.items():
                if a.views and views not in a.views:
                    continue
                run = min(epochs, views + QUICK) if a.quick else epochs
                jobs = {peer: bench.job(peer, student, method, run)}
                jobs[OURS] = bench.job(OURS, student, method, run, views=views)
                ran = interleaved(jobs)
                # The run's first V epochs, which fill the cache, are as they were; of the others some stand for all.
                spans = {
                    name: each.total + (epochs - run) * statistics.median(each.seconds[-QUICK:])
                    for name, each in ran.items()
                }
                name = f"{student}, {method}: {peer} / {OURS}, {epochs} epochs from a cold start, V={views}"
                name += ESTIMATED if run < epochs else ""
                least = bars[student] if peer == "RepDistiller" else None
                numbers = {"theirs": round(spans[peer], 1), "ours": round(spans[OURS], 1)}
                ratio = spans[peer] / spans[OURS]
                row = figure(name, ratio, least=least, **numbers, **memory(ran[peer], ran[OURS]))
                bench.keep("cold", [row])


def accuracies(bench: Bench) -> None:
    """The accuracy of short runs, over seeds."""
    a = bench.arguments
    at = (2 * a.epochs // 3,)
    bench.teacher()

    def jobs(cell: tuple[str, str, int]) -> dict[str, float]:
        return bench.once(cell, lambda: trained(cell), epochs=a.epochs)

    def trained(cell: tuple[str, str, int]) -> dict[str, float]:
        student, method, seed = cell
        ways: dict[str, dict[str, Any]] = {name: {} for name in (*bench.folders, OURS)}
        ways[VIEWS_2] = {"views": 2}
        if bench.exact:
            ways[EXACT] = {"options": bench.exact}
        ran = interleaved(
            {
                name: bench.job(
                    name if name in bench.folders else OURS, student, method, a.epochs,
                    seed=seed, milestones=at, accuracy=True, **way,
                )
                for name, way in ways.items()
            }
        )  # fmt: skip
        print(cell, {name: each.end["accuracy"] for name, each in ran.items()}, flush=True)
        return {name: float(each.end["accuracy"]) for name, each in ran.items()}

    for student in a.students:
        rows: list[dict[str, float]] = []
        for method in a.methods:
            with ThreadPoolExecutor(a.workers) as pool:
                found = list(pool.map(jobs, [(student, method, seed) for seed in range(a.seeds)]))
            rows += found
            bench.keep("accuracy", compared(f"{student}, {method}", found), epochs=a.epochs)
        if len(a.methods) > 1:
            everything = compared(f"{student}, all of {' '.join(a.methods)}", rows)
            bench.keep("accuracy", everything, epochs=a.epochs)


def compared(name: str, rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Ours beside each other way, by the differences of runs that began alike."""
    figures = []
    for other in [each for each in rows[0] if each != OURS]:
        # A cached teacher of few views is what is in question there, and the default what it is held against.
        mine, against = (VIEWS_2, OURS) if other == VIEWS_2 else (OURS, other)
        ours, theirs = (statistics.mean(row[each] for row in rows) for each in (mine, against))
        differences = [row[mine] - row[against] for row in rows]
        sd = statistics.stdev(differences) if len(rows) > 1 else 0.0
        noise = float(student_t.ppf(CERTAIN, len(rows) - 1)) * sd / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
        numbers = {"theirs": theirs, "ours": ours, "difference": ours - theirs, "sd": sd, "seeds": len(rows)}
        rounded = {key: round(value, 3) for key, value in numbers.items()}
        figures.append(
            figure(f"{name}: accuracy, {mine} / {against}", ours / theirs, least=1 - noise / theirs, **rounded)
        )
    return figures


def check(bench: Bench) -> None:
    """Say of each loop whether its loss falls, its runs repeat, and with which other it agrees to the last bit."""
    a, wrong = bench.arguments, []
    for student in a.students:
        for method in a.methods:
            jobs = {}
            for name in (*bench.folders, OURS):
                for run in ("", " again"):
                    jobs[name + run] = bench.job(name, student, method, 3)
            ran = interleaved(jobs)
            for name in (*bench.folders, OURS):
                repeats = ran[name].end["student"] == ran[f"{name} again"].end["student"]
                falls = ran[name].losses[-1] < ran[name].losses[0]
                equal = [each for each in bench.folders if ran[each].end["student"] == ran[name].end["student"]]
                alike = ", ".join(each for each in equal if each != name) or "nobody"
                losses = ", ".join(f"{loss:.4f}" for loss in ran[name].losses)
                print(
                    f"{student}, {method}, {name}: losses {losses}; repeats {repeats}; weights as {alike}", flush=True
                )
                # crd's loss rises while its banks take shape, in all loops.
                if not repeats or not (falls or method == "crd"):
                    wrong.append(f"{student}, {method}, {name}")
    if wrong:
        raise SystemExit(f"No loss that falls, or no run that repeats: {'; '.join(wrong)}.")


def write_results(out: Path) -> None:
    """Put the stages' figures together."""
    paths = {stage: out / f"{stage}.json" for stage in STAGES if (out / f"{stage}.json").is_file()}
    if not paths:
        raise SystemExit(f"There is nothing in '{out}' yet: run a stage first.")
    parts = {stage: json.loads(path.read_text(encoding="utf8")) for stage, path in paths.items()}
    figures = [row for part in parts.values() for row in part.pop("figures")]
    pins = {name: pin for part in parts.values() for name, pin in part["peers"].items()}
    note = (
        "The peers' checkouts: " + ", ".join(f"{name} {pin}" for name, pin in sorted(pins.items())) + ". Their losses, "
        "distillers and loops run as they are, with our networks; their images come one by one through PIL (padded, "
        "cropped, mirrored, normalised) from torch's loader without workers, in place of torchvision"
    )
    if any(row["name"].endswith(ESTIMATED) for row in figures):
        note += (
            f". Estimated: V + {QUICK} epochs are measured, and the median of the last {QUICK} stands for the others"
        )
    commits = sorted({each for part in parts.values() for each in part["commits"]})
    write("peers", DEFINITION, figures, note=note, commit=", ".join(commits), stages=parts)


def how_to_get_them(folder: Path | None) -> str:
    """What to do where no peer is there."""
    got = "no folder was given" if folder is None else f"'{folder}' has none of {', '.join(SOURCES)}"
    lines = [f"This measures other people's training loops, which are not part of this repository, and {got}."]
    lines += ["Fetch them into one folder, and give that as --peers:"]
    lines += [f"  git clone {url} FOLDER/{name}" for name, url in SOURCES.items()]
    lines += ["One of them is enough; nothing of theirs has to be installed."]
    lines += ["CIFAR-10 is needed too: `congruence data fetch cifar10`."]
    return "\n".join(lines) + "\n"


RUNS: dict[str, Callable[[Bench], None]] = {"check": check, "time": live, "cold": cold, "accuracy": accuracies}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[*RUNS, "write"])
    add = parser.add_argument
    add("--peers", type=Path, help="the folder with their checkouts")
    add("--loops", nargs="+", choices=SOURCES, default=list(SOURCES), help="those of them to measure (default: all)")
    add("--out", type=Path, default=Path("runs/peers"), help="for figures and the teacher (default: %(default)s)")
    add("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--images", type=int, default=10_000, help="of CIFAR-10, an epoch (default: %(default)s)")
    add("--batch", type=int, default=64)
    add("--lr", type=float, default=0.05)
    add("--teacher-epochs", type=int, default=24)
    add("--rounds", type=int, default=5, help="of `time`, after one that makes ready (default: %(default)s)")
    add("--views", nargs="+", type=int, choices=[views for _, views in COLD_BARS], help="of `cold`: one V alone")
    add("--quick", action="store_true", help="of `cold`: few epochs, the others estimated")
    add("--seeds", type=int, default=3, help="of `accuracy`")
    add("--epochs", type=int, default=6, help="of `accuracy` (default: %(default)s)")
    add("--workers", type=int, default=1, help="of `accuracy`, which is not timed: seeds at once")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse(words)
    torch.set_num_threads(1)
    if arguments.stage == "write":
        write_results(arguments.out)
        return 0
    bench = Bench(arguments)
    if not bench.folders:
        print(how_to_get_them(arguments.peers), end="")
        return 2
    RUNS[arguments.stage](bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())

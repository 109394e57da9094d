"""Loading a folder of many small image files, and the same images in tar shards: processor seconds and memory.

python benchmarks/large_folder.py (200,000 files, made by it; each case in a process of its own)
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from record import figure, resident, write

FILES, CLASSES, SHARDS = 200_000, 1000, 20
CASES = {"files": "image files", "shards": "tar shards"}
DEFINITION = (
    f"processor seconds of `data.load` for {FILES:,} image files of 8x8 in {CLASSES:,} class folders, and for the same "
    f"images in {SHARDS} tar shards; by how many gigabytes the peak of the process grows beside them. 'again' finds "
    f"the index that the first load kept: the folders are looked at, the files are not. The file system's cache is warm"
)


def make(folder: Path, count: int) -> None:
    """Write the images as files, and as shards."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, "PNG")
    content = file.getvalue()
    (folder / "shards").mkdir(parents=True)
    for number in range(count):
        name = f"class{number % CLASSES:04}"
        place = folder / "files" / name
        if number < CLASSES:
            place.mkdir(parents=True)
        (place / f"{number:07}.png").write_bytes(content)
    for shard in range(SHARDS):
        with tarfile.open(folder / "shards" / f"train-{shard:03}.tar", "w") as tar:
            for number in range(shard, count, SHARDS):
                for suffix, text in (("png", content), ("cls", str(number % CLASSES).encode())):
                    member = tarfile.TarInfo(f"{number:07}.{suffix}")
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text))
    before = time.time() - 60
    for directory, _, _ in os.walk(folder):
        os.utime(directory, (before, before))


def one(folder: Path) -> dict[str, float]:
    """Load the data; mean and deviation are given, so that no image is decoded."""
    from congruence import data

    data.load("digits")  # what a first call imports
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    start = time.process_time()
    splits = data.load(folder, size=8, stream=True, mean=[0.5] * 3, std=[0.25] * 3)
    elapsed = time.process_time() - start
    return {"seconds": elapsed, "gigabytes": (resident("VmHWM") - before) / 1e9, "samples": sum(map(len, splits))}


def measured(folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", str(folder)]
    environment = {**os.environ, "CONGRUENCE_DATA": str(folder.parent / "data-root")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=Path, help="only load this folder and print what it takes")
    parser.add_argument("--files", type=int, default=FILES)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(one(arguments.case)))
        return
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, arguments.files)
        for case, words in CASES.items():
            for which in ("first", "again"):
                result = measured(folder / case)
                print(words, which, result, flush=True)
                figures.append(figure(f"{words}, {which}", result["seconds"], gigabytes=result["gigabytes"]))
    write("large_folder", DEFINITION, figures)


if __name__ == "__main__":
    main()

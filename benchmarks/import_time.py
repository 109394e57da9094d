"""What `import congruence` costs beside `import torch`, in fresh processes.

python benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from record import figure, write

BAR, ROUNDS = 1.3, 5
DEFINITION = "median(import) / median(import torch), each timed inside a fresh process"
# The package loads its parts on first use, so the import alone would flatter it: both are measured.
IMPORTS = {
    "import torch": "import torch",
    "import congruence": "import congruence",
    "import congruence and every public name": "import congruence\nfor n in congruence.__all__: getattr(congruence, n)",
}
TIMED = "import time\nstart = time.perf_counter()\n{}\nprint(time.perf_counter() - start)"


def seconds(code: str) -> float:
    """Time an import in a process of its own."""
    command = [sys.executable, "-c", TIMED.format(code)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for number in range(ROUNDS + 1):
        for name, code in IMPORTS.items():
            elapsed = seconds(code)
            if number:  # the first round fills the file cache
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians.pop("import torch")
    figures = [figure(name, value / base, BAR, seconds=round(value, 4)) for name, value in medians.items()]
    write("import_time", DEFINITION, figures, torch_seconds=round(base, 4), rounds=ROUNDS)


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# torch 2.13.0 on an x86 CPU: torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") beside torch.pdist(x).
#
# Behaviour: the exact mode of cdist, the one whose distances do not come from a difference of large squares, is not a
# pdist that fills both halves. It takes far more than the twice that its number of pairs makes, and in float32 it
# rounds more, though both subtract, square and add.
# Seen: 256 float32 rows of 256, one thread: cdist takes 17 times as long as pdist, and its largest relative error
# is four times pdist's; 18 times at 64 rows of 512, 10 at 1,024 rows of 64. The default mode of cdist, by a product, is
# fast, but loses the digits of near rows. CUDA was not looked at; there pdist's backward needs memory for every pair
# and column.
# Whom it hurts: who takes exact distances within a batch for a relational loss (RKD, MKT, Gaussian kernels): the
# distances cost more than the rest of the loss. This library takes pdist within a batch on a CPU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import statistics
import time

import torch

torch.set_num_threads(1)
rows = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
upper = torch.ones(256, 256, dtype=torch.bool).triu(1)
exact = (rows[:, None].double() - rows).norm(dim=2)[upper]
forms = {
    "cdist": lambda: torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist"),
    "pdist": lambda: torch.pdist(rows),
}
seconds: dict[str, list[float]] = {name: [] for name in forms}
for _ in range(40):
    for name, form in forms.items():
        start = time.perf_counter()
        form()
        seconds[name].append(time.perf_counter() - start)
ratio = statistics.median(seconds["cdist"]) / statistics.median(seconds["pdist"])
found = {"cdist": forms["cdist"]()[upper], "pdist": forms["pdist"]()}
errors = {name: float(((value.double() - exact).abs() / exact).max()) for name, value in found.items()}
print(f"time of cdist / pdist: {ratio:.1f}; largest relative errors: {errors}")
assert ratio > 4, "exact cdist takes about twice pdist's time now"
assert errors["cdist"] > 2 * errors["pdist"], "they round alike now"
PYTHON

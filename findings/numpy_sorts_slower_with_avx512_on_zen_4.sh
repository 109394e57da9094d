#!/usr/bin/env bash
# numpy 2.4.6, ndarray.sort on AMD processors of the generation Zen 4 (EPYC 9004, Ryzen 7000; family 25 with AVX-512).
#
# Behaviour: rows of numbers in no order are sorted by the AVX-512 code, which takes several times as long as the
# AVX2 code of NumPy there; NPY_DISABLE_CPU_FEATURES="AVX512_SPR AVX512_ICL AVX512_SKX X86_V4" switches to that.
# Seen: 14.3 ns an entry of float32 rows of 10,000, and 3.9 without AVX-512. On Intel's processors
# the AVX-512 code is the faster one (numpy, pull request 20133).
# Whom it hurts: who ranks all pairs of a large test set (retrieval mAP, perception coherence, Spearman's rank) on such a
# server, and finds the newer processor slower than an old one. This library times both its ways once a process.
# On another processor there is nothing to see, and this ends with exit code 0.
set -euo pipefail
if ! grep -q -m1 AuthenticAMD /proc/cpuinfo || ! grep -q -m1 -E "^cpu family\s*: 25$" /proc/cpuinfo ||
    ! grep -q -m1 avx512f /proc/cpuinfo; then
    echo "not a processor of the generation Zen 4: nothing to see"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6
cat > "$folder/sorted.py" <<'PYTHON'
import time

import numpy as np

rows = np.random.default_rng(0).random((50, 10_000), dtype=np.float32)
times = []
for _ in range(9):
    copied = rows.copy()
    start = time.process_time()
    copied.sort(axis=1)
    times.append(time.process_time() - start)
print(1e9 * sorted(times)[4] / rows.size)
PYTHON
python="$folder/venv/bin/python"
with=$("$python" "$folder/sorted.py")
without=$(NPY_DISABLE_CPU_FEATURES="AVX512_SPR AVX512_ICL AVX512_SKX X86_V4" "$python" -W ignore "$folder/sorted.py")
echo "ns an entry: with AVX-512 $with, without $without"
"$python" -c "assert $with > 2 * $without, 'AVX-512 is no longer slower here: the behaviour has changed'"

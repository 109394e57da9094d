#!/usr/bin/env bash
# torch 2.13.0, torch.distributed.fsdp.fully_shard(model), one gloo rank.
#
# Behaviour: FSDP2 starts its part of a backward when a gradient reaches the output of a sharded module. A loss that is
# made of a tensor which a forward hook took inside, and not of that output, passes it by: the sharded parameters, which
# the optimizer holds, get no gradient, and nothing is raised. (Where a matrix product lies on the way inside a block,
# the backward raises "setStorage: ... out of bounds for storage of size 0".)
# Seen: no parameter of the optimizer has a gradient after the backward of a loss on a hooked layer; all before that
# layer have one after the backward of a loss on the output.
# Whom it hurts: who distils hidden layers of a sharded student: it trains nothing, silently. This library wakes the
# modules around each layer that it reads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/hooked.py" <<'PYTHON'
import sys
import tempfile

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard


def trained(*, hooked: bool) -> int:
    """Return how many of the optimizer's parameters get a gradient of a loss on a hooked layer, or on the output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken = []
    model[0].register_forward_hook(lambda module, inputs, output: taken.append(output))
    output = model(torch.ones(3, 4))
    (taken[0] if hooked else output).square().sum().backward()
    return sum(p.grad is not None for group in optimizer.param_groups for p in group["params"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        hooked, plain = trained(hooked=True), trained(hooked=False)
        dist.destroy_process_group()
    print(f"parameters with a gradient: of a loss on a hooked layer {hooked}, on the output {plain}")
    assert plain == 4, "a loss on the output no longer trains all parameters"
    if hooked:
        sys.exit("a loss on a hooked layer trains sharded parameters now: the behaviour has changed")
PYTHON
"$folder/venv/bin/python" "$folder/hooked.py"

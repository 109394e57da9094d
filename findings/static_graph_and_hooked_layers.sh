#!/usr/bin/env bash
# torch 2.13.0, torch.nn.parallel.DistributedDataParallel(model, static_graph=True) on two gloo ranks.
#
# Behaviour: where the loss is made of a tensor that a forward hook took inside the model, and not of what the wrapper
# returned, the gradients are not averaged over the ranks, and nothing is raised. Without static_graph they are.
# Seen: ranks with gradients of their own under static_graph=True, equal gradients without.
# Whom it hurts: who distils hidden layers on several GPUs: each rank trains a student of its own, and the first rank's
# is saved. This library refuses such a wrapper.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/ranks.py" <<'PYTHON'
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def gradient(rank: int, store: str, options: dict, results) -> None:
    """Put the gradient that a rank has of a loss on a hooked layer into the queue."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    taken = []
    model[1].register_forward_hook(lambda module, inputs, output: taken.append(output))
    wrapped = DistributedDataParallel(model, **options)
    for step in range(2):
        taken.clear()
        model.zero_grad()
        wrapped(torch.full((2, 3), 1.0 + rank))
        taken[0].square().sum().backward()
    results.put((rank, model[0].weight.grad.tolist()))
    dist.barrier()
    dist.destroy_process_group()


def equal(**options: bool) -> bool:
    """Whether both ranks have one gradient."""
    context = mp.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=gradient, args=(rank, f"{folder}/store", options, results)) for rank in (0, 1)
        ]
        for process in ranks:
            process.start()
        found = dict(results.get(timeout=120) for _ in ranks)
        for process in ranks:
            process.join()
    return torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]))


if __name__ == "__main__":
    static, plain = equal(static_graph=True), equal()
    print(f"one gradient on both ranks: with static_graph {static}, without {plain}")
    assert plain, "without static_graph such a loss is no longer averaged"
    if static:
        sys.exit("static_graph averages a loss on hooked layers now: the behaviour has changed")
PYTHON
"$folder/venv/bin/python" "$folder/ranks.py"

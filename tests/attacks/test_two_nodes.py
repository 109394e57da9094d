"""torchrun on two nodes, which are network namespaces of one machine with one cable between them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
import torch
from _harness.attacks import LONG

from congruence.models.weights import load_weights

CONFIG = """
name = "two-nodes"
[data]
name = "digits"
train_size = 128
[stages.student]
student = { model = "cnn3", options = { width = 4 } }
teacher = { model = "cnn3", options = { width = 6 } }
terms = [{ key = "ce" }, { key = "pkt", weight = "balanced" }, { key = "crd", negatives = 32 }]
train = { epochs = 2, batch_size = 32, optimizer = { name = "sgd", lr = 0.05 } }
"""
NAMES, ADDRESSES = [f"node{number}-{os.getpid()}" for number in (0, 1)], ["10.77.0.1", "10.77.0.2"]


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def two_nodes():
    """Two namespaces, each with its end of a cable; nothing in one reaches the other but by that."""
    with contextlib.ExitStack() as stack:
        for name in NAMES:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)  # and its end of the cable with it
        ip("link", "add", "eth0", "netns", NAMES[0], "type", "veth", "peer", "name", "eth0", "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield


@pytest.mark.skipif(
    not os.environ.get(LONG) or os.geteuid() != 0 or not shutil.which("ip"),
    reason="part of `make attack`, for root where `ip` makes network namespaces",
)
@pytest.mark.slow
def test_two_nodes_are_two_ranks_of_one(tmp_path):
    config = tmp_path / "two-nodes.toml"
    config.write_text(CONFIG)
    # hosts find each other by their names, which mean nothing here: addresses and the interface are given instead
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    start = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    start += ["--rdzv-endpoint", f"{ADDRESSES[0]}:29500"]
    run = ["-m", "congruence", "distill", str(config), "--set", "stages.student.train.device=cpu", "--out"]
    with two_nodes():
        nodes = []
        for number, (name, address) in enumerate(zip(NAMES, ADDRESSES, strict=True)):
            place = ["--rdzv-conf", f"is_host={int(number == 0)}", "--local-addr", address]
            words = ["ip", "netns", "exec", name, *torchrun, *start, *place, *run, str(tmp_path / "nodes")]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            nodes.append(subprocess.Popen(words, env=environment, text=True, **pipes))
        try:
            said = [node.communicate(timeout=240)[0] for node in nodes]
        finally:
            for node in nodes:
                node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    alone = [*torchrun, "--standalone", "--nproc-per-node", "2", *run, str(tmp_path / "one")]
    subprocess.run(alone, check=True, capture_output=True)
    of_nodes, of_one = (load_weights(tmp_path / name / "student.safetensors") for name in ("nodes", "one"))
    for name, value in of_one.items():
        torch.testing.assert_close(of_nodes[name], value, rtol=1e-5, atol=1e-6, msg=name)

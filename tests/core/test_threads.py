import threading

import pytest
import torch

from congruence.core.threads import share_out
from congruence.metrics import global_perception_coherence, perception_coherence, retrieval_map


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_each_thread_runs_torch_alone_and_without_gradients(threads):
    seen, met = [], threading.Barrier(threads, timeout=30)

    def work(piece):
        met.wait()  # all threads are at work at once
        seen.append((threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled(), piece))

    share_out(work, range(4))
    assert sorted(piece for *_, piece in seen) == [0, 1, 2, 3]
    assert {(number, grad) for _, number, grad, _ in seen} == {(1, False)}
    assert len({ident for ident, *_ in seen}) == threads
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_an_error_is_raised_and_the_number_of_threads_is_as_before(threads):
    def work(piece):
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"):
        share_out(work, range(3))
    assert torch.get_num_threads() == threads


def test_metrics_are_the_same_in_any_number_of_threads():
    draw = torch.Generator().manual_seed(0)
    teacher = torch.randn(90, 5, generator=draw)
    teacher[45:] = teacher[:45]  # ties
    student, labels = teacher + torch.randn(90, 5, generator=draw), torch.arange(90) % 4
    before, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(
                [
                    global_perception_coherence(student, teacher, chunk_size=7),
                    perception_coherence(student, teacher, dissimilarity="euclidean", chunk_size=7).tolist(),
                    *(
                        retrieval_map(student, labels, teacher, labels, query_batch=7, interpolation=kind)
                        for kind in ("11pt", "none", "passalis")
                    ),
                ]
            )
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]

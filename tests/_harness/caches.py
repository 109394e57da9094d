"""A small teacher, its images, and processes that cache it."""

from __future__ import annotations

import time

import torch
from torch import nn

from congruence import Distiller, FitOptions, TeacherCache, fit
from congruence.data import ArrayDataset, Augment, loader
from congruence.teacher_cache.answers import CHUNK

SAMPLES, CLASSES = 300, 3  # more than one of the teacher's batches


def images(seed=0, samples=SAMPLES):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (samples, 1, 6, 6), generator=generator, dtype=torch.uint8)
    return ArrayDataset(pixels, torch.arange(samples) % CLASSES, classes=CLASSES, mean=[0.5], std=[0.25])


def net(seed, width=5):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, CLASSES)
    )


def batches(dataset=None, **options):
    given = {"batch_size": 32, "seed": 3, "augment": Augment(pad=1), "view_cycle": 2, **options}
    return loader(images() if dataset is None else dataset, **given)


def opened(folder, *, teacher=None, dataset=None, **options):
    train = batches(dataset, **{key: value for key, value in options.items() if key != "dtype"})
    cache = TeacherCache(teacher or net(1), train, folder, dtype=options.get("dtype", "float16"))
    distiller = Distiller(cache, net(2), ["kd"], example=images().batch([0, 1]))
    return distiller(*next(iter(train)))


def build(folder, seconds):
    """Cache the teacher, which needs some seconds for its first batch that is stored."""
    torch.set_num_threads(1)
    teacher, told = net(1), []

    def wait(_, inputs):
        if len(inputs[0]) == CHUNK and not told:
            told.append(1)
            with open(folder / "passes", "a") as file:
                file.write("x")
            time.sleep(seconds)

    teacher.register_forward_pre_hook(wait)
    opened(folder, teacher=teacher)


def filled_on_a_rank(rank, folder):
    """A run of several ranks that fills a cache; the last samples of the dataset are in no batch."""
    options = FitOptions(teacher_speed="exact", epochs=3, seed=5, device="cpu")
    cache = TeacherCache(net(1), batches(drop_last=True), folder / "cache", dtype="float32")
    distiller = Distiller(cache, net(2, width=4), ["ce", "kd", "pkt"], example=images().batch([0, 1]))
    fit(distiller, cache.loader, None, options)
    assert cache.complete
    torch.save(distiller.student_state_dict(), folder / f"rank-{rank}.pt")

"""A stage with superclasses and a teacher's head, built on a rank."""

import torch
from _harness.configs import tiny

from congruence.pipeline import RunContext, build_stage

TABLES = ('stages.student.train.sampler={name="superclass_uniform", k=2}', "stages.student.teacher_head={width=16}")


def plan_and_head(folder=None):
    """What the stage took from its teacher."""
    torch.manual_seed(0)  # of the teacher, which no earlier stage has trained
    built = build_stage(tiny("digits/pkt", *TABLES), "student", RunContext(out=folder))
    shares = torch.cat([index for _, _, index in built.train_loader.batches(0)])
    return {
        "plan": torch.stack(built.train_loader.plan(0)),
        "share": shares,
        "weight": built.models.teacher.embed.weight,
        "bias": built.models.teacher.embed.bias,
    }


def on_a_rank(rank, folder):
    torch.save(plan_and_head(folder / "run"), folder / f"rank-{rank}.pt")

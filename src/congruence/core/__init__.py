"""Floor 0: checks, reductions, numerics, ranks of a process group, files and random keys."""

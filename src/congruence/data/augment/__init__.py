"""Images augmented by draws that are a function of (seed, epoch, sample, view) and of nothing else."""

"""The files of a run: its directory, checkpoints, the best epoch, and its state as plain values."""

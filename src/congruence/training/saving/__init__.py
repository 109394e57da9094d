"""What a run leaves on disk: its directory, checkpoints, the best epoch, and its state as plain values."""

"""congruence: make a small model see the world the way a big one does."""

__version__ = "0.1.0"

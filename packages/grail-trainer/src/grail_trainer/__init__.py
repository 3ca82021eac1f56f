"""The GRAIL trainer: learn from verified rollouts, publish checkpoints."""

__version__ = "0.1.0"

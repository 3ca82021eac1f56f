"""Environments of GRAIL: problems, parsers, rewards."""

__version__ = "0.1.0"

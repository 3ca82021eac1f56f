"""The GRAIL validator: select, verify, score, set weights."""

__version__ = "0.1.0"

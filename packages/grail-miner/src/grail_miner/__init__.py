"""The GRAIL miner: generate, prove, pack, upload."""

__version__ = "0.1.0"

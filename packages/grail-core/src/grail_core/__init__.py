"""Protocol, proof, verification, chain, storage, beacon and checkpoints of GRAIL."""

__version__ = "0.1.0"

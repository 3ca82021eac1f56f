"""Gradient work in localnet, `--work gradient`: when blocks may move, what the view says, and what a run is summed up to."""

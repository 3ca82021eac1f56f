"""Gradient work: train the checkpoint on the assigned slice, seal, reveal, open."""

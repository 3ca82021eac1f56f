"""Pseudo-gradients as bytes and integers: layout, codec, commitments, files, merge. NumPy; no torch, no store, no chain."""

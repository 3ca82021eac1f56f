"""Predict what a program prints: programs from a grammar of our own, or from a pinned set."""

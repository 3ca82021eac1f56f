"""Models from nothing: a vocabulary, an architecture, a warm start, and what a constant answer would earn."""

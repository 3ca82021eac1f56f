"""Gradient work as a validator sees it: two sights, checks, scores, verdicts."""

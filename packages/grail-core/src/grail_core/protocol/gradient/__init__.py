"""Gradient work: what miners, validators and mergers of pseudo-gradients must agree on, pure."""

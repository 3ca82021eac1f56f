"""Held-out evaluation of published checkpoints beside the learning, in a child that costs it nothing."""

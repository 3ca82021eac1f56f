"""Verified rollouts as a folder that other tools read: its rows, its shards, what it says of itself, and its strict reader."""

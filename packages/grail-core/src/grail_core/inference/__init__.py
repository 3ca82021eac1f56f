"""Inference on request: what a client orders, what a node answers, and the receipt that binds the two."""

"""Inference on request: an HTTP server whose every answer carries a proof."""

"""The delta coder: weights in, bytes out, and back. It knows no network, no store and no protocol messages."""
